"""The fine-tuning strategies of the paper's Table 1: which parameters each one trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from openvla_policy.checkpoint.adapters import attach_lora, linear_modules
from openvla_policy.model.config import OpenVLAConfig
from openvla_policy.model.vla import OpenVLA
from openvla_training.trainer.config import StrategyName

_EMBEDDING, _HEAD = "language_model.model.embed_tokens.", "language_model.lm_head."


@dataclass(frozen=True)
class Strategy:
    """A choice of trained parameters.

    Attributes:
        name: Value of the option `model.strategy`.
        description: The trained parameters, for people.
        trains: Whether a parameter of this name is trained; the second argument is the final decoder layer's prefix.
        adapter: Train low-rank matrices beside the model's own parameters, which stay frozen.
        quantised: Hold the frozen base in 4 bits during training.
    """

    name: StrategyName
    description: str
    trains: Callable[[str, str], bool]
    adapter: bool = False
    quantised: bool = False


def _last(name: str, last: str) -> bool:
    return name.startswith((_EMBEDDING, _HEAD, last))


def _nothing(name: str, last: str) -> bool:
    return False


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("full", "every parameter", lambda name, last: True),
        Strategy("last_layer", "token embeddings, the final decoder layer and the head", _last),
        Strategy(
            "frozen_vision",
            "everything but the vision encoders",
            lambda name, last: not name.startswith("vision_backbone."),
        ),
        Strategy(
            "sandwich",
            "vision encoders, projector, token embeddings, the final decoder layer and the head",
            lambda name, last: name.startswith(("vision_backbone.", "projector.")) or _last(name, last),
        ),
        Strategy("lora", "low-rank adapters on every linear layer and patch embedding", _nothing, adapter=True),
        Strategy(
            "qlora",
            "low-rank adapters likewise, on a base held in 4 bits (nf4)",
            _nothing,
            adapter=True,
            quantised=True,
        ),
    )
}


def apply_strategy(
    model: OpenVLA, strategy: Strategy, rank: int = 32, alpha: int | None = None, dropout: float = 0.0
) -> Any:
    """Set `requires_grad` of a model's parameters, in place, or attach an adapter to it.

    Args:
        model: The model; it stays the one to call in training.
        strategy: What to train.
        rank: Rank of an adapter.
        alpha: Scale of an adapter; None: min(rank, 16), as in the reference.
        dropout: Dropout before an adapter [share].

    Returns:
        The peft wrapper of an adapter, else None.
    """
    if strategy.adapter:
        return attach_lora(model, rank, alpha, dropout)
    last = _last_layer(model.config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(strategy.trains(name, last))
    return None


def trainable_parameters(config: OpenVLAConfig, strategy: Strategy, rank: int = 32) -> int:
    """Count the parameters that a strategy trains, from the shape of the model alone.

    An adapter of rank r on a layer with `in` inputs and `out` outputs has r (in + out) of them.

    Args:
        config: Shape of the model.
        strategy: What is trained.
        rank: Rank of an adapter.

    Returns:
        The number of trained parameters.
    """
    with torch.device("meta"):
        model = OpenVLA(config)
    if not strategy.adapter:
        last = _last_layer(config)
        return sum(p.numel() for name, p in model.named_parameters() if strategy.trains(name, last))
    total = 0
    for name in linear_modules(model):
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        total += rank * (layer.weight[0].numel() + layer.weight.shape[0])
    return total


def _last_layer(config: OpenVLAConfig) -> str:
    return f"language_model.model.layers.{config.text.num_hidden_layers - 1}."
