#!/usr/bin/env bash
# Trains on all workers of a TPU VM or pod (not run: tested without a TPU, against a stand-in for
# gcloud):
#   bash launch/tpu_pod.sh NAME ZONE --config=configs/covid_ct.py:scratch \
#     --workdir=/mnt/shared/runs/covid_ct --data_dir=/mnt/shared/data
# Copies this code to the workers, installs it there (they need Python 3.11 to 3.13) and starts the
# same command on each; JAX finds the others by itself. Workdir and data must be on a file system
# that is mounted on all workers. It ends when all have ended; typed again, it resumes from the
# newest checkpoint. Until it is finished, whatever happens to the TPU:
#   until bash launch/tpu_pod.sh NAME ZONE ...; do sleep 60; done
# ASYNC=1 (environment) lets XLA run all-reduces beside convolutions. That is not the default: it was
# never run, and one report has NaN with it (jax-ml/jax, issue 38741).
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,13s/^# //p' "$0" >&2
  exit 2
fi
name=$1
where=(--zone="$2" --worker=all)
shift 2
flags=
if [ "${ASYNC:-0}" = 1 ]; then
  for flag in xla_enable_async_all_reduce xla_tpu_enable_async_collective_fusion \
    xla_tpu_enable_async_collective_fusion_fuse_all_reduce \
    xla_tpu_enable_async_collective_fusion_multiple_steps \
    xla_tpu_overlap_compute_collective_tc; do
    flags+=" --$flag=true"
  done
  flags="export LIBTPU_INIT_ARGS='$flags'"
fi
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tar -czf "$folder/jaxcovid.tar.gz" --exclude=__pycache__ requirements.txt configs jaxcovid launch
gcloud compute tpus tpu-vm scp "$folder/jaxcovid.tar.gz" "$name:" "${where[@]}"
gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --command="set -eo pipefail
mkdir -p jaxcovid
tar -xzf jaxcovid.tar.gz -C jaxcovid
cd jaxcovid
source launch/environment.sh
environment requirements.txt launch/requirements-tpu.txt
$flags
exec python -m jaxcovid.train$(printf ' %q' "$@")"
