"""What a checkpoint is and would take, told from its headers: nothing of its weights is read."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from openvla_policy.checkpoint.adapters import find_adapter, read_adapter
from openvla_policy.checkpoint.checkpoint import _base_of, _first, _read_statistics, read_json, resolve
from openvla_policy.checkpoint.weights import weight_files
from openvla_policy.contract.statistics import Statistics
from openvla_policy.model.config import OpenVLAConfig
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.precision import _ALL_BUT_THE_HEAD, _DECODER, _LIBRARIES, Precision, compute_dtype

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
    """What the files beside the weights say, and the names and shapes of the weights."""

    path: Path
    config: OpenVLAConfig
    statistics: dict[str, Statistics]
    stored_bytes: int


def read_header(path: str | Path) -> Header:
    """Check a checkpoint folder, hub id or adapter without loading it: files, configuration, names and shapes.

    Raises FileNotFoundError or ValueError in one line, as loading would.
    """
    folder = weights = resolve(path)
    if (adapted := find_adapter(folder)) is not None:
        weights = _base_of(adapted, read_adapter(adapted).base, None)
    raw = read_json(_first(folder, weights, "config.json"))
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
        _first(folder, weights, *names)
    return Header(folder, config, _read_statistics(folder, weights, raw), size)


def weight_bytes(config: OpenVLAConfig, precision: Precision, device: str = "cpu") -> int:
    """Bytes of the weights in memory in `precision`, from their shapes (the model is made on the meta device)."""
    with torch.device("meta"):
        model = OpenVLA(config)
    item = compute_dtype(precision, device).itemsize
    total = 0.0
    quantised = set()
    if precision in _QUANTISED:
        parts = _ALL_BUT_THE_HEAD if _LIBRARIES[precision] == "bitsandbytes" else _DECODER
        each, scale, row = _QUANTISED[precision]
        for path, module in model.named_modules():
            if isinstance(module, nn.Linear) and path.startswith(parts):
                quantised.add(f"{path}.weight")
                total += module.weight.numel() * (each + scale) + module.out_features * row
    total += sum(p.numel() * item for name, p in model.named_parameters() if name not in quantised)
    return round(total)


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file: its length in 8 bytes, then JSON; and whether its end is there."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
        if not 2 <= length <= min(_MAX_HEADER, file.stat().st_size):
            raise ValueError(f"{file}: not a readable safetensors file (its header would be {length} bytes)")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end != file.stat().st_size:
        raise ValueError(f"{file}: {file.stat().st_size} bytes, its header says {end}: the copy is incomplete")
    return {name: tuple(entry["shape"]) for name, entry in header.items()}
