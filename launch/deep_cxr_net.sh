#!/usr/bin/env bash
# The three stages of Deep-CXR-Net, one after the other, each evaluated on its test split:
#   bash launch/deep_cxr_net.sh WORKROOT [OPTIONS]
# OPTIONS go to all three trainings, as in --config.preprocessing.size=128 --data_dir=DIR.
# Environment: PART1 is chestxray14 (default) or chexpert, VARIANT of the configs (scratch, lite0).
# Needs the data sets PART1, chest_xray_pneumonia and covid_chestxray, prepared. Started again, it
# skips what is finished and resumes where it was ended.
set -euo pipefail
if [ $# -lt 1 ]; then
  sed -n '2,7s/^# //p' "$0" >&2
  exit 2
fi
mkdir -p "$1"
root=$(cd "$1" && pwd)
shift
# shellcheck source=launch/options.sh
source "$(dirname "$0")/options.sh"
take_options "$@"
cd "$(dirname "$0")/.."
source launch/environment.sh

# stage NAME CONFIG [OPTIONS]
stage() {
  local workdir=$root/$1 config=$2
  shift 2
  if [ -e "$workdir/evaluation/test/metrics.json" ]; then
    echo "$workdir is finished"
    return
  fi
  python -m jaxcovid.train --config="$config" --workdir="$workdir" ${options[@]+"${options[@]}"} "$@"
  python -m jaxcovid.evaluate --workdir="$workdir" --split=test ${data[@]+"${data[@]}"}
}

environment requirements.txt
variant=${VARIANT:-}
stage cxr_part1 "configs/cxr_part1.py:${PART1:-chestxray14}${variant:+,$variant}"
stage cxr_part2 "configs/cxr_part2.py:$variant"
stage deep_cxr_net "configs/deep_cxr_net.py:$variant" \
  --config.parts.part1.workdir="$root/cxr_part1" \
  --config.parts.part2.workdir="$root/cxr_part2"
echo "Done. The report: $root/deep_cxr_net/evaluation/test/report.html"
