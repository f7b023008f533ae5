"""Training steps, states and estimates on the device that there is, with nothing but torch and peft installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from policy_bench.models import random_checkpoint
from train_bench.__main__ import random_batch

from openvla_policy.model.config import OpenVLAConfig, tiny
from openvla_training.trainer.config import load_config
from openvla_training.trainer.errors import explain
from openvla_training.trainer.parallel import World
from openvla_training.trainer.state import load_state, save_state, states
from openvla_training.trainer.train_step import Learner

SHAPE = tiny(image_size=28, vision_width=32, vision_depth=2, vision_heads=2, hidden_size=64, layers=2)
EVERYWHERE = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def learner(device: str, strategy: str, shape: OpenVLAConfig = SHAPE, **more: object) -> Learner:
    values = {"output": "o", "data": "d", "dataset_name": "n", "checkpoint": "c", "learning_rate": 1e-3} | more
    config = load_config(None, [f"{key}={value}" for key, value in values.items()] + [f"strategy={strategy}"])
    return Learner(random_checkpoint(shape, "fp32", torch.device(device)), config, torch.device(device), World())


@EVERYWHERE
@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_bf16_steps_learn_as_those_in_fp32(device: str, strategy: str) -> None:
    losses = {}
    for name, more in (
        ("fp32", {"precision": "fp32"}),
        ("bf16", {}),
        ("saving", {"activation_checkpointing": "true", "micro_batch_size": 2}),
    ):
        of = learner(device, strategy, **more)
        batch = random_batch(of.checkpoint, 4)
        losses[name] = [of.step(batch, number).loss for number in range(4)]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["saving"] == pytest.approx(losses["bf16"], rel=0.02)
    assert losses["fp32"][-1] < losses["fp32"][0]


@EVERYWHERE
def test_copies_that_autocast_does_not_keep_change_no_number(device: str, monkeypatch) -> None:
    """With activations computed again autocast keeps no copies of weights; with them the losses are the same bits."""
    autocast, losses = torch.autocast, []
    for keep in (False, True):

        def kept(*arguments, cache_enabled, keep=keep):
            assert not cache_enabled
            return autocast(*arguments, cache_enabled=keep)

        with monkeypatch.context() as patch:
            of = learner(device, "full", activation_checkpointing="true")
            batch = random_batch(of.checkpoint, 4)
            patch.setattr("openvla_training.trainer.train_step.torch.autocast", kept)
            losses.append([of.step(batch, number).loss for number in range(3)])
    assert losses[0] == losses[1]


@EVERYWHERE
def test_a_state_goes_back_onto_the_device(device: str, tmp_path: Path) -> None:
    one, two = (learner(device, "lora", lora_rank=4) for _ in range(2))
    batch = random_batch(one.checkpoint, 4)
    for number in range(2):
        one.step(batch, number)
    facts = {"step": 2, "run": "r", "metrics": None}
    save_state(tmp_path, one.model, one.optimizers, facts, World(), 1)
    load_state(states(tmp_path)[-1], two.model, two.optimizers, "r", World())
    assert two.step(batch, 2).loss == one.step(batch, 2).loss
    assert all(p.device.type == device for p in two.trained)


@pytest.mark.gpu
def test_a_gpu_that_is_full_is_explained() -> None:
    of = learner("cuda", "full")
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(2**42, dtype=torch.uint8, device="cuda")
    said = str(explain(caught.value, of.config, SHAPE, torch.device("cuda"), World(), 1))
    assert "out of memory at step 1" in said and "is another program on this GPU" in said


@pytest.mark.gpu
def test_the_peak_of_a_step_is_near_the_estimate() -> None:
    from openvla_training.trainer.dry_run import need

    shape = tiny(image_size=224, vision_width=768, vision_depth=8, vision_heads=12, hidden_size=1536, layers=12)
    of = learner("cuda", "full", shape)
    batch = random_batch(of.checkpoint, 16)
    torch.cuda.reset_peak_memory_stats()
    for number in range(2):
        of.step(batch, number)
    assert torch.cuda.max_memory_allocated() == pytest.approx(need(of.config, shape, 16).total, rel=0.3)
