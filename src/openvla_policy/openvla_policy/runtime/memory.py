"""Memory of a policy: its weights by part, and the peak in use."""

from __future__ import annotations

import ctypes
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_PARTS = {
    "vision_backbone": "vision",
    "projector": "projector",
    "language_model.model.embed_tokens": "embeddings",
    "language_model.model": "decoder",
    "language_model.lm_head": "head",
}


@dataclass(frozen=True)
class MemoryUse:
    """Memory of a policy.

    Attributes:
        device: The device of the weights.
        weights: Weights by part of the network [bytes].
        peak: Most in use since `reset_peak`: allocated by torch on a GPU, resident of the process on a CPU [bytes].
    """

    device: str
    weights: dict[str, int]
    peak: int

    @property
    def total(self) -> int:
        """All weights [bytes]."""
        return sum(self.weights.values())

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"total": self.total}

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {readable(size)}" for part, size in self.weights.items())
        kind = "allocated" if self.device.startswith("cuda") else "resident"
        return f"weights {readable(self.total)} ({parts}), peak {readable(self.peak)} {kind}"


def readable(size: int) -> str:
    """A number of bytes in decimal units."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def measure(model: nn.Module, device: torch.device | str) -> MemoryUse:
    """Memory of `model` and the peak so far."""
    weights: dict[str, int] = dict.fromkeys(_PARTS.values(), 0)
    seen: set[int] = set()
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]:
        if id(tensor) not in seen:  # a tied head is counted once
            seen.add(id(tensor))
            part = next((part for prefix, part in _PARTS.items() if name.startswith(prefix + ".")), "other")
            weights[part] = weights.get(part, 0) + tensor_bytes(tensor)
    for name, module in model.named_modules():  # bitsandbytes moves the scales here in the first forward
        scales = getattr(getattr(module, "state", None), "SCB", None)
        if isinstance(scales, Tensor):
            part = next((part for prefix, part in _PARTS.items() if name.startswith(prefix + ".")), "other")
            weights[part] = weights.get(part, 0) + scales.nbytes
    return MemoryUse(str(device), weights, peak(device))


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of a weight, including its scales if it is quantised."""
    if hasattr(tensor, "__tensor_flatten__"):  # torchao
        return sum(tensor_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    size = tensor.nbytes
    state = getattr(tensor, "quant_state", None)  # bitsandbytes, 4 bits; the table of codes is shared
    while state is not None:
        size += state.absmax.nbytes
        state = getattr(state, "state2", None)
    scales = getattr(tensor, "SCB", None)  # bitsandbytes, 8 bits
    return size + (scales.nbytes if isinstance(scales, Tensor) else 0)


def peak(device: torch.device | str) -> int:
    """Peak since `reset_peak` or the start of the process [bytes]; 0 where the system does not report it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def resident() -> int:
    """Resident memory of this process [bytes]."""
    return _status("VmRSS")


def reset_peak(device: torch.device | str) -> None:
    """Measure the peak from now on."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): 5 resets the high-water mark
    except OSError as error:
        logging.getLogger("openvla.policy").debug("the peak cannot be reset on this system (%s)", error)


def release_free_memory() -> None:
    """Release freed memory to the system; glibc otherwise keeps what lies between blocks in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(field: str) -> int:
    path = Path(f"/proc/{os.getpid()}/status")
    if not path.is_file():
        return 0
    line = next((line for line in path.read_text().splitlines() if line.startswith(field + ":")), None)
    return int(line.split()[1]) * 1024 if line else 0
