"""From frames to tokenised batches; which samples a step sees depends on the seed and the step's number alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.model.vla import IGNORE_INDEX
from openvla_training.trainer.config import AugmentConfig
from openvla_training.trainer.data.augment import Augment

if TYPE_CHECKING:  # which reads datasets
    from openvla_training.trainer.data.frames import Frames


@dataclass(frozen=True)
class Batch:
    """Token ids and labels (B, T), padded on the right; attention mask (B, T); images uint8 (B, H, W, 3).

    Where they come from a stream: `actions` float32 (B, horizon, 7), normalised; `origins`, for each sample its
    dataset, episode and step.
    """

    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor
    images: Tensor
    actions: Tensor | None = None
    origins: tuple[tuple[str, int, int], ...] = ()


def collate_tokens(
    prompts: Sequence[NDArray[np.int64]], actions: NDArray[np.int64], eos: int, pad: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, labels and attention mask (B, T) of prompts and action tokens (B, A), padded on the right.

    A sequence is prompt, action tokens, end-of-sequence; only the last two are labelled (reference:
    prismatic/vla/datasets/datasets.py, RLDSBatchTransform; util/data_utils.py, the collator).
    """
    answer = actions.shape[1] + 1
    length = max(len(prompt) for prompt in prompts) + answer
    ids = np.full((len(prompts), length), pad, np.int64)
    labels = np.full((len(prompts), length), IGNORE_INDEX, np.int64)
    mask = np.zeros((len(prompts), length), bool)
    for row, (prompt, action) in enumerate(zip(prompts, actions, strict=True)):
        end = len(prompt) + answer
        ids[row, :end] = np.concatenate([prompt, action, [eos]])
        labels[row, end - answer : end] = ids[row, end - answer : end]
        mask[row, :end] = True
    return torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(mask)


class Batches:
    """Draws batches from `frames`: every sample once an epoch, in an order made from (seed, epoch)."""

    def __init__(
        self,
        frames: Frames,
        checkpoint: Checkpoint,
        dataset_name: str,
        batch_size: int,
        seed: int,
        augment: AugmentConfig | None,
    ) -> None:
        if len(frames) < batch_size:
            raise ValueError(f"batch_size: {batch_size} is more than the {len(frames)} samples there are; lower it")
        self._frames, self._size, self._seed, self._augment = frames, batch_size, seed, augment
        normalised = checkpoint.statistics[dataset_name].normalise(frames.actions)
        self._tokens = checkpoint.action_tokenizer.encode(normalised)
        tokenizer = checkpoint.tokenizer
        self._prompts = [np.array(tokenizer.encode_prompt(build_prompt(text))) for text in frames.instructions]
        self._pad, self._eos = checkpoint.config.pad_token_id, tokenizer.eos_id
        self.steps_per_epoch = len(frames) // batch_size
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def at(self, step: int) -> Batch:
        """The batch of training step `step` (counted from 0), augmented."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._frames))
        batch = self.collate(np.sort(self._order[place * self._size : (place + 1) * self._size]))
        if self._augment is None:
            return batch
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        augmented = Augment(self._augment, generator)(batch.images)
        return Batch(batch.input_ids, batch.labels, batch.attention_mask, augmented)

    def collate(self, indices: NDArray[np.int64]) -> Batch:
        """The samples `indices`, not augmented."""
        prompts = [self._prompts[number] for number in self._frames.instruction[indices]]
        tokens = self._tokens[indices]
        ids, labels, mask = collate_tokens(prompts, tokens, self._eos, self._pad)
        images = torch.from_numpy(np.ascontiguousarray(self._frames.images[indices]))
        return Batch(ids, labels, mask, images)


@dataclass(frozen=True)
class HeldOut:
    """A validation batch: its true actions (B, 7) in robot units, and each sample's dataset (name of statistics)."""

    batch: Batch
    actions: NDArray[np.float32]
    names: tuple[str, ...]


def in_robot_units(
    checkpoint: Checkpoint, actions: NDArray[np.floating], names: tuple[str, ...]
) -> NDArray[np.float32]:
    """Normalised actions (B, 7) in m, rad and gripper opening, each by the statistics of its dataset."""
    made = np.empty(actions.shape, np.float32)
    for name in set(names):
        rows = np.array([other == name for other in names])
        made[rows] = checkpoint.statistics[name].unnormalise(actions[rows])
    return made


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Part of a batch."""
    tensors = {name: getattr(batch, name)[rows] for name in ("input_ids", "labels", "attention_mask", "images")}
    actions = None if batch.actions is None else batch.actions[rows]
    return replace(batch, **tensors, actions=actions, origins=batch.origins[rows])
