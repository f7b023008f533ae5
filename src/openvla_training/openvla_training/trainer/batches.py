"""From frames to tokenised batches; which samples a step sees depends on the seed and the step's number alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvla_policy.checkpoint.folder import Checkpoint
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.model.vla import IGNORE_INDEX
from openvla_training.trainer.augment import Augment, AugmentConfig
from openvla_training.trainer.frames import Frames


@dataclass(frozen=True)
class Batch:
    """Token ids and labels (B, T), padded on the right; attention mask (B, T); images uint8 (B, H, W, 3)."""

    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor
    images: Tensor


class Batches:
    """Draws batches from `frames`: every sample once an epoch, in an order made from (seed, epoch).

    A sequence is prompt, seven action tokens, end-of-sequence; only the last eight are labelled (reference:
    prismatic/vla/datasets/datasets.py, RLDSBatchTransform).
    """

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
        answer = tokens.shape[1] + 1
        length = max(len(prompt) for prompt in prompts) + answer
        ids = np.full((len(indices), length), self._pad, np.int64)
        labels = np.full((len(indices), length), IGNORE_INDEX, np.int64)
        mask = np.zeros((len(indices), length), bool)
        for row, (prompt, action) in enumerate(zip(prompts, tokens, strict=True)):
            end = len(prompt) + answer
            ids[row, :end] = np.concatenate([prompt, action, [self._eos]])
            labels[row, end - answer : end] = ids[row, end - answer : end]
            mask[row, :end] = True
        images = torch.from_numpy(np.ascontiguousarray(self._frames.images[indices]))
        return Batch(torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(mask), images)
