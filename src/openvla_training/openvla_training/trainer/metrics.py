"""Figures on held-out samples: loss, action-token accuracy, and errors in robot units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from openvla_policy.checkpoint.folder import Checkpoint
from openvla_policy.model.vla import VLAOutput
from openvla_training.trainer.batches import Batch, Batches
from openvla_training.trainer.frames import Frames
from openvla_training.trainer.objective import Objective

SAMPLES = 512
ROWS = 64  # a forward


@dataclass(frozen=True)
class Metrics:
    """Validation figures: loss, share of action tokens that are exactly right, and the mean |error| of each
    dimension in robot units (m, rad, gripper opening).
    """

    loss: float
    accuracy: float
    l1: tuple[float, ...]


@torch.no_grad()
def validate(
    forward: Callable[[Batch], VLAOutput],
    objective: Objective,
    checkpoint: Checkpoint,
    frames: Frames,
    dataset_name: str,
) -> Metrics:
    """Teacher-forced figures on up to 512 samples of `frames`, evenly spread. Leaves the model in eval mode."""
    tokenizer = checkpoint.action_tokenizer
    count = min(len(frames), SAMPLES)
    batches = Batches(frames, checkpoint, dataset_name, count, 0, None)
    chosen = np.linspace(0, len(frames) - 1, count).astype(np.int64)
    losses, predicted, true = [], [], []
    checkpoint.model.eval()
    for part in np.array_split(chosen, max(1, count // ROWS)):
        output = forward(batches.collate(part))
        losses.append(float(objective(output)) * len(part))
        assert output.label_logits is not None and output.label_targets is not None
        shape = (len(part), -1)
        predicted.append(output.label_logits.argmax(-1).cpu().numpy().reshape(shape)[:, :-1])
        true.append(output.label_targets.cpu().numpy().reshape(shape)[:, :-1])
    ids, targets = np.concatenate(predicted), np.concatenate(true)
    actions = checkpoint.statistics[dataset_name].unnormalise(tokenizer.decode(ids))
    errors = np.abs(actions - frames.actions[chosen]).mean(0)
    return Metrics(sum(losses) / count, float((ids == targets).mean()), tuple(float(e) for e in errors))


def token_accuracy(output: VLAOutput, first_id: int) -> float:
    """Share of the labelled action tokens (ids from `first_id` on) that the forward pass predicts exactly."""
    assert output.label_logits is not None and output.label_targets is not None
    action = output.label_targets >= first_id
    return float((output.label_logits.argmax(-1) == output.label_targets)[action].float().mean())
