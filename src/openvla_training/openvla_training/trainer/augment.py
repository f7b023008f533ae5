"""Image augmentation of the reference, on whole batches in torch.

Order, ranges and formulas are those of the reference's data loader (dlimp over tf.image): random resized crop,
then brightness, contrast, saturation and hue. All functions take float32 (B, 3, H, W) in [0, 1]; factors and
offsets are (B,) tensors or numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges as in the reference; None or 0 switches an operation off."""

    crop_area: tuple[float, float] | None = (0.9, 0.9)  # share of the area that is kept, drawn between these
    brightness: float = 0.2  # largest offset
    contrast: tuple[float, float] | None = (0.8, 1.2)
    saturation: tuple[float, float] | None = (0.8, 1.2)
    hue: float = 0.05  # largest shift, in turns


class Augment:
    """uint8 (B, H, W, 3) to augmented uint8 (B, H, W, 3), drawing from one generator."""

    def __init__(self, config: AugmentConfig, generator: torch.Generator) -> None:
        self.config, self._generator = config, generator

    def __call__(self, images: Tensor) -> Tensor:
        """Augment every image of the batch on its own."""
        cfg, count = self.config, len(images)
        area = offset = brightness = contrast = None
        if cfg.crop_area is not None:
            area, offset = self._uniform(count, *cfg.crop_area), self._uniform((count, 2), 0.0, 1.0)
        if cfg.brightness:
            brightness = self._uniform(count, -cfg.brightness, cfg.brightness)
        if cfg.contrast is not None:
            contrast = self._uniform(count, *cfg.contrast)
        saturation = torch.ones(count) if cfg.saturation is None else self._uniform(count, *cfg.saturation)
        hue = self._uniform(count, -cfg.hue, cfg.hue)
        result = torch.empty_like(images)
        for index in range(count):  # one image stays in the processor's cache, a batch does not
            one = slice(index, index + 1)
            x = images[one].permute(0, 3, 1, 2).contiguous().float() / 255.0
            if area is not None and offset is not None:
                x = random_resized_crop(x, area[one], offset[one])
            if brightness is not None:
                x = (x + _column(brightness[one])).clamp(0, 1)
            if contrast is not None:
                x = adjust_contrast(x, contrast[one]).clamp(0, 1)
            if cfg.saturation is not None or cfg.hue:
                x = adjust_hue_saturation(x, hue[one], saturation[one])
            result[one] = (x * 255.0).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return result

    def _uniform(self, shape: int | tuple[int, ...], low: float, high: float) -> Tensor:
        size = (shape,) if isinstance(shape, int) else shape
        return torch.rand(size, generator=self._generator) * (high - low) + low


def _column(values: Tensor | float) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)


def random_resized_crop(x: Tensor, area: Tensor, offset: Tensor) -> Tensor:
    """Cut a share `area` (B,) of each image at `offset` (B, 2) in [0, 1] (y, x) and resize it back.

    Bilinear, the corners' pixels falling on the crop's corners (tf.image.crop_and_resize, which dlimp calls).
    """
    side = area.sqrt()
    theta = torch.zeros(len(x), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, 0, 2] = (2 * offset[:, 1] - 1) * (1 - side)
    theta[:, 1, 2] = (2 * offset[:, 0] - 1) * (1 - side)
    grid = F.affine_grid(theta, list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)


def adjust_contrast(x: Tensor, factor: Tensor | float) -> Tensor:
    """Stretch each channel about its mean over the image (tf.image.adjust_contrast)."""
    mean = x.mean(dim=(2, 3), keepdim=True)
    return (x - mean) * _column(factor) + mean


def adjust_hue_saturation(x: Tensor, hue: Tensor | float, saturation: Tensor | float) -> Tensor:
    """Shift the hue by `hue` turns and scale the saturation, in HSV (tf.image.adjust_hue, adjust_saturation)."""
    high, low = x.amax(dim=1), x.amin(dim=1)
    chroma = high - low
    red, green, blue = x.unbind(1)
    safe = chroma.clamp_min(1e-12)
    sector = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    sector = (sector + 6.0 * _column(hue)[:, 0]) % 6.0
    share = (torch.where(high > 0, chroma / high.clamp_min(1e-12), high) * _column(saturation)[:, 0]).clamp(0, 1)
    chroma = high * share
    # Each channel is the value minus the part of the chroma that its distance from the hue takes away.
    channels = []
    for centre in (5.0, 3.0, 1.0):
        k = sector + centre
        k = torch.where(k >= 6.0, k - 6.0, k)
        channels.append(high - chroma * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0))
    return torch.stack(channels, dim=1)
