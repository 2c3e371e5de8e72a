#!/usr/bin/env bash
# Trains on all sources but one, tests on the one that is left out, and does so for each:
#   bash launch/leave_one_source_out.sh ROOT SOURCE,SOURCE[,...] [OPTIONS]
# SOURCES are prepared data sets with the class COVID-19, or such as covid_chestxray/without_eurorad,
# whose own test split is a source that is left out. OPTIONS go to all trainings, as in
# --config.preprocessing.size=256 --data_dir=DIR. Environment, names separated by blanks:
#   VARIANTS  of configs/unseen_source.py (scratch imagenet augmented)
#   SEEDS     of each (0)
#   LEFT      sources to leave out, for one machine each (all SOURCES)
#   BESIDE    data sets to train on in any case (none)
#   LUNGS     workdir of a network that segments, for the variants lungs and lesion
#   MASKS     data sets with masks, for the variant lesion (covid19_ct_seg)
# The table is ROOT/table.md. Started again, it skips what is finished and resumes the rest.
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,13s/^# //p' "$0" >&2
  exit 2
fi
mkdir -p "$1"
root=$(cd "$1" && pwd)
IFS=, read -ra sources <<<"$2"
shift 2
# shellcheck source=launch/options.sh
source "$(dirname "$0")/options.sh"
take_options "$@"
cd "$(dirname "$0")/.."
source launch/environment.sh
environment requirements.txt

# one SOURCE VARIANT SEED: trains without SOURCE and tests on it
one() {
  local left=$1 variant=$2 seed=$3 trained=() source workdir
  case $left in
    */without_*) trained=("$left") ;;
    *)
      for source in "${sources[@]}"; do
        [ "$source" = "$left" ] || trained+=("$source")
      done
      ;;
  esac
  # shellcheck disable=SC2206
  trained+=(${BESIDE:-})
  local more=()
  case $variant in
    lungs | lesion)
      more+=(--config.lungs.workdir="${LUNGS:?names no workdir of a network that segments}")
      ;;
  esac
  if [ "$variant" = lesion ]; then
    local masked=''
    for source in ${MASKS:-covid19_ct_seg}; do
      trained+=("$source")
      masked+="'$source',"
    done
    more+=(--config.mixture.unlabelled="($masked)")
  fi
  workdir=$root/${left//\//-}/$variant/$seed
  if [ -n "$(find "$workdir/evaluation/$left" -path '*/test/metrics.json' 2>/dev/null)" ]; then
    echo "$workdir is finished"
    return
  fi
  python -m jaxcovid.train --config="configs/unseen_source.py:$variant" --workdir="$workdir" \
    --config.dataset="$(IFS=+; echo "${trained[*]}")" --config.seed="$seed" \
    ${options[@]+"${options[@]}"} ${more[@]+"${more[@]}"}
  python -m jaxcovid.evaluate --workdir="$workdir" --split=test --dataset="$left" \
    ${data[@]+"${data[@]}"}
}

for left in ${LEFT:-${sources[*]}}; do
  for variant in ${VARIANTS:-scratch imagenet augmented}; do
    for seed in ${SEEDS:-0}; do
      one "$left" "$variant" "$seed"
    done
  done
done
python launch/unseen_table.py "$root" | tee "$root/table.md"
