"""Tokenised batches: collation, and the order in which frames are drawn.

The samples of a step depend on the seed and the step's number alone, so a run resumes at the exact sample.
"""

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

if TYPE_CHECKING:  # needs tensorflow_datasets, which a machine that only runs train steps does not have
    from openvla_training.trainer.data.frames import Frames


@dataclass(frozen=True)
class Batch:
    """Samples of one process and one step.

    Attributes:
        input_ids: Token ids (B, T), padded on the right.
        labels: Target ids (B, T), IGNORE_INDEX where there is none.
        attention_mask: Bool (B, T).
        images: uint8 (B, H, W, 3), RGB.
        actions: float32 (B, horizon, 7), normalised; None of batches from frames.
        origins: Dataset, episode and step of each sample; empty of batches from frames.
    """

    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor
    images: Tensor
    actions: Tensor | None = None
    origins: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class ValidationBatch:
    """Held-out samples.

    Attributes:
        batch: The samples, not augmented.
        actions: Their true actions (B, 7): m, rad, gripper opening.
        names: Dataset of each sample, the key of its statistics.
    """

    batch: Batch
    actions: NDArray[np.float32]
    names: tuple[str, ...]


def collate_tokens(
    prompts: Sequence[NDArray[np.int64]], actions: NDArray[np.int64], eos: int, pad: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Join prompts and action tokens to padded sequences.

    A sequence is prompt, action tokens, end-of-sequence; only the last two are labelled (reference:
    prismatic/vla/datasets/datasets.py, RLDSBatchTransform; util/data_utils.py, the collator).

    Args:
        prompts: Token ids of each prompt.
        actions: Action tokens (B, A).
        eos: Id of the end-of-sequence token.
        pad: Id of the padding token.

    Returns:
        Token ids, labels and attention mask, each (B, T), padded on the right.
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


class FrameBatches:
    """Batches of frames: every sample once per epoch, in an order that (seed, epoch) determines."""

    def __init__(
        self,
        frames: Frames,
        checkpoint: Checkpoint,
        dataset_name: str,
        batch_size: int,
        *,
        seed: int,
        augment: AugmentConfig | None,
    ) -> None:
        """Tokenise the instructions and actions.

        Args:
            frames: The samples.
            checkpoint: Its tokenizers and statistics are used.
            dataset_name: Key of the statistics.
            batch_size: Samples of a batch, over all processes.
            seed: Determines order and augmentation.
            augment: Image augmentation; None: none.

        Raises:
            ValueError: `batch_size` exceeds the number of frames.
        """
        if len(frames) < batch_size:
            raise ValueError(
                f"data.batch_size: {batch_size} is more than the {len(frames)} samples of the dataset; lower it"
            )
        self._frames, self._size, self._seed, self._augment = frames, batch_size, seed, augment
        normalised = checkpoint.statistics[dataset_name].normalise(frames.actions)
        self._tokens = checkpoint.action_tokenizer.encode(normalised)
        tokenizer = checkpoint.tokenizer
        self._prompts = [np.array(tokenizer.encode_prompt(build_prompt(text))) for text in frames.instructions]
        self._pad, self._eos = checkpoint.config.pad_token_id, tokenizer.eos_id
        self._steps_per_epoch = len(frames) // batch_size
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def at(self, step: int) -> Batch:
        """The augmented batch of training step `step`, counted from 0."""
        epoch, place = divmod(step, self._steps_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._frames))
        # Sorted, so that the memory-mapped images are read front to back.
        batch = self.collate(np.sort(self._order[place * self._size : (place + 1) * self._size]))
        if self._augment is None:
            return batch
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        return replace(batch, images=Augment(self._augment, generator)(batch.images))

    def collate(self, indices: NDArray[np.int64]) -> Batch:
        """The samples `indices`, not augmented."""
        prompts = [self._prompts[number] for number in self._frames.instruction[indices]]
        ids, labels, mask = collate_tokens(prompts, self._tokens[indices], self._eos, self._pad)
        return Batch(ids, labels, mask, torch.from_numpy(self._frames.images[indices]))


def unnormalise_actions(
    checkpoint: Checkpoint, actions: NDArray[np.floating], names: tuple[str, ...]
) -> NDArray[np.float32]:
    """Normalised actions (B, 7) in m, rad and gripper opening, each by the statistics of its dataset `names`."""
    result = np.empty(actions.shape, np.float32)
    for name in set(names):
        rows = np.array([other == name for other in names])
        result[rows] = checkpoint.statistics[name].unnormalise(actions[rows])
    return result


def slice_batch(batch: Batch, rows: slice) -> Batch:
    """The samples `rows` of a batch."""
    tensors = {name: getattr(batch, name)[rows] for name in ("input_ids", "labels", "attention_mask", "images")}
    actions = None if batch.actions is None else batch.actions[rows]
    return replace(batch, **tensors, actions=actions, origins=batch.origins[rows])
