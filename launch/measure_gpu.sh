#!/usr/bin/env bash
# Measures the GPU of this machine, unattended, in at most six minutes: training and inference beside
# PyTorch, eager and compiled, and beside plain Flax, in bfloat16 at three sizes of images.
#
#   bash launch/measure_gpu.sh DIR
#
# DIR gets a JSON file of each measurement (images/s of all rounds, peak memory, start), the log of
# each, the program that XLA compiled, and summary.json. What takes too long is ended and named
# there; what no time is left for is left out, the least important first. Runs with jax, flax, optax,
# numpy, absl-py, tabulate, matplotlib and PyTorch. Settings by environment variables:
#   PYTHON=python  LIMIT_S=350  BATCH=128  SIZES="256 128 64"  PEERS="torch torch_compile linen"
#   ROUNDS=3  ROUND_S=3
set -uo pipefail
if [ $# -ne 1 ]; then
  sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$out/cache} # compiled once for all parts
python=${PYTHON:-python} limit=${LIMIT_S:-350} batch=${BATCH:-128}
read -ra sizes <<<"${SIZES:-256 128 64}"
read -ra peers <<<"${PEERS:-torch torch_compile linen}"
shared=("--batch=$batch" --dtype=bfloat16 "--rounds=${ROUNDS:-3}" "--seconds=${ROUND_S:-3}")
: >"$out/parts.txt"

# part NAME COMMAND...: runs a command for at most the time that is left, and notes how it ended.
part() {
  local name=$1 left=$((limit - SECONDS)) start=$SECONDS status
  shift
  if [ $left -lt 15 ]; then
    echo "$name 0 no time was left" >>"$out/parts.txt"
    return
  fi
  timeout --kill-after=5 $((left < 170 ? left : 170)) "$@" >"$out/$name.log" 2>&1
  status=$?
  case $status in
    0) status="done" ;;
    124 | 137) status="ended: it took too long" ;;
    *) status="failed: exit $status, see $name.log" ;;
  esac
  echo "$name $((SECONDS - start)) $status" | tee -a "$out/parts.txt"
}

measure() { # MODE SIZE PEER
  part "$1-$2-$3" "$python" -m jaxcovid.benchmark "$1" "${shared[@]}" "--size=$2" "--peer=$3" \
    "--json=$out/$1-$2-$3.json"
}

part nvidia-smi nvidia-smi
for peer in "${peers[@]}"; do measure train "${sizes[0]}" "$peer"; done
part program "$python" -m jaxcovid.benchmarks.contestants.jax_network train "--batch=$batch" \
  --dtype=bfloat16 "--size=${sizes[0]}" --compile_only "--program=$out/program.hlo"
for peer in "${peers[@]}"; do
  if [ "$peer" != linen ]; then measure infer "${sizes[0]}" "$peer"; fi
done
for size in "${sizes[@]:1}"; do measure train "$size" "${peers[0]}"; done

"$python" - "$out" <<'SUMMARY'
import json
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])
summary = []
for line in (folder / "parts.txt").read_text().splitlines():
    name, seconds, status = line.split(" ", 2)
    part = {"part": name, "seconds": int(seconds), "status": status}
    file = folder / f"{name}.json"
    if file.exists():
        result = json.loads(file.read_text())
        peer = result["peer"]
        part |= {key: result[key] for key in ("device", "images_per_s", "peak_gib", "compile_s")}
        part |= {f"peer_{key}": peer.get(key) for key in ("framework", "images_per_s", "peak_gib")}
        part["ratio"] = peer["ratio"]
    summary.append(part)
(folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
print(json.dumps(summary, indent=1))
SUMMARY
