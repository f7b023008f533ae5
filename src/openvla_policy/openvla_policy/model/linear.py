"""A linear layer that takes the faster of torch's two CPU libraries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST_WORK = 2**19  # multiplications; below, starting oneDNN costs more than it saves
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., K), (N, K), (N,) -> (..., N), as torch's F.linear.

    In float32 on a CPU, outside of training, by oneDNN, the operator torch.compile chooses there: it uses AVX-512
    on every maker's CPUs, MKL on Intel's alone. Measured on 2 cores of an AMD EPYC (Zen 5), 280 rows: 450 against
    195 GFLOP/s, the weights left as they are stored. Both are float32 and differ in the last bits.
    """
    if (
        _ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and type(weight) in (Tensor, nn.Parameter)  # quantised and distributed weights know their own way
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()  # the compiler chooses for itself
        and x.numel() * weight.shape[0] >= _LEAST_WORK
    ):
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """nn.Linear by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        return linear(x, self.weight, self.bias)
