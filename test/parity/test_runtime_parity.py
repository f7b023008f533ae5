"""Every runtime gives the reference's tokens, also with quantised layers; resizing equals Pillow's on every device."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from openvla_policy.contract.image import ImagePreparation
from openvla_policy.contract.observation import Observation
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.local_policy import LocalPolicy

FAST = ["static", "draft"]


def pixels(policy, images, run):
    return policy.preparation(images[run["image"]])[None].to(policy.dtype)


def decode(policy, images, runs, guess=None):
    return [
        policy.runtime.generate([run["input_ids_used"]], pixels(policy, images, run), 7, [guess]).ids[0].tolist()
        for run in runs
    ]


@pytest.mark.parametrize("name", FAST)
def test_greedy_tokens_of_every_run(policy, runs, images, name):
    fast = LocalPolicy(policy.checkpoint, unnorm_key="fake_bridge", runtime=name)
    assert decode(fast, images, runs) == [run["generated_ids"] for run in runs]
    other = runs[7]["generated_ids"]
    assert decode(fast, images, runs[:5], other) == [run["generated_ids"] for run in runs[:5]]


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("options", [{"vocabulary": "actions"}, {"token_rank": 2}])
def test_other_choices_are_the_eager_ones(policy, runs, images, name, options):
    plain = LocalPolicy(policy.checkpoint, unnorm_key="fake_bridge", **options)
    fast = LocalPolicy(policy.checkpoint, unnorm_key="fake_bridge", runtime=name, **options)
    assert decode(fast, images, runs[:6]) == decode(plain, images, runs[:6])


@pytest.mark.parametrize("name", FAST)
def test_a_batch_of_unequal_prompts(policy, runs, images, name):
    chosen = [runs[index] for index in (0, 5, 8, 10, 12)]
    fast = LocalPolicy(policy.checkpoint, unnorm_key="fake_bridge", runtime=name)
    image = torch.cat([pixels(fast, images, run) for run in chosen])
    generated = fast.runtime.generate([run["input_ids_used"] for run in chosen], image)
    assert generated.ids.tolist() == [run["generated_ids"] for run in chosen]


def test_bf16_differs_from_eager_at_ties_alone(reference, runs, images):
    """Other matrix shapes round differently: the tokens are the eager ones except where two are nearly equal.

    As good as equal: their logits lie within two steps of bf16 (2^-8 of their size each).
    """
    plain = load_policy(reference / "fused_tiny/checkpoint", unnorm_key="fake_bridge", precision="bf16", device="cpu")
    wanted = decode(plain, images, runs)
    same = 0
    for name in FAST:
        fast = LocalPolicy(plain.checkpoint, unnorm_key="fake_bridge", runtime=name)
        for run, eager, ids in zip(runs, wanted, decode(fast, images, runs), strict=True):
            if ids == eager:
                same += 1
                continue
            at = next(n for n in range(7) if ids[n] != eager[n])
            with torch.inference_mode():
                seen = torch.tensor([[*run["input_ids_used"], *eager[:at]]])
                logits = plain.checkpoint.model(seen, pixels(plain, images, run)).logits[0, -1].float()
            first, second = logits[eager[at]].item(), logits[ids[at]].item()
            assert abs(first - second) <= 2 * 2**-8 * abs(first), (name, run["run"], at, first, second)
    assert same >= 24  # of 30; all of them where this was written


def test_quantised_layers_run_in_every_runtime(reference, runs, images):
    small = load_policy(reference / "fused_tiny/checkpoint", unnorm_key="fake_bridge", precision="int8", device="cpu")
    assert "Linear8bitLt" in str(type(small.checkpoint.model.language_model.model.layers[0].mlp.up_proj))
    wanted = decode(small, images, runs[:3])
    for name in FAST:
        fast = LocalPolicy(small.checkpoint, unnorm_key="fake_bridge", runtime=name)
        # int8 activations are rounded row by row, so that other shapes change nothing but float32's last bits.
        assert decode(fast, images, runs[:3]) == wanted


def test_draft_guesses_from_the_streams_last_action(policy, runs, images):
    drafting = LocalPolicy(policy.checkpoint, unnorm_key="fake_bridge", runtime="draft")
    run = next(run for run in runs if run["kind"] == "processor")
    frame = Observation(images[run["image"]])
    first, again = (drafting.predict(frame, run["instruction"]) for _ in range(2))
    assert (first.token_ids == again.token_ids).all() and again.accepted == 6 > first.accepted
    drafting.reset()
    assert drafting.predict(frame, run["instruction"]).accepted == first.accepted
    assert policy.predict(frame, run["instruction"]).accepted is None
    stages = {"preparation", "vision", "prefill", "decode", "detokenise", "inference", "total"}
    assert again.timings.keys() == policy.predict(frame, run["instruction"]).timings.keys() == stages
    parts = sum(again.timings[stage] for stage in ("preparation", "vision", "prefill", "decode", "detokenise"))
    assert 0 < parts <= again.timings["total"]

    other = Observation(images["scene_256x256" if run["image"] != "scene_256x256" else "small_128x96"])
    drafting.predict_batch([frame, other], [run["instruction"]] * 2, streams=["left", "right"])
    swapped = drafting.predict_batch([other, frame], [run["instruction"]] * 2, streams=["right", "left"])
    assert [chunk.accepted for chunk in swapped] == [6, 6]
    with pytest.raises(ValueError, match="1 streams for 2 observations"):
        drafting.predict_batch([frame, other], [run["instruction"]] * 2, streams=["left"])


@pytest.mark.parametrize("strategy", ["resize-naive", "resize-crop", "letterbox"])
def test_resizing_on_the_device_is_pillows(reference, images, strategy):
    """Bit for bit; the arithmetic is exact, so that what holds on this CPU holds on a GPU."""
    for tag in ("fused_fp32", "siglip384"):
        config = json.loads((reference / f"processor/{tag}_{strategy}/preprocessor_config.json").read_text())
        preparation = ImagePreparation.from_config(config)
        for filter_, crop in ((preparation.resample, None), (preparation.resample, 0.9), (1, None), (2, None)):
            variant = replace(preparation, resample=filter_, crop_area=crop)
            for name in images if crop is None and filter_ == 3 else ("scene_640x480", "portrait_480x640"):
                mine = variant.resize_tensor(torch.from_numpy(images[name].copy())).numpy()
                assert np.array_equal(mine, variant.resize(images[name])), (tag, name, filter_, crop)


def test_prepare_takes_frames_of_any_sizes(policy, images):
    batch = policy.preparation.prepare([images["scene_640x480"], images["small_128x96"]])
    for row, name in enumerate(("scene_640x480", "small_128x96")):
        assert torch.equal(batch[row], policy.preparation(images[name]))
