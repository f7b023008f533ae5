"""Train steps, states and estimates on every device, with nothing but torch and peft installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from policy_bench.models import random_checkpoint
from train_bench.__main__ import random_batch

from openvla_policy.model.config import OpenVLAConfig, tiny
from openvla_training.trainer.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    OutputConfig,
    ParallelConfig,
    TrainConfig,
)
from openvla_training.trainer.errors import diagnose
from openvla_training.trainer.parallel import World
from openvla_training.trainer.resources.dry_run import estimate_run
from openvla_training.trainer.state import load_state, save_state, states
from openvla_training.trainer.train_step import TrainStep

SHAPE = tiny(image_size=28, vision_width=32, vision_depth=2, vision_heads=2, hidden_size=64, layers=2)
EVERYWHERE = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def train_step(device: str, model: ModelConfig, shape: OpenVLAConfig = SHAPE, **parallel: object) -> TrainStep:
    config = TrainConfig(
        output=OutputConfig("o"),
        data=DataConfig(datasets=("d",), dataset_name="n"),
        model=replace(model, checkpoint="c"),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        parallel=ParallelConfig(**parallel),
    )
    return TrainStep(random_checkpoint(shape, "fp32", torch.device(device)), config, torch.device(device), World())


@EVERYWHERE
@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_bf16_steps_learn_like_fp32_ones(device: str, strategy: str) -> None:
    losses = {}
    for name, parallel in (
        ("fp32", {"precision": "fp32"}),
        ("bf16", {}),
        ("saving", {"activation_checkpointing": True, "micro_batch_size": 2}),
    ):
        step = train_step(device, ModelConfig("c", strategy=strategy), **parallel)
        batch = random_batch(step.checkpoint, 4)
        losses[name] = [step.run(batch, number).loss for number in range(4)]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["saving"] == pytest.approx(losses["bf16"], rel=0.02)
    assert losses["fp32"][-1] < losses["fp32"][0]


@EVERYWHERE
def test_autocast_without_cached_weights_changes_no_bit(device: str, monkeypatch) -> None:
    autocast, losses = torch.autocast, []
    for cached in (False, True):

        def patched(*arguments, cache_enabled, cached=cached):
            assert not cache_enabled
            return autocast(*arguments, cache_enabled=cached)

        with monkeypatch.context() as patch:
            step = train_step(device, ModelConfig(), activation_checkpointing=True)
            batch = random_batch(step.checkpoint, 4)
            patch.setattr("openvla_training.trainer.train_step.torch.autocast", patched)
            losses.append([step.run(batch, number).loss for number in range(3)])
    assert losses[0] == losses[1]


@EVERYWHERE
def test_state_is_restored_onto_the_device(device: str, tmp_path: Path) -> None:
    one, two = (train_step(device, ModelConfig("c", strategy="lora", lora_rank=4)) for _ in range(2))
    batch = random_batch(one.checkpoint, 4)
    for number in range(2):
        one.run(batch, number)
    facts = {"step": 2, "run": "r", "metrics": None}
    save_state(tmp_path, one.model, one.optimizers, facts, World(), 1)
    load_state(states(tmp_path)[-1], two.model, two.optimizers, "r", World())
    assert two.run(batch, 2).loss == one.run(batch, 2).loss
    assert all(p.device.type == device for p in two.trained)


@pytest.mark.gpu
def test_full_gpu_is_explained() -> None:
    step = train_step("cuda", ModelConfig())
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(2**42, dtype=torch.uint8, device="cuda")
    message = str(diagnose(caught.value, step.config, SHAPE, torch.device("cuda"), World(), 1))
    assert "out of memory at step 1" in message and "does another program use this GPU" in message


@pytest.mark.gpu
def test_peak_memory_of_a_step_is_near_the_estimate() -> None:
    shape = tiny(image_size=224, vision_width=768, vision_depth=8, vision_heads=12, hidden_size=1536, layers=12)
    step = train_step("cuda", ModelConfig(), shape)
    batch = random_batch(step.checkpoint, 16)
    torch.cuda.reset_peak_memory_stats()
    for number in range(2):
        step.run(batch, number)
    assert torch.cuda.max_memory_allocated() == pytest.approx(estimate_run(step.config, shape, 16).total, rel=0.3)
