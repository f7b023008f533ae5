#!/usr/bin/env bash
# Makes the shipped small policy (checkpoints/openvla-tiny-sim) anew, from nothing: demonstrations in the simulator,
# recorded and converted as a lab's would be, training, corrections of what the first policy gets wrong (DAgger,
# recorded the same way), training on both. Run by `make policy`; hours on 2 cores. Every step can be interrupted and
# goes on where it stopped. The result is left in outputs/sim/stage2/checkpoint.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
out=outputs/sim

# Bags of one folder to an RLDS data set of the same name; every frame is labelled by the expert for every cube.
convert() {
    openvla-convert "$out/$1"/bags-* --output "$out/rlds" --dataset-name "$1" --rate 5 \
        --actions expert/action_chunk --image-size camera --keep-failed
}

openvla-collect --episodes 800 --seed 0 --output "$out/demonstrations" \
    --label-all --wander 8 --noise 0.015 --noise-probability 0.5 --instances 2
convert demonstrations
openvla-train --config config/training/sim.yaml output="$out/stage1" data="[$out/rlds/demonstrations]" \
    steps=2500 decay_from=1.0

openvla-collect --role dagger --checkpoint "$out/stage1/checkpoint" --episodes 400 --seed 500000 --max-steps 18 \
    --output "$out/corrections" --label-all --instances 2
convert corrections
openvla-train --config config/training/sim.yaml output="$out/stage2" checkpoint="$out/stage1/checkpoint" \
    data="[$out/rlds/demonstrations, $out/rlds/corrections]"

echo "made $out/stage2/checkpoint; judge it: make demo ARGS='--checkpoint $out/stage2/checkpoint --episodes 50'"
