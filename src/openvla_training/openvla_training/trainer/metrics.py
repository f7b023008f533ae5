"""Metrics of predictions: loss, action-token accuracy, and errors in robot units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.model.vla import VLAOutput
from openvla_training.trainer.data.batch import Batch, ValidationBatch, unnormalise_actions
from openvla_training.trainer.objective import Objective


@dataclass(frozen=True)
class Metrics:
    """Metrics of a validation.

    Attributes:
        loss: Mean loss.
        accuracy: Share of action tokens that are predicted exactly.
        l1: Mean absolute error of each dimension: m, rad, gripper opening.
        predicted: Predicted actions (N, 7).
        true: True actions (N, 7).
    """

    loss: float
    accuracy: float
    l1: tuple[float, ...]
    predicted: NDArray[np.float32] = field(repr=False, compare=False)
    true: NDArray[np.float32] = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The metrics without the actions."""
        return {"loss": self.loss, "accuracy": self.accuracy, "l1": list(self.l1)}


@torch.no_grad()
def validate(
    forward: Callable[[Batch], VLAOutput],
    objective: Objective,
    checkpoint: Checkpoint,
    samples: Sequence[ValidationBatch],
) -> Metrics:
    """Compute teacher-forced metrics. Leaves the model in eval mode.

    Args:
        forward: The forward pass of the run.
        objective: The loss.
        checkpoint: The model, with its statistics.
        samples: Held-out samples.

    Returns:
        The metrics over all samples.
    """
    losses, right, predicted = [], [], []
    checkpoint.model.eval()
    for part in samples:
        output = forward(part.batch)
        losses.append(float(objective(output)) * len(part.actions))
        ids, targets = action_ids(output, len(part.actions))
        right.append(ids == targets)
        predicted.append(unnormalise_actions(checkpoint, checkpoint.action_tokenizer.decode(ids), part.names))
    actions, true = np.concatenate(predicted), np.concatenate([part.actions for part in samples])
    errors = np.abs(actions - true).mean(0)
    accuracy = float(np.concatenate(right).mean())
    return Metrics(sum(losses) / len(true), accuracy, tuple(float(e) for e in errors), actions, true)


def token_accuracy(output: VLAOutput, first_id: int) -> float:
    """Share of the labelled action tokens (ids from `first_id`) that the forward pass predicts exactly."""
    assert output.label_logits is not None and output.label_targets is not None
    action = output.label_targets >= first_id
    return float((output.label_logits.argmax(-1) == output.label_targets)[action].float().mean())


def mean_absolute_error(output: VLAOutput, checkpoint: Checkpoint, names: tuple[str, ...]) -> NDArray[np.floating]:
    """Mean absolute error (7,) of a training batch in robot units, relative to the centres of the true bins."""
    decode = checkpoint.action_tokenizer.decode
    predicted, true = (unnormalise_actions(checkpoint, decode(ids), names) for ids in action_ids(output, len(names)))
    return np.abs(predicted - true).mean(0)


def action_ids(output: VLAOutput, samples: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Most probable and true ids (B, 7) of the action tokens."""
    assert output.label_logits is not None and output.label_targets is not None
    both = (output.label_logits.argmax(-1), output.label_targets)
    ids, targets = (tensor.detach().cpu().numpy().reshape(samples, -1)[:, :-1] for tensor in both)
    return ids, targets
