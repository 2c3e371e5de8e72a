#!/usr/bin/env bash
# Trains with several processes on this machine, which share the batch:
#   bash launch/local.sh N [OPTIONS OF jaxcovid.train]
# With GPUs each process takes one, number 0 to N-1. One process uses all of them as well: several
# are for trying out what a cluster does. If one fails, the others are ended and all start again
# from the last checkpoint, at most RESTARTS times (environment, default 3). SIGTERM and Ctrl-C are
# passed on: the run saves its step and the same command resumes. PORT: of the coordinator, on
# 127.0.0.1 only; default a free one.
set -euo pipefail
if ! [[ ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,8s/^# //p' "$0" >&2
  exit 2
fi
count=$1
shift
python=${PYTHON:-python}
stopping=
pids=()

# The processes agree on the step at which they end.
stop() {
  stopping=1
  kill -TERM "${pids[@]}" 2>/dev/null || true
}
trap stop TERM INT

for ((attempt = 0; ; attempt++)); do
  port=${PORT:-$("$python" -c 'import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])')}
  pids=()
  for ((i = 0; i < count; i++)); do
    # Children do not get the terminal's Ctrl-C themselves: stop() passes it on.
    JAX_LOCAL_DEVICE_IDS=${JAX_LOCAL_DEVICE_IDS:-$i} setsid "$python" -m jaxcovid.train \
      --coordinator_address="127.0.0.1:$port" --num_processes="$count" --process_id="$i" "$@" &
    pids+=($!)
  done

  status=0
  killer=
  while ((${#pids[@]} > 0)); do
    code=0
    wait -n -p ended "${pids[@]}" || code=$?
    [ -n "${ended:-}" ] || continue # a signal came
    left=()
    for pid in "${pids[@]}"; do [ "$pid" = "$ended" ] || left+=("$pid"); done
    pids=("${left[@]}")
    if ((code != 143 || status == 0)); then ((code == 0)) || status=$code; fi
    if ((code != 0 && code != 143 && ${#pids[@]} > 0)) && [ -z "$killer" ]; then
      # The others notice by themselves; who is still there after a minute and a half is ended.
      (sleep 90 && kill -KILL "${pids[@]}") 2>/dev/null &
      killer=$!
    fi
  done
  [ -z "$killer" ] || kill "$killer" 2>/dev/null || true
  if ((status == 0 || status == 143)) || [ -n "$stopping" ]; then exit "$status"; fi
  if ((attempt >= ${RESTARTS:-3})); then
    echo "launch/local.sh: a process ended with status $status, restarts are used up" >&2
    exit "$status"
  fi
  echo "launch/local.sh: a process ended with status $status; all start again" >&2
done
