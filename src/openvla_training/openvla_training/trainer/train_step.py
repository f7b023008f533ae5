"""A model that learns: its trained parameters, its optimizers, and one step on one batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.model.vla import VLAOutput
from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.data.batch import Batch, HeldOut, rows_of
from openvla_training.trainer.metrics import Metrics, errors_of, token_accuracy, validate
from openvla_training.trainer.objective import Objective
from openvla_training.trainer.optimizers import build_optimizers
from openvla_training.trainer.parallel import World, release, shard, whole
from openvla_training.trainer.setup_model import ready_model


@dataclass(frozen=True)
class Figures:
    """Of one step, over all processes: loss, share of action tokens that are right, norm of the gradients before
    clipping, and mean |error| (7,) in robot units, where it was asked for.
    """

    loss: float
    accuracy: float
    norm: float
    l1: Tensor


class Learner:
    """Applies the run's strategy to a checkpoint's model, divides it among the processes, and trains it."""

    def __init__(self, checkpoint: Checkpoint, config: TrainConfig, device: torch.device, world: World) -> None:
        self.checkpoint, self.config, self.device, self.world = checkpoint, config, device, world
        self.adapter = ready_model(checkpoint, config)
        self.model = checkpoint.model
        if world.size > 1:
            shard(self.model, device, config.precision == "bf16")
        self.objective = Objective(checkpoint.action_tokenizer, config.label_sigma, device)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizers = build_optimizers(self.model, config)

    def step(self, batch: Batch, number: int, names: Sequence[str] | None = None) -> Figures:
        """Optimizer step `number` on this process's part of a batch; `names`: of the samples' statistics, for L1.

        Raises:
            FloatingPointError: the loss or the gradient is not finite; nothing was changed.
        """
        config, world = self.config, self.world
        torch.manual_seed((config.seed * 1_000_003 + number) * world.size + world.rank)  # of dropout
        figures = torch.zeros(9, dtype=torch.float64)
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        for part, rows, share in self._parts(batch):
            output = self.forward(part)
            loss = self.objective(output)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"loss is {loss.item()} at step {number}")
            (loss * share).backward()
            figures[0] += float(loss.detach()) * share
            figures[1] += token_accuracy(output, self.checkpoint.action_tokenizer.first_id) * share
            if names is not None:
                figures[2:] += share * torch.from_numpy(errors_of(output, self.checkpoint, tuple(names[rows])))
        norm = float(whole(nn.utils.clip_grad_norm_(self.trained, config.clip_norm)))
        if not math.isfinite(norm):
            raise FloatingPointError(f"norm of the gradient is {norm} at step {number}, loss {float(figures[0]):.4g}")
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate_at(number)
            optimizer.step()
        figures = world.mean(figures.to(self.device)).cpu()
        return Figures(float(figures[0]), float(figures[1]), norm, figures[2:])

    def forward(self, batch: Batch) -> VLAOutput:
        """Loss logits of one batch, in the run's precision."""
        pixels = self.checkpoint.preparation.normalise(batch.images, self.device)
        # Recomputed layers cast their weights again: copies kept from the first time would serve nobody.
        keep = not self.config.activation_checkpointing
        with torch.autocast(self.device.type, torch.bfloat16, self.config.precision == "bf16", cache_enabled=keep):
            return self.model(
                batch.input_ids.to(self.device), pixels, batch.attention_mask, labels=batch.labels.to(self.device)
            )

    def validate(self, samples: Sequence[HeldOut]) -> Metrics:
        """Figures on held-out samples; of several processes each computes all of them."""
        metrics = validate(self.forward, self.objective, self.checkpoint, samples)
        release(self.model)
        return metrics

    def _parts(self, batch: Batch) -> Iterator[tuple[Batch, slice, float]]:
        """Micro-batches with their share of the samples. Every sample has as many labels, so shares weigh losses."""
        samples = len(batch.images)
        size = self.config.micro_batch_size or samples
        for start in range(0, samples, size):
            rows = slice(start, min(start + size, samples))
            yield rows_of(batch, rows), rows, (rows.stop - start) / samples
