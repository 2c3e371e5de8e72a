#!/usr/bin/env bash
# Sets up .venv and runs every check. Arguments go to pytest: launch/test.sh -k pipeline
# With JAXCOVID_DATA naming a folder of real data sets, the tests that need them run too.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh

environment requirements.txt tests/requirements.txt
ruff check .
ruff format --check .
shellcheck -x launch/*.sh launch/slurm.sbatch
python -m pytest -n 2 --dist loadfile --durations 10 "$@"
