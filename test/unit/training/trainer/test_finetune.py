"""Fine-tuning: every strategy's loss curve, what it leaves unchanged, and the folder it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_training import SHAPE, train_toy

from openvla_policy.checkpoint.folder import load_folder
from openvla_policy.checkpoint.merge import merge_folder
from openvla_policy.contract.observation import Observation
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_training.trainer.cli import merge_main
from openvla_training.trainer.strategies import STRATEGIES
from openvla_training.trainer.trainer import Trainer

WHOLE_BLOCKS = SHAPE | {"vision_width": 64, "hidden_size": 64}  # nf4 holds whole blocks of 64, on every CPU
STEPS = 12
PARTS = {"vision": ("vision_backbone.",), "projector": ("projector.",), "first": ("language_model.model.layers.0.",)}
UNCHANGED = {
    "full": (),
    "last_layer": ("vision", "projector", "first"),
    "frozen_vision": ("vision",),
    "sandwich": ("first",),
    "lora": (),
    "qlora": (),
}


@pytest.fixture(scope="module")
def wide(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `base`, with matrices of whole blocks."""
    output = tmp_path_factory.mktemp("wide")
    train(output, data, steps=3, learning_rate=3e-3, **{"model.shape": WHOLE_BLOCKS})
    return output / "checkpoint"


def train(output: Path, data: Path, **options: object) -> Trainer:
    return train_toy(output, data, **({"steps": STEPS, "learning_rate": 1e-3, "final_learning_rate": 1e-3} | options))


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_strategy_follows_its_golden_curve(name: str, data: Path, tmp_path: Path, fixtures: Path, request) -> None:
    base = request.getfixturevalue("wide" if name == "qlora" else "base")
    trainer = train(tmp_path, data, checkpoint=base, strategy=name, lora_rank=8)
    expected = json.loads((fixtures / "golden" / "finetune_losses.json").read_text())[name]
    # The order of additions differs between processors, so curves drift apart by rounding alone.
    np.testing.assert_allclose(trainer.losses, expected, rtol=5e-3)
    assert np.mean(trainer.losses[-3:]) < np.mean(trainer.losses[:3])

    before, after = (load_folder(folder).model.state_dict() for folder in (base, tmp_path / "checkpoint"))
    for part, prefix in PARTS.items():
        same = all(torch.equal(before[key], after[key]) for key in before if key.startswith(prefix))
        assert same == (part in UNCHANGED[name]), part


@pytest.fixture(scope="module")
def adapted(data: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A finished LoRA run."""
    output = tmp_path_factory.mktemp("adapted")
    return train(output, data, checkpoint=base, strategy="lora", lora_rank=8, steps=40, learning_rate=5e-3)


def test_merged_policy_acts_like_the_trained_one(adapted: Trainer, base: Path) -> None:
    observation = Observation(np.full((28, 28, 3), 200, np.uint8))
    paths = (adapted.output / "checkpoint", base)
    merged, untrained = (load_policy(path).predict(observation, "push the box").actions for path in paths)
    trained = LocalPolicy(adapted.checkpoint).predict(observation, "push the box").actions
    np.testing.assert_allclose(merged, trained, atol=2e-3)  # one bin: merged weights are rounded to bf16
    assert np.abs(untrained - trained).max() > 1e-3


def test_merge_command_gives_the_same_weights(adapted: Trainer, tmp_path: Path) -> None:
    assert merge_main(["--adapter", str(adapted.output / "adapter"), "--output", str(tmp_path / "again")]) == 0
    assert_same_weights(tmp_path / "again", adapted.output / "checkpoint")


def test_merge_into_many_files_gives_the_same_weights(adapted: Trainer, tmp_path: Path) -> None:
    folder = merge_folder(adapted.output / "adapter", tmp_path / "many", shard_bytes=20_000)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 3
    assert not list(folder.glob("unfinished*"))
    assert_same_weights(folder, adapted.output / "checkpoint")


def test_merge_does_not_overwrite_its_adapter(adapted: Trainer) -> None:
    with pytest.raises(FileExistsError, match="the adapter is read from there"):
        merge_folder(adapted.output / "adapter", adapted.output / "adapter")


def assert_same_weights(one: Path, other: Path) -> None:
    weights, expected = (load_folder(folder).model.state_dict() for folder in (one, other))
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


def test_micro_batches_and_recomputed_activations_change_no_loss(data: Path, base: Path, tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", data, checkpoint=base, strategy="lora", steps=4)
    saving = {"micro_batch_size": 3, "activation_checkpointing": True}
    careful = train(tmp_path / "careful", data, checkpoint=base, strategy="lora", steps=4, **saving)
    np.testing.assert_allclose(careful.losses, plain.losses, rtol=1e-4)


def test_adapter_run_resumes_exactly(data: Path, base: Path, tmp_path: Path) -> None:
    options = {"checkpoint": base, "strategy": "lora", "lora_dropout": 0.2}
    whole = train(tmp_path / "whole", data, **options, steps=6)
    train(tmp_path / "parts", data, **options, steps=3)
    resumed = train(tmp_path / "parts", data, **options, steps=6)
    assert resumed.losses == whole.losses
    with pytest.raises(ValueError, match="strategy lora r=32; now: .*strategy full"):
        train(tmp_path / "parts", data, checkpoint=base, strategy="full")
