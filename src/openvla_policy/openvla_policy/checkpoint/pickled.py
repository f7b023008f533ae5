"""torch.save files, of which nothing but tensors is ever unpickled: reading one runs no code."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch


def read_pickled(path: Path) -> dict[str, Any]:
    """Named tensors, maybe in nested dictionaries; `module.`, which distributed training prefixes, is taken off.

    Raises:
        ValueError: the file is damaged, or has something else in it than tensors, numbers and strings.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, KeyError ... by kind of damage
        raise ValueError(f"{path}: not a file of tensors alone ({type(error).__name__}: {error})") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: expected named tensors, found a {type(state).__name__}")
    return {str(name).removeprefix("module."): value for name, value in state.items()}
