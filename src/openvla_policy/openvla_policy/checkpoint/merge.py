"""`openvla-merge`: an adapter and its base become one checkpoint folder, without holding either whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from openvla_policy.checkpoint.folder import load_folder, save_description
from openvla_policy.checkpoint.weights import WeightWriter
from openvla_policy.contract.statistics import Statistics


def merge_folder(
    adapter: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    statistics: Mapping[str, Statistics] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = 5 * 10**9,
) -> Path:
    """Write base + adapter to `output`, adding in float32; returns it.

    One matrix and one file's worth (`shard_bytes`) of the result are in memory at a time. `base` is needed where
    the adapter's own entry does not lead to it; `statistics` are added to (or replace) the folder's own.

    Raises:
        FileNotFoundError: adapter or base are not there. ValueError: they do not fit.
        FileExistsError: `output` is where one of the two is read from.
    """
    folder = Path(output)
    for name, path in (("adapter", adapter), ("base", base)):
        if path is not None and folder.resolve() == Path(path).expanduser().resolve():
            raise FileExistsError(f"output {folder}: the {name} is read from there; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with WeightWriter(folder, dtype, shard_bytes) as writer:

        def pass_on(model: nn.Module, name: str, tensor: Tensor) -> bool:
            writer.add(name, tensor)
            return True

        checkpoint = load_folder(adapter, base=base, place=pass_on)
    checkpoint.statistics.update(statistics or {})
    save_description(folder, checkpoint, dtype)
    return folder
