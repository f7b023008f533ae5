"""Pillow's resize of 8-bit images as two matrix products, bit for bit, on the device of the image.

Pillow (src/libImaging/Resample.c) filters columns, rounds to 8 bits, then filters rows, with coefficients rounded to
22 fractional bits. All sums are integers below 2^53, so that float64 products give them exactly in any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

_BITS = 22  # fractional bits of a coefficient


def _bilinear(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _bicubic(x: float) -> float:
    a, x = -0.5, abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0


def _lanczos(x: float) -> float:
    def sinc(y: float) -> float:
        return 1.0 if y == 0.0 else math.sin(y * math.pi) / (y * math.pi)

    return sinc(x) * sinc(x / 3) if -3.0 <= x < 3.0 else 0.0


_FILTERS: dict[int, tuple[Callable[[float], float], float]] = {  # Pillow's number: the filter and its reach
    1: (_lanczos, 3.0),
    2: (_bilinear, 1.0),
    3: (_bicubic, 2.0),
}


def supports(resample: int) -> bool:
    """Whether Pillow's filter number `resample` is implemented."""
    return resample in _FILTERS


def resize(image: Tensor, height: int, width: int, resample: int = 3) -> Tensor:
    """uint8 (H, W, 3) -> uint8 (height, width, 3), equal to PIL.Image.resize with filter `resample`."""
    if image.shape[1] != width:
        image = _rounded(
            torch.einsum("ow,hwc->hoc", _matrix(image.shape[1], width, resample, image.device), image.double())
        )
    if image.shape[0] != height:
        image = _rounded(
            torch.einsum("oh,hwc->owc", _matrix(image.shape[0], height, resample, image.device), image.double())
        )
    return image


def _rounded(sums: Tensor) -> Tensor:
    return ((sums + 2 ** (_BITS - 1)) / 2**_BITS).floor().clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)  # a camera's frames all have one size
def _matrix(old: int, new: int, resample: int, device: torch.device) -> Tensor:
    """Coefficients (new, old), integers in float64: precompute_coeffs and normalize_coeffs_8bpc of Pillow."""
    filter_, reach = _FILTERS[resample]
    scale = old / new
    stretch = max(scale, 1.0)
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for row in range(new):
        centre = (row + 0.5) * scale
        first = max(int(centre - reach * stretch + 0.5), 0)
        behind = min(int(centre + reach * stretch + 0.5), old)
        weights = [filter_((x - centre + 0.5) * (1.0 / stretch)) for x in range(first, behind)]
        total = sum(weights)
        for x, weight in enumerate(weights, first):
            share = (weight / total if total != 0.0 else weight) * 2**_BITS
            matrix[row, x] = int(share - 0.5) if share < 0 else int(share + 0.5)
    return matrix.to(device)
