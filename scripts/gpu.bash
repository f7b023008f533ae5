#!/usr/bin/env bash
# Tests and benchmarks for a machine with an NVIDIA GPU: bash scripts/gpu.bash [FOLDER [OPTION…]]
# PARTS="tests policy train" by default; each takes up to 8 minutes on an H200.
# OPTIONs are passed to policy_bench or, if that is the only part, to train_bench (python -m train_bench --help).
#
# Needs Python >= 3.11 with torch, transformers, peft, tokenizers, safetensors, rich, OpenCV, matplotlib and pytest; neither
# ROS nor `make setup`: the packages are imported from this source tree. Without bitsandbytes or torchao, their precisions
# are reported as not installed. Writes JSON, figure and log to FOLDER (default: $OUT, else outputs/bench).
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
out="$(realpath -m -- "${1:-${OUT:-outputs/bench}}")"
parts="${PARTS:-tests policy train}"
mkdir -p "$out"
packages="$PWD/src/openvla_policy:$PWD/src/openvla_evaluation:$PWD/src/openvla_ros:$PWD/src/openvla_training:$PWD/test/benchmarks"
export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}" OPENVLA_HOME="$PWD" PYTHONUNBUFFERED=1
export PYTORCH_ALLOC_CONF="${PYTORCH_ALLOC_CONF:-expandable_segments:True}" # avoids fragmentation, since training fills the memory
python="${PYTHON:-python3}"
status=0

if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv; fi
{
    for part in $parts; do # tests first: they are quick, and without them the figures mean little
        case "$part" in
            tests) "$python" -m pytest -q -p no:cacheprovider -m gpu test/unit/policy/runtime/test_precision.py test/unit/training/trainer/test_training_devices.py || status=1 ;;
            policy) "$python" -m policy_bench --output "$out" --episodes "${EPISODES:-0}" --seconds "${SECONDS_EACH:-12}" "${@:2}" || status=1 ;;
            train)
                options=()
                if [ "$parts" = train ]; then options=("${@:2}"); fi
                "$python" -m train_bench --output "$out" "${options[@]}" || status=1
                ;;
            *) echo "PARTS: unknown part '$part'; choose from: tests, policy, train" >&2; exit 2 ;;
        esac
    done
    exit "$status"
} 2>&1 | tee "$out/gpu.log"
