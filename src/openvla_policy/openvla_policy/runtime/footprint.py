"""What a checkpoint is and how much memory it would take, from its headers: no weights are read."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from openvla_policy.checkpoint.adapters import find_adapter, read_adapter
from openvla_policy.checkpoint.checkpoint import find_base, find_file, read_json, read_statistics, resolve
from openvla_policy.checkpoint.weights import weight_files
from openvla_policy.contract.statistics import Statistics
from openvla_policy.model.config import OpenVLAConfig
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.precision import Precision, compute_dtype, quantised_parts

# Bytes of a quantised weight, and of its scales: by weight (4 bits: by block) and by row (docs/reference/precision.md).
_QUANTISED = {
    "int8": (1.0, 0.0, 4.0),
    "int4": (0.5, 4.0 / 64, 0.0),
    "int8-torchao": (1.0, 0.0, 2.0),
    "int4-torchao": (0.5, 4.0 / 128, 0.0),
    "fp8": (1.0, 0.0, 4.0),
}
_MAX_HEADER = 100_000_000  # bytes, as the format allows


@dataclass(frozen=True)
class Header:
    """What the files of a checkpoint say about it.

    Attributes:
        path: Its folder.
        config: Configuration of the network.
        statistics: By dataset name.
        stored_bytes: Size of its weight files.
    """

    path: Path
    config: OpenVLAConfig
    statistics: dict[str, Statistics]
    stored_bytes: int


def read_header(path: str | Path) -> Header:
    """Check files, configuration, names and shapes of a checkpoint without loading it.

    Args:
        path: A checkpoint folder, hub id or un-merged adapter.

    Returns:
        What the files say.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The files contradict each other, as loading would report.
    """
    folder = weights = resolve(path)
    if (adapted := find_adapter(folder)) is not None:
        weights = find_base(adapted, read_adapter(adapted).base)
    raw = read_json(find_file(folder, weights, "config.json"))
    config = OpenVLAConfig.from_dict(raw)
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in OpenVLA(config).state_dict().items()}
    stored: dict[str, tuple[int, ...]] = {}
    size = 0
    for file in weight_files(weights):
        stored |= _shapes(file)
        size += file.stat().st_size
    for name, shape in wanted.items():
        if name not in stored:
            raise ValueError(f"{weights}: {name} is missing from its weights")
        if stored[name] != shape:
            raise ValueError(f"{weights}: {name} is {stored[name]}, config.json makes it {shape}")
    for names in (("preprocessor_config.json",), ("tokenizer.json", "tokenizer.model")):
        find_file(folder, weights, *names)
    return Header(folder, config, read_statistics(folder, weights, raw), size)


def weight_bytes(config: OpenVLAConfig, precision: Precision, device: str = "cpu") -> int:
    """Memory of the weights in `precision` [bytes], from their shapes."""
    with torch.device("meta"):
        model = OpenVLA(config)
    item = compute_dtype(precision, device).itemsize
    total = 0.0
    quantised = set()
    if precision in _QUANTISED:
        parts = quantised_parts(precision)
        each, scale, row = _QUANTISED[precision]
        for path, module in model.named_modules():
            if isinstance(module, nn.Linear) and path.startswith(parts):
                quantised.add(f"{path}.weight")
                total += module.weight.numel() * (each + scale) + module.out_features * row
    total += sum(p.numel() * item for name, p in model.named_parameters() if name not in quantised)
    return round(total)


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file, from its header: the length in 8 bytes, then JSON. Checks its size."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
        if not 2 <= length <= min(_MAX_HEADER, file.stat().st_size):
            raise ValueError(f"{file}: not a readable safetensors file (header length {length} bytes)")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end != file.stat().st_size:
        raise ValueError(f"{file}: {file.stat().st_size} bytes, its header says {end}: the copy is incomplete")
    return {name: tuple(entry["shape"]) for name, entry in header.items()}
