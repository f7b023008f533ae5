#!/usr/bin/env bash
# Everything there is to measure on a machine with an NVIDIA GPU, in one call: bash scripts/gpu.bash [FOLDER [OPTION…]]
# OPTIONs go to policy_bench (python -m policy_bench --help).
#
# Needs Python >= 3.11 with torch, transformers, tokenizers, safetensors, rich, matplotlib and pytest; no ROS, no set-up:
# the packages are taken from this source tree. Without bitsandbytes or torchao their rows say "not installed".
# JSON, picture and log are left in FOLDER (default: $OUT, else outputs/bench). About 8 minutes on an H200.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
out="$(realpath -m -- "${1:-${OUT:-outputs/bench}}")"
mkdir -p "$out"
export PYTHONPATH="$PWD/src/openvla_policy:$PWD/src/openvla_ros:$PWD/test/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1
python="${PYTHON:-python3}"
status=0

if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv; fi
{
    # First what is quick and says whether the rest can be believed, then the figures.
    "$python" -m pytest -q -p no:cacheprovider -m gpu test/unit/test_precision.py || status=1
    "$python" -m policy_bench --output "$out" --episodes "${EPISODES:-0}" --seconds "${SECONDS_EACH:-12}" "${@:2}" || status=1
} 2>&1 | tee "$out/gpu.log"
exit "$status"
