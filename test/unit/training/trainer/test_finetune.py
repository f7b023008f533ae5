"""Fine-tuning: every strategy's loss curve, what it leaves untouched, and the folder that comes out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_dataset import write_toy_dataset

from openvla_policy.checkpoint.folder import load_folder
from openvla_policy.contract.observation import Observation
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_training.trainer.cli import finetune_main, merge_main
from openvla_training.trainer.config import load_config
from openvla_training.trainer.strategies import STRATEGIES
from openvla_training.trainer.trainer import Trainer

SHAPE = {"image_size": 28, "vision_width": 16, "vision_depth": 2, "vision_heads": 2, "hidden_size": 32, "layers": 2}
WHOLE_BLOCKS = SHAPE | {"vision_width": 64, "hidden_size": 64}  # all that nf4 can hold is held so, on every CPU
STEPS = 12
WIDTHS = {"vision": ("vision_backbone.",), "projector": ("projector.",), "first": ("language_model.model.layers.0.",)}
UNTOUCHED = {
    "full": (),
    "last_layer": ("vision", "projector", "first"),
    "frozen_vision": ("vision",),
    "sandwich": ("first",),
    "lora": (),
    "qlora": (),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_dataset(tmp_path_factory.mktemp("rlds"))


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that has begun to learn the toy dataset."""
    return train(data, tmp_path_factory.mktemp("base"), steps=30, learning_rate=3e-3, model=str(SHAPE))[1]


@pytest.fixture(scope="module")
def wide(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Likewise, of rows of whole blocks."""
    folder = tmp_path_factory.mktemp("wide")
    return train(data, folder, steps=3, learning_rate=3e-3, model=str(WHOLE_BLOCKS))[1]


def train(data: Path, output: Path, **options: object) -> tuple[Trainer, Path]:
    values = {
        "output": output, "data": f"[{data}]", "dataset_name": "toy", "steps": STEPS, "batch_size": 8,
        "validate_every": 50, "save_every": 50, "precision": "fp32", "threads": 1, "learning_rate": 1e-3,
        "final_learning_rate": 1e-3,
    } | options  # fmt: skip
    trainer = Trainer(load_config(None, [f"{key}={value}" for key, value in values.items()]))
    return trainer, trainer.run()


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_each_strategy_follows_its_golden_curve(name: str, data: Path, tmp_path: Path, fixtures: Path, request):
    base = request.getfixturevalue("wide" if name == "qlora" else "base")
    trainer, folder = train(data, tmp_path / "run", checkpoint=base, strategy=name, lora_rank=8)
    golden = fixtures / "golden" / "finetune_losses.json"
    expected = json.loads(golden.read_text())[name]
    # The products' order differs between processors, so curves drift apart by rounding alone.
    np.testing.assert_allclose(trainer.losses, expected, rtol=5e-3)
    assert np.mean(trainer.losses[-3:]) < np.mean(trainer.losses[:3])

    before, after = load_folder(base).model.state_dict(), load_folder(folder).model.state_dict()
    for part, prefix in WIDTHS.items():
        same = all(torch.equal(before[key], after[key]) for key in before if key.startswith(prefix))
        assert same == (part in UNTOUCHED[name]), part


def test_an_adapter_is_left_beside_its_merged_policy(data: Path, base: Path, tmp_path: Path):
    options = {"checkpoint": base, "strategy": "lora", "lora_rank": 8, "steps": 40, "learning_rate": 5e-3}
    trainer, merged = train(data, tmp_path / "run", **options)
    image = Observation(np.full((28, 28, 3), 200, np.uint8))
    answers = [load_policy(path).predict(image, "push the box").actions for path in (merged, base)]
    live = LocalPolicy(trainer.checkpoint).predict(image, "push the box").actions
    np.testing.assert_allclose(answers[0], live, atol=2e-3)  # one bin, as merged weights are rounded to bf16
    assert np.abs(answers[1] - live).max() > 1e-3

    assert merge_main(["--adapter", str(tmp_path / "run" / "adapter"), "--output", str(tmp_path / "again")]) == 0
    again, once = load_folder(tmp_path / "again").model.state_dict(), load_folder(merged).model.state_dict()
    assert all(torch.equal(again[key], once[key]) for key in once)


def test_merging_in_many_files_gives_the_same_weights(data: Path, base: Path, tmp_path: Path):
    from openvla_policy.checkpoint.merge import merge_folder

    _, merged = train(data, tmp_path / "run", checkpoint=base, strategy="lora", lora_rank=4, steps=2)
    folder = merge_folder(tmp_path / "run" / "adapter", tmp_path / "many", shard_bytes=20_000)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 3 and not list(folder.glob("unfinished*"))
    many, once = load_folder(folder).model.state_dict(), load_folder(merged).model.state_dict()
    assert all(torch.equal(many[key], once[key]) for key in once)
    with pytest.raises(FileExistsError, match="the adapter is read from there"):
        merge_folder(tmp_path / "run" / "adapter", tmp_path / "run" / "adapter")


def test_micro_batches_and_recomputed_activations_change_nothing(data: Path, base: Path, tmp_path: Path):
    plain, _ = train(data, tmp_path / "plain", checkpoint=base, strategy="lora", steps=4)
    saving = {"micro_batch_size": 3, "activation_checkpointing": True}
    careful, _ = train(data, tmp_path / "careful", checkpoint=base, strategy="lora", steps=4, **saving)
    np.testing.assert_allclose(careful.losses, plain.losses, rtol=1e-4)


def test_a_killed_adapter_run_goes_on(data: Path, base: Path, tmp_path: Path):
    options = {"checkpoint": base, "strategy": "lora", "lora_dropout": 0.2}
    whole, _ = train(data, tmp_path / "whole", **options, steps=6)
    train(data, tmp_path / "parts", **options, steps=3)
    resumed, _ = train(data, tmp_path / "parts", **options, steps=6)
    assert resumed.losses == whole.losses
    with pytest.raises(ValueError, match="strategy lora r=32; now: .*strategy full"):
        train(data, tmp_path / "parts", checkpoint=base, strategy="full")


def test_the_command_line_finds_the_data_and_writes_the_policy(data: Path, base: Path, tmp_path: Path, capsys):
    arguments = ["--checkpoint", str(base), "--data-dir", str(data), "--dataset-name", "toy"]
    arguments += ["--output", str(tmp_path / "run"), "steps=2", "batch_size=4", "threads=1", "precision=fp32"]
    assert finetune_main(arguments) == 0
    said = capsys.readouterr().out
    assert f"trained 2 steps of 4 samples; the policy is in {tmp_path / 'run' / 'checkpoint'}" in said
    training = json.loads((tmp_path / "run" / "checkpoint" / "training.json").read_text())
    assert training["strategy"] == "lora" and training["learning_rate"] == 5e-4
    assert finetune_main([*arguments, "lora_rank=0"]) == 2
    assert "lora_rank: 0 is not allowed" in capsys.readouterr().err
    arguments[arguments.index("toy")] = "tyo"
    assert finetune_main(arguments) == 2
    assert "holds 'toy' and no 'tyo'" in capsys.readouterr().err


def test_part_of_nothing_cannot_be_trained(data: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="strategy: 'lora' changes part of a trained policy; say which by checkpoint="):
        train(data, tmp_path, strategy="lora")
