#!/usr/bin/env bash
# The paper's tables with our figures beside the published ones, on one page:
#   bash launch/paper_tables.sh DATA ROOT [--quick] [--tables=V,VI,ablation] [OPTIONS]
# DATA holds the published data sets in the folders that docs/data.md names; what is not there is
# left out, and the page says so. ROOT gets the prepared data, all workdirs, tables.html and
# tables.md. --quick takes images of 128 pixels and 5 epochs, and says so on the page. OPTIONS go to
# all trainings, as in --config.model.dtype=bfloat16. Environment:
#   SEEDS  trains everything so many times (1)
#   SLURM  options of sbatch: the trainings run as arrays of jobs, as in SLURM="--time=8:00:00"
# Started again, it skips what is finished and resumes the rest.
set -euo pipefail
if [ $# -lt 2 ] || [ ! -d "$1" ]; then
  sed -n '2,10s/^# //p' "$0" >&2
  exit 2
fi
data=$(cd "$1" && pwd)
mkdir -p "$2"
root=$(cd "$2" && pwd)
shift 2
plan=("$root" --seeds="${SEEDS:-1}" "$@")
cd "$(dirname "$0")/.."
source launch/environment.sh
environment requirements.txt

# prepare NAME FOLDER [OPTIONS]: if there is such a folder; what is prepared is left as it is
prepare() {
  local name=$1 folder=$data/$2
  shift 2
  if [ -d "$folder" ]; then
    python -m jaxcovid.prepare "$name" --source="$folder" --data_dir="$root/data" "$@"
  fi
}

prepare ct_cov19 CT-COV19
prepare covid_ct COVID-CT
prepare sars_cov_2_ct SARS-CoV-2-CT-scan
prepare chestxray14 ChestX-ray14 --allow_missing
prepare chest_xray_pneumonia chest_xray --allow_missing
prepare covid_chestxray covid-chestxray-dataset --allow_missing

for level in 0 1 2; do
  lines=$(python launch/paper_plan.py trainings "${plan[@]}" --level="$level")
  mapfile -t trainings <<<"$lines"
  if [ -n "${SLURM:-}" ] && [ -n "${trainings[0]}" ]; then
    # shellcheck disable=SC2086
    sbatch --wait --array="0-$((${#trainings[@]} - 1))" $SLURM launch/slurm.sbatch \
      -- "${trainings[@]}"
    continue
  fi
  for options in "${trainings[@]}"; do
    [ -z "$options" ] || eval "python -m jaxcovid.train $options"
  done
done
lines=$(python launch/paper_plan.py evaluations "${plan[@]}")
mapfile -t evaluations <<<"$lines"
for options in "${evaluations[@]}"; do
  [ -z "$options" ] || eval "python -m jaxcovid.evaluate $options"
done
python launch/paper_page.py "${plan[@]}"
