#!/usr/bin/env bash
# The paper's adaptation experiment at small scale: a policy pretrained on cubes of two colours learns the third by LoRA
# from at most 50 demonstrations. Measures its success before and after, and that of a policy trained on these
# demonstrations from scratch. Needs the recordings of scripts/policy.bash (first step of `make policy`). Takes hours on 2
# cores; an interrupted run resumes where it stopped. The table is printed and written to $OUT/adaptation.json.
# Environment (a trial run in minutes: OUT=outputs/try RLDS=… PRETRAIN=4 LORA=4 SCRATCH=4 RECORD=6 EPISODES=2 BATCH=8):
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
out="${OUT:-outputs/adaptation}" rlds="${RLDS:-outputs/sim/rlds/demonstrations}"
third="${THIRD:-blue}" demonstrations="${DEMONSTRATIONS:-50}" record="${RECORD:-165}" # recordings; a third are of one colour
pretrain="${PRETRAIN:-3000}" lora="${LORA:-1000}" scratch="${SCRATCH:-700}"           # steps
episodes="${EPISODES:-50}"                                                           # of each evaluation
batch="${BATCH:-64}"                                                                 # samples a step
shape=(--config config/training/sim.yaml data.dataset_name=sim_cubes)

# Two colours: no instruction of this training names the third, though its cube is always in the image.
openvla-train "${shape[@]}" output.folder="$out/two" data.datasets="[$rlds]" data.sentences="^(?!.*$third)" \
    schedule.steps="$pretrain"

# The third: recordings in which the expert lifts that cube, without labels for the others; up to 40 random motions first,
# so that each has many poses of the arm.
openvla-collect --episodes "$record" --seed 910000 --output "$out/recordings" --wander 40 --noise 0.015 \
    --noise-probability 0.5 --instances 2
openvla-convert "$out/recordings"/bags-* --output "$out/rlds" --dataset-name third --rate 5 \
    --actions expert/action_chunk --image-size camera
chosen=(data.datasets="[$out/rlds/third]" data.sentences="$third" data.demonstrations="$demonstrations"
    optimizer.label_sigma=4)
openvla-train data.dataset_name=sim_cubes model.checkpoint="$out/two/checkpoint" output.folder="$out/lora" "${chosen[@]}" \
    model.strategy=lora model.lora_rank=32 model.lora_alpha=32 model.lora_dropout=0.15 \
    optimizer.learning_rate=4e-3 optimizer.weight_decay=0.05 schedule.final_learning_rate=1e-5 schedule.warmup_steps=20 \
    data.batch_size="$batch" data.augment="{crop_area: [0.8, 1.0]}" schedule.steps="$lora" \
    output.validate_every=200 output.save_every=200
openvla-train "${shape[@]}" output.folder="$out/scratch" "${chosen[@]}" data.batch_size="$batch" schedule.steps="$scratch" \
    output.validate_every=200 output.save_every=200

for policy in two lora scratch; do
    openvla-demo --checkpoint "$out/$policy/checkpoint" --instruction "lift the $third cube" --episodes "$episodes" \
        --seed 0 --max-steps 30 --real-time-factor 4 --output "$out/judged/$policy" --no-video
done
python - "$out" "$third" "$demonstrations" <<'PYTHON'
import json, sys
from pathlib import Path

out, third, demonstrations = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
names = {"two": "before: two colours only", "lora": f"after: LoRA on {third}", "scratch": f"from scratch on {third}"}
rates = {name: json.loads((out / "judged" / name / "summary.json").read_text())["success_rate"] for name in names}
(out / "adaptation.json").write_text(json.dumps({"third": third, "demonstrations": demonstrations, **rates}, indent=2))
print(f"success in lifting the {third} cube, at most {demonstrations} demonstrations of it")
for name, text in names.items():
    rate = rates[name]
    print(f"  {text:<28} {rate['value']:.0%} ± {rate['standard_error']:.0%}   ({rate['successes']} of {rate['trials']})")
PYTHON
