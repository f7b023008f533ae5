"""Memory and time estimates against what autograd really keeps, and the advice a dry run gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from openvla_policy.model.config import siglip_7b, tiny
from openvla_policy.model.vla import OpenVLA
from openvla_training.trainer.cli import main
from openvla_training.trainer.memory_estimate import PROMPT_TOKENS, estimate
from openvla_training.trainer.strategies import STRATEGIES

SMALL = tiny(image_size=56, vision_width=32, vision_depth=2, vision_heads=2, hidden_size=64, layers=3)


def test_flops_are_six_a_weight_and_position():
    """Two a weight and token forward, twice that backward, of the matrices that every position goes through."""
    found = estimate(SMALL, STRATEGIES["full"], samples=2, bf16=False)
    with torch.device("meta"):
        model = OpenVLA(SMALL)
    positions = SMALL.patches + PROMPT_TOKENS
    layers = sum(p.numel() for name, p in model.language_model.model.layers.named_parameters() if "proj" in name)
    least = 6 * layers * positions
    assert least < found.flops < 4 * least  # the rest: vision, projector, attention, head


@pytest.mark.parametrize("name", ["full", "last_layer"])
def test_activations_are_those_that_autograd_keeps(name: str):
    """Counted on the meta device as on a real one; a CPU keeps its own attention kernel's a little differently."""
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


def test_memory_of_the_papers_strategies_is_near_the_papers():
    """Table 1 measured, with SigLIP alone and batch 16 (footnote 2): 163.3, 51.4 and 64.0 GB."""
    for name, gigabytes in (("full", 163.3), ("last_layer", 51.4), ("sandwich", 64.0)):
        found = estimate(siglip_7b(), STRATEGIES[name], samples=16).total / 1e9
        assert found == pytest.approx(gigabytes, rel=0.25), name


def test_recomputed_activations_cost_flops_and_save_memory():
    plain, saving = (
        estimate(siglip_7b(), STRATEGIES["full"], samples=8, activation_checkpointing=c) for c in (False, True)
    )
    assert saving.activations < 0.2 * plain.activations and 1.2 < saving.flops / plain.flops < 1.4


def test_a_dry_run_starts_nothing_and_says_what_would_fit(tmp_path: Path, capsys):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(siglip_7b().to_dict()))
    arguments = ["--dry-run", f"output={tmp_path / 'run'}", "data=nowhere", "dataset_name=n", f"checkpoint={folder}"]
    assert main([*arguments, "--gpu", "h200", "batch_size=64"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "try micro_batch_size=64 activation_checkpointing=true (the step stays 64" in said, said
    assert not (tmp_path / "run").exists()
    assert main([*arguments, "--gpu", "h200", "strategy=last_layer", "batch_size=256"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "try micro_batch_size=64 (the step stays 256 samples)" in said, said
    assert main([*arguments, "--gpu", "abacus"]) == 2
    assert "'abacus' is unknown; choose one of h200" in capsys.readouterr().err


def test_a_dry_run_knows_what_several_gpus_share(tmp_path: Path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_dict()))
    arguments = ["--dry-run", "output=o", "data=d", "dataset_name=n", f"checkpoint={tmp_path}", "--gpu", "h200"]
    assert main([*arguments, "--gpus", "8", "epochs=27"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "a pass of 2 samples, strategy full, on each of 8 x h200" in said, said
    assert "of 7912 TFLOP/s" in said and "27 epochs are 27 times the data" in said, said
    assert main([*arguments, "--gpus", "8", "strategy=qlora"]) == 2
    assert "strategy: qlora runs on one process, not 8" in capsys.readouterr().err
    one, eight = (estimate(SMALL, STRATEGIES["full"], samples=2, processes=n) for n in (1, 8))
    assert eight.optimizer == one.optimizer / 8 and eight.gradients == one.gradients / 8
    assert eight.trained == one.trained and eight.activations == one.activations
