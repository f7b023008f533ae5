"""LocalPolicy's options of the paper, and batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.checkpoint.tokenizer_training import train_tokenizer
from openvla_policy.contract.image import ImagePreparation, center_crop
from openvla_policy.contract.observation import Observation
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.contract.statistics import Statistics
from openvla_policy.model.config import tiny
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.local_policy import LocalPolicy

SENTENCES = ["lift the red cube", "put the small green cube to the left of the plate", "open", "wipe it"]


def bounds(scale: float, gripper: tuple[float, float] = (0.0, 1.0)) -> Statistics:
    low, high = [-scale] * 6 + [gripper[0]], [scale] * 6 + [gripper[1]]
    return Statistics.from_json({"action": {"q01": low, "q99": high, "mask": [True] * 7}})


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """One encoder, grouped-query attention, and free choices that leave the action tokens."""
    torch.manual_seed(0)
    config = tiny(fused=False, image_size=28, vision_width=32, vision_heads=2, hidden_size=64, layers=2, kv_heads=2)
    model = OpenVLA(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return Checkpoint(
        model=model,
        config=config,
        tokenizer=train_tokenizer([build_prompt(text) for text in SENTENCES], config.action_vocab_size),
        preparation=ImagePreparation.standard(28, ["half"]),
        statistics={"moves": bounds(0.05), "still": bounds(1e-4)},
    )


def frames(count: int) -> list[Observation]:
    rng = np.random.default_rng(0)
    sizes = [(48, 64), (30, 20), (28, 28), (100, 50)]
    return [Observation(rng.integers(0, 256, (*sizes[n % 4], 3), dtype=np.uint8)) for n in range(count)]


@pytest.mark.parametrize("vocabulary", ["full", "actions"])
def test_a_batch_gives_the_actions_of_single_calls(checkpoint, vocabulary):
    policy = LocalPolicy(checkpoint, key_per_request=True, vocabulary=vocabulary)
    keys = ["moves", "still", "moves", "still"]
    lengths = {len(checkpoint.tokenizer.encode_prompt(build_prompt(text))) for text in SENTENCES}
    assert len(lengths) >= 3
    batch = policy.predict_batch(frames(4), SENTENCES, keys)
    outside = 0
    for chunk, frame, sentence, key in zip(batch, frames(4), SENTENCES, keys, strict=True):
        alone = policy.predict_batch([frame], [sentence], [key])[0]
        assert (chunk.token_ids == alone.token_ids).all() and (chunk.actions == alone.actions).all()
        assert chunk.statistics_name == key and np.abs(chunk.actions[0, :6]).max() <= 0.05
        outside += (~policy.tokens.is_action(chunk.token_ids)).sum()
    assert (outside > 0) == (vocabulary == "full")  # tokens that are not actions are clipped to the nearest bin


def test_idle_actions_are_detected_and_requeried_on_request(checkpoint):
    scene = frames(2)
    plain = LocalPolicy(checkpoint, key_per_request=True)
    kept = plain.predict_batch(scene, SENTENCES[:2], ["still", "moves"])
    assert [chunk.idle for chunk in kept] == [True, False] and "requery" not in kept[0].timings
    policy = LocalPolicy(checkpoint, key_per_request=True, idle="requery", runtime="static")
    asked = policy.predict_batch(scene, SENTENCES[:2], ["still", "moves"])
    second = LocalPolicy(checkpoint, unnorm_key="still", token_rank=2).predict(scene[0], SENTENCES[0])
    assert (asked[0].token_ids == second.token_ids).all() and (asked[0].token_ids != kept[0].token_ids).any()
    assert (asked[1].token_ids == kept[1].token_ids).all() and asked[0].timings["requery"] > 0
    with pytest.raises(ValueError, match="idle: 'wait' is unknown; choose one of keep, requery"):
        LocalPolicy(checkpoint, unnorm_key="moves", idle="wait")  # type: ignore[arg-type]


def test_the_centre_crop_follows_resizing(checkpoint):
    frame = frames(1)[0]
    cropped = LocalPolicy(checkpoint, unnorm_key="moves", center_crop=True).predict(frame, SENTENCES[0])
    plain = LocalPolicy(checkpoint, unnorm_key="moves")
    by_hand = Observation(center_crop(checkpoint.preparation.resize(frame.image)))
    assert (cropped.actions == plain.predict(by_hand, SENTENCES[0]).actions).all()
    assert (cropped.token_ids != plain.predict(frame, SENTENCES[0]).token_ids).any()


def test_the_gripper_is_converted_to_the_contract(checkpoint):
    frame = frames(1)[0]
    plain = LocalPolicy(checkpoint, unnorm_key="moves").predict(frame, SENTENCES[0]).actions
    turned = LocalPolicy(checkpoint, unnorm_key="moves", gripper="closing").predict(frame, SENTENCES[0]).actions
    assert turned[0, 6] == 1 - plain[0, 6] != plain[0, 6] and (turned[0, :6] == plain[0, :6]).all()
    with pytest.raises(ValueError, match="gripper: 'relative_closing' is not determined by one action"):
        LocalPolicy(checkpoint, unnorm_key="moves", gripper="relative_closing")
