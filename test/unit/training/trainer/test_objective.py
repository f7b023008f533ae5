"""The training loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from openvla_policy.contract.action_tokens import ActionTokenizer
from openvla_policy.model.vla import VLAOutput
from openvla_training.trainer.objective import Objective


def test_loss_without_sigma_is_cross_entropy() -> None:
    logits, targets = torch.randn(5, 300), torch.tensor([299, 44, 100, 2, 170])
    output = VLAOutput(label_logits=logits, label_targets=targets)
    loss = Objective(ActionTokenizer(300), 0.0, torch.device("cpu"))(output)
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets))


def test_soft_targets_prefer_near_misses() -> None:
    objective = Objective(ActionTokenizer(300), 2.0, torch.device("cpu"))

    def loss_of(predicted: int) -> float:
        logits = torch.full((1, 300), 0.0)
        logits[0, predicted] = 10.0
        return float(objective(VLAOutput(label_logits=logits, label_targets=torch.tensor([150]))))

    assert loss_of(150) < loss_of(151) < loss_of(153) < loss_of(200)


def test_text_tokens_have_no_soft_targets() -> None:
    logits, word = torch.randn(1, 300), torch.tensor([2])
    loss = Objective(ActionTokenizer(300), 2.0, torch.device("cpu"))(VLAOutput(label_logits=logits, label_targets=word))
    torch.testing.assert_close(loss, F.cross_entropy(logits, word))
