"""Linear layers that bitsandbytes holds in 8 or 4 bits. Importing this module imports bitsandbytes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvla_policy.checkpoint.library_logs import silence_library_logs

silence_library_logs()
import bitsandbytes as bnb  # noqa: E402 (it logs while it is imported)

OUTLIER = 6.0  # LLM.int8's threshold: activations beyond it are multiplied in 16 bits (Dettmers et al., 2022)
_BLOCK = 64  # consecutive weights, counted through the rows, that share a scale in nf4


def int8_linear(linear: nn.Linear, weight: Tensor, device: torch.device) -> nn.Module:
    """Make a layer like `linear` that holds `weight` in 8 bits with a scale a row (LLM.int8)."""
    codes, scales, _ = bnb.functional.int8_vectorwise_quant(weight.to(device, torch.float16).contiguous())
    made = bnb.nn.Linear8bitLt(
        linear.in_features, linear.out_features, has_fp16_weights=False, threshold=OUTLIER, device="meta"
    )
    made.weight = bnb.nn.Int8Params(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=scales)
    made.bias = linear.bias
    return made


def int4_linear(
    linear: nn.Linear, weight: Tensor, device: torch.device, dtype: torch.dtype, *, repack: bool
) -> nn.Module:
    """Make a layer like `linear` that holds `weight` in 4 bits (nf4) with a scale a block.

    Args:
        linear: gives sizes and bias.
        weight: (out, in) in full precision.
        device: where the layer computes.
        dtype: of its activations.
        repack: whether an AVX512-BF16 processor may repack the weights for its own kernel in the first forward pass
            without gradients. Gradients are wrong afterwards.

    Returns:
        The layer. The same matrices are quantised, to the same numbers, on every processor.
    """
    splits_blocks = device.type == "cpu" and linear.in_features % _BLOCK != 0
    kind = _SplitBlocksLinear4bit if splits_blocks else bnb.nn.Linear4bit
    made = kind(
        linear.in_features,
        linear.out_features,
        compute_dtype=dtype,
        compress_statistics=False,
        quant_type="nf4",
        device="meta",
    )
    # The AVX512-BF16 kernel takes whole tiles only, and asserts on others.
    whole_tiles = linear.out_features % 32 == 0 and linear.in_features % 64 == 0
    made.support_avx512bf16_for_cpu = made.support_avx512bf16_for_cpu and whole_tiles and repack
    parameter: Any = bnb.nn.Params4bit(
        weight.to(dtype), requires_grad=False, compress_statistics=False, quant_type="nf4", module=made
    )
    made.weight = parameter.to(device)
    made.bias = linear.bias
    return made


class _SplitBlocksLinear4bit(bnb.nn.Linear4bit):
    """A Linear4bit whose rows are no whole number of blocks, computed right on every CPU.

    bitsandbytes' AVX512 kernel takes the scales of other blocks for such rows (it counts whole blocks a row). The
    layer therefore dequantises its weights as rows of one block each, which every kernel reads alike.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        product = _DequantisedProduct.apply(x.to(self.compute_dtype), self)
        return (product if self.bias is None else product + self.bias).to(x.dtype)

    def dequantised(self) -> Tensor:
        """The weights, (out, in) in the compute dtype."""
        weight: Any = self.weight
        state = weight.quant_state
        size = state.shape.numel()
        blocks = len(state.absmax)
        codes = F.pad(weight.data.flatten(), (0, blocks * _BLOCK // 2 - weight.numel()))  # two codes a byte
        weights = torch.ops.bitsandbytes.dequantize_4bit(
            codes, state.absmax, _BLOCK, state.quant_type, (blocks, _BLOCK), self.compute_dtype
        )
        return weights.flatten()[:size].view(state.shape)


class _DequantisedProduct(torch.autograd.Function):
    """x Wᵀ with the weights dequantised in each pass, so that none is kept in full precision for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: _SplitBlocksLinear4bit) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dequantised())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] @ ctx.layer.dequantised(), None
