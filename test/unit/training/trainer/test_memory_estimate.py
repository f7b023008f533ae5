"""Estimates of memory and time against what autograd keeps, and the advice of a dry run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from openvla_policy.model.config import siglip_7b, tiny
from openvla_policy.model.vla import OpenVLA
from openvla_training.trainer.cli import main
from openvla_training.trainer.resources.memory_estimate import PROMPT_TOKENS, estimate
from openvla_training.trainer.strategies import STRATEGIES

SMALL = tiny(image_size=56, vision_width=32, vision_depth=2, vision_heads=2, hidden_size=64, layers=3)


def test_flops_are_six_per_weight_and_position() -> None:
    # Two per weight and token forward, twice that backward, of the matrices that every position passes.
    found = estimate(SMALL, STRATEGIES["full"], samples=2, bf16=False)
    with torch.device("meta"):
        model = OpenVLA(SMALL)
    positions = SMALL.patches + PROMPT_TOKENS
    layers = sum(p.numel() for name, p in model.language_model.model.layers.named_parameters() if "proj" in name)
    least = 6 * layers * positions
    assert least < found.flops < 4 * least  # the rest: vision, projector, attention, head


@pytest.mark.parametrize("name", ["full", "last_layer"])
def test_activations_are_those_that_autograd_keeps(name: str) -> None:
    # A CPU's attention kernel keeps slightly different tensors from that of the meta device.
    torch.manual_seed(0)
    model, kept = OpenVLA(SMALL), {}
    strategy = STRATEGIES[name]
    last = f"language_model.model.layers.{SMALL.text.num_hidden_layers - 1}."
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(strategy.trains(parameter_name, last))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(0, 500, (4, PROMPT_TOKENS))
    labels = ids.clone()
    labels[:, :-8] = -100
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(ids, torch.randn(4, 6, 56, 56), labels=labels)
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert estimate(SMALL, strategy, samples=4, bf16=False).activations == pytest.approx(real, rel=0.4)


# Table 1 of the paper, with SigLIP alone and batch 16 (footnote 2).
@pytest.mark.parametrize(("name", "gigabytes"), [("full", 163.3), ("last_layer", 51.4), ("sandwich", 64.0)])
def test_memory_is_near_the_papers_measurements(name: str, gigabytes: float) -> None:
    found = estimate(siglip_7b(), STRATEGIES[name], samples=16).total / 1e9
    assert found == pytest.approx(gigabytes, rel=0.25)


def test_recomputed_activations_cost_flops_and_save_memory() -> None:
    plain, saving = (
        estimate(siglip_7b(), STRATEGIES["full"], samples=8, activation_checkpointing=c) for c in (False, True)
    )
    assert saving.activations < 0.2 * plain.activations and 1.2 < saving.flops / plain.flops < 1.4


@pytest.fixture
def checkpoint_7b(tmp_path: Path) -> Path:
    """A folder with the shape of a 7B checkpoint."""
    (tmp_path / "config.json").write_text(json.dumps(siglip_7b().to_dict()))
    return tmp_path


def dry_run(checkpoint: Path, *more: str) -> list[str]:
    """Arguments of a dry run on an H200."""
    given = [f"output.folder={checkpoint / 'run'}", "data.datasets=nowhere", "data.dataset_name=n"]
    return ["--dry-run", "--gpu", "h200", *given, f"model.checkpoint={checkpoint}", *more]


@pytest.mark.parametrize(
    ("more", "advice"),
    [
        (
            ["data.batch_size=64"],
            "try parallel.micro_batch_size=64 parallel.activation_checkpointing=true (the step stays 64",
        ),
        (
            ["model.strategy=last_layer", "data.batch_size=256"],
            "try parallel.micro_batch_size=64 (the step stays 256 samples)",
        ),
    ],
)
def test_dry_run_starts_nothing_and_says_what_would_fit(
    more: list[str], advice: str, checkpoint_7b: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(dry_run(checkpoint_7b, *more)) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert advice in output, output
    assert not (checkpoint_7b / "run").exists()


def test_dry_run_names_the_known_gpus(checkpoint_7b: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*dry_run(checkpoint_7b), "--gpu", "abacus"]) == 2
    assert "'abacus' is unknown; choose one of h200" in capsys.readouterr().err


@pytest.fixture
def small_checkpoint(tmp_path: Path) -> Path:
    """A folder with the shape of a small checkpoint."""
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_dict()))
    return tmp_path


def test_dry_run_divides_the_work_among_gpus(small_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(dry_run(small_checkpoint, "--gpus", "8", "schedule.epochs=27")) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "a pass of 2 samples, strategy full, on each of 8 x h200" in output, output
    assert "of 7912 TFLOP/s" in output and "27 epochs are 27 times the data" in output, output


def test_dry_run_refuses_what_gpus_cannot_share(small_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(dry_run(small_checkpoint, "--gpus", "8", "model.strategy=qlora")) == 2
    assert "model.strategy: qlora runs on one process, not 8" in capsys.readouterr().err


def test_processes_share_gradients_and_optimizer_states() -> None:
    one, eight = (estimate(SMALL, STRATEGIES["full"], samples=2, processes=n) for n in (1, 8))
    assert eight.optimizer == one.optimizer / 8 and eight.gradients == one.gradients / 8
    assert eight.trained == one.trained and eight.activations == one.activations
