"""A linear layer by the faster of torch's two CPU libraries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST_WORK = 2**19  # multiplications; below, starting oneDNN costs more than it saves
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute torch's F.linear; in float32 on a CPU, outside of training, by oneDNN.

    oneDNN, which torch.compile uses there, has AVX-512 on the CPUs of every vendor, MKL on Intel's only. Measured on 2
    cores of an AMD EPYC (Zen 5) with 280 rows: 450 against 195 GFLOP/s, without repacking the weights. Both compute
    in float32 and differ in the last bits.

    Args:
        x: (..., K).
        weight: (N, K).
        bias: (N,) or None.

    Returns:
        (..., N).
    """
    if (
        _ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and type(weight) in (Tensor, nn.Parameter)  # quantised and distributed weights have kernels of their own
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()  # the compiler chooses its own operator
        and x.numel() * weight.shape[0] >= _LEAST_WORK
    ):
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")  # noqa: SLF001
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """nn.Linear, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        return linear(x, self.weight, self.bias)
