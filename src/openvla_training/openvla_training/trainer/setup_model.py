"""A model made ready for a run: what of it is trained, how activations are kept, whether layers are compiled."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.model.vla import OpenVLA
from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.parallel import LAYERS, World
from openvla_training.trainer.strategies import STRATEGIES, apply_strategy

log = logging.getLogger(__name__)


def check_processes(config: TrainConfig, world: World) -> None:
    """Before anything is read: that this run can be shared by so many processes.

    Raises:
        ValueError: it cannot, with what can.
    """
    world.divide(config.batch_size, "batch_size")
    if config.mixture is not None and config.lanes % world.size:
        raise ValueError(
            f"lanes: {config.lanes} cannot be run by {world.size} processes; choose a multiple of {world.size}"
        )
    if world.size > 1 and STRATEGIES[config.strategy].quantised:
        raise ValueError(f"strategy: {config.strategy} runs on one process, not {world.size}; use lora, or one GPU")
    if world.size > 1 and config.optimizer != "adamw":
        raise ValueError(f"optimizer: {config.optimizer} runs on one process, not {world.size}; use adamw")


def ready_model(checkpoint: Checkpoint, config: TrainConfig) -> Any:
    """Choose what is trained, how activations are kept, whether layers are compiled.

    Returns the peft wrapper of an adapter, else None.

    Frozen matrices are held in bf16 when the products are computed in it: the same numbers, half the memory.
    """
    model, strategy = checkpoint.model, STRATEGIES[config.strategy]
    wrapper = apply_strategy(model, strategy, config.lora_rank, config.lora_alpha, config.lora_dropout)
    if config.precision == "bf16" and not strategy.quantised:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and not module.weight.requires_grad:
                module.to(torch.bfloat16)
    if config.activation_checkpointing:
        recompute_activations(model)
    if config.compile:
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
    """Keep only each layer's input for the backward pass, which computes the rest again."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, LAYERS))


def _size(checkpoint: Checkpoint) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in OpenVLA(checkpoint.config).parameters())
