"""`openvla-merge`: an adapter and its base become one checkpoint folder, tensor by tensor."""

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
    """Merge an adapter into its base, in float32. Holds one matrix and one file of the result in memory.

    Args:
        adapter: The adapter's folder or hub id.
        output: The folder to write.
        base: The base model. None: the one that adapter_config.json names.
        statistics: Added to the adapter's statistics, replacing those of the same name.
        dtype: Of the written weights.
        shard_bytes: Size of a file.

    Returns:
        The written folder.

    Raises:
        FileNotFoundError: Adapter or base are missing.
        ValueError: They do not fit each other.
        FileExistsError: `output` is the folder of one of the two.
    """
    folder = Path(output)
    for name, path in (("adapter", adapter), ("base", base)):
        if path is not None and folder.resolve() == Path(path).expanduser().resolve():
            raise FileExistsError(f"output {folder}: the {name} is read from there; choose another output")
    folder.mkdir(parents=True, exist_ok=True)
    with WeightWriter(folder, dtype, shard_bytes) as writer:

        def write(model: nn.Module, name: str, tensor: Tensor) -> bool:
            writer.add(name, tensor)
            return True

        checkpoint = load_folder(adapter, base=base, place=write)
    checkpoint.statistics.update(statistics or {})
    save_description(folder, checkpoint, dtype)
    return folder
