"""Number formats of weights and arithmetic, and loading a policy in them.

Each weight is quantised on its device as it is read, so that memory holds the quantised model and one full-precision
matrix. Quantised models are for inference.

bitsandbytes (`int8`, `int4`) quantises all matrices but the head, as the reference's load_in_8bit and load_in_4bit.
torchao (`int8-torchao`, `int4-torchao`, `fp8`) quantises the decoder's layers, nine tenths of a 7B policy, which each
token reads; vision and projector, which each action reads once, stay bf16. docs/reference/precision.md compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.checkpoint.folder import load_folder
from openvla_policy.checkpoint.library_logs import silence_library_logs
from openvla_policy.checkpoint.weights import Place
from openvla_policy.runtime.memory import release_free_memory

Precision = Literal["fp32", "bf16", "int8", "int4", "int8-torchao", "int4-torchao", "fp8"]

_LIBRARIES = {  # the others are plain torch
    "int8": "bitsandbytes",
    "int4": "bitsandbytes",
    "int8-torchao": "torchao",
    "int4-torchao": "torchao",
    "fp8": "torchao",
}
# Least compute capability, the GPUs' name, and the alternative.
_GPU_ONLY = {"int4-torchao": ((8, 0), "Ampere", "int4"), "fp8": ((8, 9), "Ada or Hopper", "int8")}
RELEASE_AFTER = 32 * 2**20  # full-precision weights freed before memory is released to the system [bytes]
_DECODER = ("language_model.model.layers.",)
_ALL_BUT_THE_HEAD = ("vision_backbone.", "projector.", *_DECODER)


def obstacle(precision: str, device: torch.device | str) -> str | None:
    """Why `precision` is not available on `device`, and the remedy; None where it is available."""
    if precision not in get_args(Precision):
        return f"{precision!r} is unknown; choose one of {', '.join(get_args(Precision))}"
    library = _LIBRARIES.get(precision)
    if library and find_spec(library) is None:
        return f"{precision} needs {library}, which is not installed: pip install {library}, or choose bf16"
    if precision in _GPU_ONLY:
        least, family, instead = _GPU_ONLY[precision]
        needs = f"{precision} needs an NVIDIA GPU of compute capability {least[0]}.{least[1]} ({family}) or newer"
        if torch.device(device).type != "cuda":
            return f"{needs}, and this is {torch.device(device).type}; choose {instead}"
        have = torch.cuda.get_device_capability(device)
        if have < least:
            return f"{needs}, and {torch.cuda.get_device_name(device)} has {have[0]}.{have[1]}; choose {instead}"
    return None


def compute_dtype(precision: Precision, device: torch.device | str) -> torch.dtype:
    """The dtype of activations and of weights that are not quantised."""
    if precision == "fp32":
        return torch.float32
    if precision in ("bf16", "int8-torchao", "int4-torchao", "fp8") or torch.device(device).type == "cuda":
        return torch.bfloat16
    return torch.float32  # bitsandbytes on a CPU supports both, and not every CPU multiplies in bf16


def load(
    path: str | Path, precision: Precision = "fp32", device: torch.device | str = "cpu", base: str | Path | None = None
) -> Checkpoint:
    """Load a checkpoint for inference.

    Args:
        path: A checkpoint folder, hub id or un-merged adapter.
        precision: Number format of the weights.
        device: Where the weights go.
        base: Base model of an adapter. None: the one its adapter_config.json names.

    Returns:
        The checkpoint.

    Raises:
        ValueError: The precision is unknown, or needs a library or hardware that is missing.
    """
    reason = obstacle(precision, device)
    if reason:
        raise ValueError(f"precision: {reason}")
    return load_folder(path, compute_dtype(precision, device), device, base, placer(precision, device))


def quantised_parts(precision: Precision) -> tuple[str, ...]:
    """Prefixes of the modules whose linear layers are quantised; empty for unquantised formats."""
    if precision not in _LIBRARIES:
        return ()
    return _ALL_BUT_THE_HEAD if _LIBRARIES[precision] == "bitsandbytes" else _DECODER


def placer(precision: Precision, device: torch.device | str, *, trainable_inputs: bool = False) -> Place | None:
    """Make the function that quantises matrices while a model loads.

    Args:
        precision: Number format of the weights.
        device: Where the weights go.
        trainable_inputs: For adapters trained on a quantised base: avoids the kernel for which bitsandbytes repacks
            int4 weights in the first evaluation on CPUs with AVX512-BF16, after which gradients are wrong.

    Returns:
        The function, for `place` of weights.load_weights; None for unquantised formats.
    """
    if precision in ("fp32", "bf16"):
        return None
    dtype, where = compute_dtype(precision, device), torch.device(device)
    replace: Callable[[nn.Linear, Tensor], nn.Module]
    if precision in ("int8", "int4"):
        from openvla_policy.runtime.bitsandbytes_linear import int4_linear, int8_linear

        int4 = partial(int4_linear, device=where, dtype=dtype, repack=not trainable_inputs)
        replace = int4 if precision == "int4" else partial(int8_linear, device=where)
    else:
        replace = partial(_torchao, precision=precision, device=where, dtype=dtype)
    parts = quantised_parts(precision)
    dropped = 0

    def place(model: nn.Module, name: str, weight: Tensor) -> bool:
        nonlocal dropped
        path, _, leaf = name.rpartition(".")
        linear = model.get_submodule(path)
        if leaf != "weight" or not path.startswith(parts) or not isinstance(linear, nn.Linear):
            return False
        parent, _, own = path.rpartition(".")
        with torch.no_grad():
            setattr(model.get_submodule(parent), own, replace(linear, weight))
        dropped += weight.nbytes
        if dropped > RELEASE_AFTER:
            release_free_memory()
            dropped = 0
        return True

    return place


def _torchao(linear: nn.Linear, weight: Tensor, precision: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    made: nn.Linear = _OneRowFused(linear) if precision == "int8-torchao" and device.type == "cuda" else linear
    made.weight = nn.Parameter(weight.to(device, dtype), requires_grad=False)
    config = _torchao_config(precision, linear.in_features)
    if config is not None:
        _import_torchao().quantize_(made, config)
    return made


def _torchao_config(precision: str, columns: int) -> Any:
    q = _import_torchao()
    if precision == "int8-torchao":
        return q.Int8WeightOnlyConfig()
    if precision == "fp8":
        return q.Float8DynamicActivationFloat8WeightConfig(granularity=q.PerRow())
    group = next((size for size in (128, 64, 32) if columns % size == 0), None)
    if group is None:
        return None  # a small model's matrix without a valid group size stays bf16
    if find_spec("mslk") is not None and torch.cuda.get_device_capability() >= (9, 0):
        return q.Int4WeightOnlyConfig(group_size=group)  # mixed-input kernels for Hopper, fast at any row count
    return q.Int4WeightOnlyConfig(group_size=group, int4_packing_format="tile_packed_to_4d")  # tinygemm, in torch


class _OneRowFused(nn.Linear):
    """A Linear whose product with a single row is compiled, which reads each int8 weight once.

    torchao has no kernel for weight-only int8: eager torch first writes the matrix in bf16. Compiled, conversion and
    product are one pass where there is one row (decoding); many rows amortise the conversion.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if x.numel() == x.shape[-1]:
            return _compiled_linear()(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


@cache
def _compiled_linear() -> Callable[..., Tensor]:
    return torch.compile(F.linear, dynamic=False)


@cache
def _import_torchao() -> Any:
    silence_library_logs()
    import torchao.quantization

    return torchao.quantization
