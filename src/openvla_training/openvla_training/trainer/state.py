"""The resume state of a run: one file, replaced in one step, for one set of samples and one strategy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn


def save_state(
    path: Path, step: int, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], run: str, **more: Any
) -> None:
    """Write what the run has changed: trained parameters, optimizers, the step, `more`.

    `run` describes what must not change between now and the resumption.
    """
    state = {
        "step": step,
        "model": {name: p.detach() for name, p in model.named_parameters() if p.requires_grad},
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "run": run,
        **more,
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_state(
    path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], run: str
) -> dict[str, Any] | None:
    """Put a saved state back into `model` and `optimizers`. None where there is none.

    Raises:
        ValueError: the state is of another run (other data, batch size, seed, strategy), or damaged.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        described = state["run"]
    except Exception as error:  # torch raises several kinds for a damaged archive
        raise ValueError(f"{path}: not a readable resume state ({error}); remove it to begin anew") from error
    if described != run:
        raise ValueError(
            f"{path} belongs to a run on other samples or parameters (there: {described}; now: {run}); "
            "choose another output, or remove that file to begin anew"
        )
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if set(trained) != set(state["model"]):
        raise ValueError(f"{path}: its parameters are not those trained now; remove it to begin anew")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(state["model"][name])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state
