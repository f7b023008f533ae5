#!/usr/bin/env bash
# Trains the shipped small policy (checkpoints/openvla-tiny-sim) from scratch: demonstrations in the simulator,
# recorded and converted as a lab's would be, training, corrections of what the first policy gets wrong (DAgger,
# recorded the same way), training on both. Run by `make policy`; two hours on 2 cores. Every step can be
# interrupted and resumes where it stopped. The result is left in outputs/sim/stage2/checkpoint.
# BAGS="DIR…" trains on these recordings (yours, or of openvla-collect) instead: BAGS=data/mine make policy
# Environment (a try-out in a minute: OUT=outputs/try DEMONSTRATIONS=8 CORRECTIONS=2 STEPS1=4 STEPS2=4 make policy):
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
out="${OUT:-outputs/sim}"
demonstrations="${DEMONSTRATIONS:-800}" corrections="${CORRECTIONS:-300}" # recordings
steps1="${STEPS1:-2000}" steps2="${STEPS2:-4000}"                         # of training

# Convert the bags of one folder to an RLDS dataset of the same name; the expert labels each frame for each cube.
convert() {
    openvla-convert "$out/$1"/bags-* --output "$out/rlds" --dataset-name "$1" --rate 5 \
        --actions expert/action_chunk --image-size camera --image-encoding jpeg --keep-failed --no-drop-noops --no-drop-first-zero
}

if [ -n "${BAGS:-}" ]; then
    read -ra bags <<< "$BAGS"
    openvla-convert "${bags[@]}" --output "$out/rlds" --dataset-name bags --image-size camera
    openvla-train --config config/training/sim.yaml output.folder="$out/bags" data.datasets="[$out/rlds/bags]" \
        schedule.steps="$steps1"
    echo "made $out/bags/checkpoint; judge it: make demo ARGS='--checkpoint $out/bags/checkpoint --episodes 50'"
    exit
fi

openvla-collect --episodes "$demonstrations" --seed 0 --output "$out/demonstrations" \
    --label-all --wander 8 --noise 0.015 --noise-probability 0.5 --instances 2
convert demonstrations
openvla-train --config config/training/sim.yaml output.folder="$out/stage1" data.datasets="[$out/rlds/demonstrations]" \
    schedule.steps="$steps1" schedule.decay_from=1.0

openvla-collect --role dagger --checkpoint "$out/stage1/checkpoint" --episodes "$corrections" --seed 500000 --max-steps 18 \
    --output "$out/corrections" --label-all --instances 2
convert corrections
openvla-train --config config/training/sim.yaml output.folder="$out/stage2" model.checkpoint="$out/stage1/checkpoint" \
    data.datasets="[$out/rlds/demonstrations, $out/rlds/corrections]" schedule.steps="$steps2"

echo "written: $out/stage2/checkpoint; evaluate it: make demo ARGS='--checkpoint $out/stage2/checkpoint --episodes 50'"
