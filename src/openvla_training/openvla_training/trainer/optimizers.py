"""The optimizers of a run."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from openvla_policy.checkpoint.library_logs import silence_library_logs
from openvla_training.trainer.config import OptimizerConfig

_NOT_MATRICES = ("embed_tokens", "lm_head")  # lookup tables, whose updates must not be orthogonalised


def build_optimizers(model: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Build the optimizers of a model's trainable parameters.

    AdamW (the paper's) has its states in float32 or 8 bits. Muon (Jordan et al., 2024) takes the hidden layers'
    matrices and leaves the rest to AdamW; its step is scaled to AdamW's root mean square (Liu et al., 2025), so one
    learning rate serves both. On small models from scratch it needs about half of AdamW's steps.

    Args:
        model: The model.
        config: Which optimizer, and its parameters.

    Returns:
        One optimizer, or two.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrices = {
        name: p
        for name, p in trainable.items()
        if config.name == "muon" and p.ndim == 2 and not any(table in name for table in _NOT_MATRICES)
    }
    rest = [p for name, p in trainable.items() if name not in matrices]
    rate, decay = config.learning_rate, config.weight_decay
    if config.name == "adamw8bit":
        return [_bitsandbytes().optim.AdamW8bit(rest, lr=rate, betas=config.betas, weight_decay=decay)]
    built: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=rate, betas=config.betas, weight_decay=decay, fused=True)
    ]
    if matrices:
        built.append(
            torch.optim.Muon(list(matrices.values()), lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        )
    return built


def _bitsandbytes() -> Any:
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            "optimizer.name: adamw8bit needs the package bitsandbytes: pip install bitsandbytes, or use adamw"
        )
    silence_library_logs()
    import bitsandbytes

    return bitsandbytes
