"""Describe the machine, and measure its memory bandwidth and its rates of matrix products."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from openvla_policy.model.linear import linear
from openvla_policy.revision import git_revision

TIME_LIMIT = 1.0  # [s] for one figure: a processor without instructions for the format takes seconds for a product
LIBRARIES = ("torch", "transformers", "bitsandbytes", "torchao", "numpy", "triton")


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished its queued work; nothing to do on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(device: torch.device) -> dict[str, Any]:
    """Return hardware, library versions and git revision for the JSON file."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "host": socket.gethostname(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "kind": device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_start": [round(x, 2) for x in os.getloadavg()],
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "versions": versions,
        "git": _revision(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _revision() -> str:
    revision = git_revision(Path(__file__).parent)
    return revision["commit"][:12] + ("-dirty" if revision["modified"] else "") if revision else "unknown"


def bandwidth(device: torch.device, megabytes: int = 256, repeats: int = 8) -> dict[str, float]:
    """Measure the memory bandwidth.

    Args:
        device: where to measure; on a GPU the arrays are eight times as large.
        megabytes: size of one array [MiB].
        repeats: measurements, of which the fastest counts.

    Returns:
        Bytes per second of STREAM's triad a = b + s c (two arrays read, one written) and of a matrix-vector product
        ("read").
    """
    if device.type == "cuda":
        megabytes *= 8
    count = megabytes * 2**20 // 4
    b, c = torch.ones(count, device=device), torch.ones(count, device=device)
    a = torch.empty_like(b)
    triad = _best(lambda: torch.add(b, c, alpha=0.5, out=a), repeats, device)
    matrix, vector = b.view(-1, 4096), torch.ones(4096, device=device)
    read = _best(lambda: torch.mv(matrix, vector), repeats, device)
    return {"triad": 3 * b.nbytes / triad, "read": b.nbytes / read}


def matrix_rates(device: torch.device, size: int = 0, repeats: int = 12) -> dict[str, float]:
    """Measure square matrix products.

    Args:
        device: where to measure.
        size: rows of the matrices; 0 chooses it for the device.
        repeats: measurements of one format, of which the fastest counts.

    Returns:
        Operations per second by number format, without the formats that the device does not support.
    """
    size = size or (8192 if device.type == "cuda" else 1536)
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    a16, b16 = a.bfloat16(), b.bfloat16()
    a8, b8 = (a * 20).to(torch.int8), (b * 20).to(torch.int8)
    products: dict[str, Callable[[], Any]] = {
        "fp32": lambda: linear(a, b),
        "bf16": lambda: a16 @ b16.t(),
        "int8": lambda: torch._int_mm(a8, b8.t()),  # noqa: SLF001
    }
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9):
        one = torch.ones((), device=device)
        af, bf = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)
        products["fp8"] = lambda: torch._scaled_mm(af, bf.t(), one, one, out_dtype=torch.bfloat16)  # noqa: SLF001
    rates = {}
    with torch.inference_mode():
        for name, product in products.items():
            try:
                rates[name] = 2.0 * size**3 / _best(product, repeats, device)
            except (RuntimeError, NotImplementedError):
                continue  # the device does not support this format
    return rates


def _best(work: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Return the shortest of up to `repeats` times [s]; none begins after TIME_LIMIT."""
    work()  # the first call initialises libraries
    times: list[float] = []
    while len(times) < repeats and sum(times) < TIME_LIMIT:
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return min(times)
