"""One optimizer step on one batch: forward and backward passes, clipping, update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.model.vla import VLAOutput
from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.data.batch import Batch, ValidationBatch, slice_batch
from openvla_training.trainer.metrics import Metrics, mean_absolute_error, token_accuracy, validate
from openvla_training.trainer.objective import Objective
from openvla_training.trainer.optimizers import build_optimizers
from openvla_training.trainer.parallel import World, gather_tensor, reshard, shard
from openvla_training.trainer.setup_model import setup_model


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of one step, over all processes.

    Attributes:
        loss: Mean loss.
        accuracy: Share of action tokens that are predicted exactly.
        gradient_norm: Norm of the gradient before clipping.
        l1: Mean absolute error (7,) in m, rad and gripper opening; zeros where it was not asked for.
    """

    loss: float
    accuracy: float
    gradient_norm: float
    l1: Tensor


class TrainStep:
    """Prepares a checkpoint's model for a run, shards it over the processes, and trains it step by step."""

    def __init__(self, checkpoint: Checkpoint, config: TrainConfig, device: torch.device, world: World) -> None:
        self.checkpoint, self.config, self.device, self.world = checkpoint, config, device, world
        self.adapter = setup_model(checkpoint, config.model, config.parallel)
        self.model = checkpoint.model
        if world.size > 1:
            shard(self.model, device, config.parallel.precision == "bf16")
        self.objective = Objective(checkpoint.action_tokenizer, config.optimizer.label_sigma, device)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizers = build_optimizers(self.model, config.optimizer)

    def run(self, batch: Batch, number: int, names: Sequence[str] | None = None) -> StepMetrics:
        """Take one optimizer step.

        Args:
            batch: This process's part of the batch.
            number: The step's number, counted from 0.
            names: Dataset of each sample, to compute the L1 error by its statistics; None: leave it out.

        Returns:
            The metrics over all processes.

        Raises:
            FloatingPointError: The loss or the gradient is not finite; nothing has changed.
        """
        config, world = self.config, self.world
        torch.manual_seed((config.seed * 1_000_003 + number) * world.size + world.rank)  # of dropout
        sums = torch.zeros(9, dtype=torch.float64)
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        for part, rows, share in self._micro_batches(batch):
            output = self.forward(part)
            loss = self.objective(output)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"loss is {loss.item()} at step {number}")
            (loss * share).backward()
            sums[0] += float(loss.detach()) * share
            sums[1] += token_accuracy(output, self.checkpoint.action_tokenizer.first_id) * share
            if names is not None:
                error = mean_absolute_error(output, self.checkpoint, tuple(names[rows]))
                sums[2:] += share * torch.from_numpy(error)
        norm = float(gather_tensor(nn.utils.clip_grad_norm_(self.trained, config.optimizer.clip_norm)))
        if not math.isfinite(norm):
            raise FloatingPointError(f"norm of the gradient is {norm} at step {number}, loss {float(sums[0]):.4g}")
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate(number)
            optimizer.step()
        means = world.mean(sums.to(self.device)).cpu()
        return StepMetrics(float(means[0]), float(means[1]), norm, means[2:])

    def forward(self, batch: Batch) -> VLAOutput:
        """The logits of the labelled tokens of a batch, computed in the run's precision."""
        pixels = self.checkpoint.preparation.normalise(batch.images, self.device)
        parallel = self.config.parallel
        # Recomputed layers cast their weights again, so cached casts of the first pass would only take memory.
        cache = not parallel.activation_checkpointing
        with torch.autocast(self.device.type, torch.bfloat16, parallel.precision == "bf16", cache_enabled=cache):
            return self.model(
                batch.input_ids.to(self.device), pixels, batch.attention_mask, labels=batch.labels.to(self.device)
            )

    def validate(self, samples: Sequence[ValidationBatch]) -> Metrics:
        """Metrics on held-out samples; every process computes all of them."""
        metrics = validate(self.forward, self.objective, self.checkpoint, samples)
        reshard(self.model)
        return metrics

    def _micro_batches(self, batch: Batch) -> Iterator[tuple[Batch, slice, float]]:
        """Micro-batches, with their rows and their share of the samples."""
        # Every sample has the same number of labels, so the shares also weight the mean losses correctly.
        samples = len(batch.images)
        size = self.config.parallel.micro_batch_size or samples
        for start in range(0, samples, size):
            rows = slice(start, min(start + size, samples))
            yield slice_batch(batch, rows), rows, (rows.stop - start) / samples
