#!/usr/bin/env bash
# Sets up .venv and runs the tests, in less than ten minutes on two cores.
#
#   bash launch/test.sh              every module, and one run that is killed and resumed
#   bash launch/test.sh --all        the long tests too: faults, fuzzing, SLURM, several processes, ...
#   bash launch/test.sh -k pipeline  other arguments go to pytest
#
# With JAXCOVID_DATA naming a folder of real data sets, the tests that need them run too.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh

selection=(-m "not long")
if [ "${1:-}" = --all ]; then
  selection=()
  shift
fi
environment requirements.txt tests/requirements.txt
ruff check .
ruff format --check .
mypy
shellcheck -x launch/*.sh launch/slurm.sbatch .ci/run
python -m pytest -n 2 --dist worksteal --durations 10 "${selection[@]}" "$@"
