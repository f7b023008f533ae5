"""Fine-tuning strategies: the paper's Table 1, and what each one trains."""

from __future__ import annotations

import pytest
import torch

from openvla_policy.model.config import openvla_7b, siglip_7b, tiny
from openvla_policy.model.vla import OpenVLA
from openvla_training.trainer.strategies import STRATEGIES, apply_strategy, trainable_parameters

SMALL = tiny(image_size=28, vision_width=16, vision_depth=2, vision_heads=2, hidden_size=32, layers=2)


@pytest.mark.parametrize(
    ("name", "rank", "millions", "fused"),
    [  # millions: the paper's Table 1 (SigLIP alone, footnote 2); fused: the released model's counts
        ("full", 32, 7188.1, 7541.2),
        ("last_layer", 32, 465.1, 465.1),
        ("frozen_vision", 32, 6760.4, 6810.3),
        ("sandwich", 32, 914.2, 1267.3),
        ("lora", 32, 97.6, 110.8),
        ("lora", 64, 195.2, 221.7),
        ("qlora", 32, 97.6, 110.8),
    ],
)
def test_parameter_counts_are_the_papers(name: str, rank: int, millions: float, fused: float) -> None:
    counts = [trainable_parameters(shape(), STRATEGIES[name], rank) / 1e6 for shape in (siglip_7b, openvla_7b)]
    assert [round(count, 1) for count in counts] == [millions, fused]


@pytest.mark.parametrize("name", ["full", "last_layer", "frozen_vision", "sandwich", "lora"])
def test_counted_parameters_are_the_trained_ones(name: str) -> None:
    torch.manual_seed(0)
    model, strategy = OpenVLA(SMALL), STRATEGIES[name]
    apply_strategy(model, strategy, rank=4)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == trainable_parameters(SMALL, strategy, rank=4)

    ids = torch.randint(0, 500, (2, 9))
    model(ids, torch.randn(2, 6, 28, 28), labels=ids).loss.backward()
    for parameter in model.parameters():
        assert parameter.requires_grad or parameter.grad is None
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
