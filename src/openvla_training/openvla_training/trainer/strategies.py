"""The fine-tuning strategies of the paper's Table 1: which parameters each one trains, and how many those are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from openvla_policy.checkpoint.adapters import attach_lora, linear_modules
from openvla_policy.model.config import OpenVLAConfig
from openvla_policy.model.vla import OpenVLA

_EMBEDDING, _HEAD = "language_model.model.embed_tokens.", "language_model.lm_head."


@dataclass(frozen=True)
class Strategy:
    """`trains(name, last)` says whether a parameter is trained, `last` being the final decoder layer's prefix.

    `adapter`: none of the model's own parameters is; low-rank matrices beside them are. `quantised`: the base is
    held in 4 bits meanwhile.
    """

    name: str
    description: str
    trains: Callable[[str, str], bool]
    adapter: bool = False
    quantised: bool = False


def _last(name: str, last: str) -> bool:
    return name.startswith((_EMBEDDING, _HEAD, last))


def _nothing(name: str, last: str) -> bool:
    return False


STRATEGIES = {
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
        Strategy("qlora", "the same on a base held in 4 bits (nf4)", _nothing, adapter=True, quantised=True),
    )
}


def apply_strategy(
    model: OpenVLA, strategy: Strategy, rank: int = 32, alpha: int | None = None, dropout: float = 0.0
) -> Any:
    """Set `requires_grad` as the strategy says. Of an adapter, attaches it and returns its peft wrapper, else None.

    The model is changed in place either way, and is what to call in training. `alpha` None: min(rank, 16), the
    reference's.
    """
    if strategy.adapter:
        return attach_lora(model, rank, alpha, dropout)
    last = _last_layer(model.config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(strategy.trains(name, last))
    return None


def trainable_parameters(config: OpenVLAConfig, strategy: Strategy, rank: int = 32) -> int:
    """How many parameters `strategy` trains on a model of this shape; nothing is allocated.

    An adapter of rank r on a layer of `in` inputs and `out` outputs has r (in + out) of them.
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
