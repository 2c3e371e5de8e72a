#!/usr/bin/env bash
# From a fresh clone to a trained and evaluated network on synthetic CT slices, in minutes on a CPU.
# Needs Python 3.11 to 3.13. Started again, it resumes where it was ended, and reuses all it made.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh

environment requirements.txt
python -m jaxcovid.prepare phantom
python -m jaxcovid.audit phantom
python -m jaxcovid.train --config=configs/quickstart.py --workdir=runs/quickstart
python -m jaxcovid.evaluate --workdir=runs/quickstart --split=test

results=runs/quickstart/evaluation/test
echo "
Done. Open these in a browser or an image viewer:
  report           $PWD/$results/report.html
  ROC curve        $PWD/$results/roc.png
  heatmap gallery  $PWD/$results/heatmaps.png
  lungs, lesions   $PWD/$results/contours.png

To continue, type
  source .venv/bin/activate
and, for example, see what is left of the score when only the border of each slice is shown:
  python -m jaxcovid.evaluate --workdir=runs/quickstart --split=test --ablations
or look at images of your own on a local page:
  pip install -e '.[serve]'
  python -m jaxcovid.serve --workdir=runs/quickstart"
