"""Prepares a loaded model for training: trained parameters, precision, activation checkpoints, compilation."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.model.vla import OpenVLA
from openvla_training.trainer.config import ModelConfig, ParallelConfig, TrainConfig
from openvla_training.trainer.parallel import LAYERS, World
from openvla_training.trainer.strategies import STRATEGIES, apply_strategy

log = logging.getLogger(__name__)


def check_processes(config: TrainConfig, world: World) -> None:
    """Make sure that a run can be divided among its processes, before any data is read.

    Args:
        config: The run.
        world: Its processes.

    Raises:
        ValueError: It cannot; the message says what can be.
    """
    world.divide(config.data.batch_size, "data.batch_size")
    lanes, strategy, optimizer = config.data.lanes, config.model.strategy, config.optimizer.name
    if config.data.mixture is not None and lanes % world.size:
        raise ValueError(
            f"data.lanes: {lanes} cannot be divided among {world.size} processes; choose a multiple of {world.size}"
        )
    if world.size > 1 and STRATEGIES[strategy].quantised:
        raise ValueError(f"model.strategy: {strategy} runs on one process, not {world.size}; use lora, or one GPU")
    if world.size > 1 and optimizer != "adamw":
        raise ValueError(f"optimizer.name: {optimizer} runs on one process, not {world.size}; use adamw")


def setup_model(checkpoint: Checkpoint, config: ModelConfig, parallel: ParallelConfig) -> Any:
    """Prepare a checkpoint's model for training, in place.

    Frozen matrices are held in bf16 if the products are computed in bf16: the same numbers in half the memory.

    Args:
        checkpoint: The model.
        config: Which parameters are trained.
        parallel: Precision, activation checkpointing, compilation.

    Returns:
        The peft wrapper of an adapter, else None.
    """
    model, strategy = checkpoint.model, STRATEGIES[config.strategy]
    wrapper = apply_strategy(model, strategy, config.lora_rank, config.lora_alpha, config.lora_dropout)
    if parallel.precision == "bf16" and not strategy.quantised:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and not module.weight.requires_grad:
                module.to(torch.bfloat16)
    if parallel.activation_checkpointing:
        recompute_activations(model)
    if parallel.compile:
        for module in model.modules():
            if isinstance(module, LAYERS):
                module.compile()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rank = f" r={config.lora_rank}" if strategy.adapter else ""
    log.info(
        "strategy %s%s trains %.1f M parameters (%s) of a model of %.1f M",
        strategy.name, rank, trained / 1e6, strategy.description, _size(checkpoint) / 1e6,
    )  # fmt: skip
    return wrapper


def recompute_activations(model: nn.Module) -> None:
    """Keep only the input of each layer for the backward pass, which recomputes the rest."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, LAYERS))


def _size(checkpoint: Checkpoint) -> int:
    """Number of parameters, from the shape: packed 4-bit weights have fewer elements."""
    with torch.device("meta"):
        return sum(p.numel() for p in OpenVLA(checkpoint.config).parameters())
