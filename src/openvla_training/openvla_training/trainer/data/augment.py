"""Image augmentation of the reference, one picture at a time.

Order, ranges and formulas are those of the reference's data loader (dlimp over tf.image): random resized crop, then
brightness, contrast, saturation and hue, each limited to [0, 1]. What is drawn stands apart from what is done with it,
so that pictures can be shared out among threads. Pictures are float32 (H, W, 3) in [0, 1], and are changed in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from openvla_training.trainer.config import AugmentConfig


@dataclass(frozen=True)
class Draw:
    """What is done to one picture: the share of the area kept, where (y, x in [0, 1]), offsets and factors."""

    area: float = 1.0
    place: tuple[float, float] = (0.0, 0.0)
    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


class Augment:
    """uint8 (B, H, W, 3) to augmented uint8 (B, H, W, 3), drawing from one generator."""

    def __init__(self, config: AugmentConfig, generator: torch.Generator) -> None:
        self.config, self._generator = config, generator

    def __call__(self, images: Tensor) -> Tensor:
        """Augment every image of the batch on its own."""
        pictures = zip(images.numpy(), self.draw(len(images)), strict=True)
        return torch.from_numpy(np.stack([augmented(picture, draw) for picture, draw in pictures]))

    def draw(self, count: int) -> list[Draw]:
        """What the next `count` pictures are to get."""
        cfg = self.config
        found: dict[str, list] = {}
        if cfg.crop_area is not None:
            found["area"] = self._uniform(count, *cfg.crop_area).tolist()
            found["place"] = [tuple(pair) for pair in self._uniform((count, 2), 0.0, 1.0).tolist()]
        if cfg.brightness:
            found["brightness"] = self._uniform(count, -cfg.brightness, cfg.brightness).tolist()
        if cfg.contrast is not None:
            found["contrast"] = self._uniform(count, *cfg.contrast).tolist()
        if cfg.saturation is not None:
            found["saturation"] = self._uniform(count, *cfg.saturation).tolist()
        if cfg.hue:
            found["hue"] = self._uniform(count, -cfg.hue, cfg.hue).tolist()
        return [Draw(**{name: values[index] for name, values in found.items()}) for index in range(count)]

    def _uniform(self, shape: int | tuple[int, ...], low: float, high: float) -> Tensor:
        size = (shape,) if isinstance(shape, int) else shape
        return torch.rand(size, generator=self._generator) * (high - low) + low


def augmented(image: np.ndarray, draw: Draw) -> np.ndarray:
    """A picture, uint8 (H, W, 3), with all that was drawn for it done to it."""
    x = image.astype(np.float32)
    x *= np.float32(1 / 255)
    if draw.area != 1.0:
        x = resized_crop(x, draw.area, draw.place)
    if draw.brightness:
        x += np.float32(draw.brightness)
        _limit(x)
    if draw.contrast != 1.0:
        _limit(adjust_contrast(x, draw.contrast))
    if draw.saturation != 1.0 or draw.hue:
        x = adjust_hue_saturation(x, draw.hue, draw.saturation)
    x *= np.float32(255.5)  # and cut off: tf.image.convert_image_dtype's way to uint8
    return np.clip(x, 0, 255, out=x).astype(np.uint8)


def _limit(x: np.ndarray) -> None:
    np.clip(x, 0.0, 1.0, out=x)


def resized_crop(x: np.ndarray, area: float, place: tuple[float, float]) -> np.ndarray:
    """Cut a share `area` of the picture at `place` (y, x in [0, 1]) and resize it back.

    Bilinear, the corners' pixels falling on the crop's corners (tf.image.crop_and_resize, which dlimp calls).
    """
    side, (high, wide, channels) = np.sqrt(area), x.shape
    for axis, count in ((1, wide), (0, high)):
        at = place[axis] * (1 - side) * (count - 1) + np.arange(count) * side
        low = np.minimum(at.astype(np.intp), count - 1)
        share = (at - low).astype(np.float32)
        near, far = (x.take(index, axis).reshape(high, -1) for index in (low, np.minimum(low + 1, count - 1)))
        far -= near
        far *= share[:, None] if axis == 0 else np.repeat(share, channels)
        near += far
        x = near.reshape(high, wide, channels)
    return x


def adjust_contrast(x: np.ndarray, factor: float) -> np.ndarray:
    """Stretch each channel about its mean over the picture (tf.image.adjust_contrast)."""
    high, wide, channels = x.shape
    mean = np.tile(np.array(cv2.mean(x)[:channels], np.float32), wide)  # rows as one line: long ones are added faster
    rows = x.reshape(high, -1)
    rows -= mean
    rows *= np.float32(factor)
    rows += mean
    return x


def adjust_hue_saturation(x: np.ndarray, hue: float, saturation: float) -> np.ndarray:
    """Shift the hue by `hue` turns and scale the saturation, in HSV (tf.image.adjust_hue, adjust_saturation)."""
    hsv = np.asarray(cv2.cvtColor(x, cv2.COLOR_RGB2HSV), np.float32)  # hue in degrees, the others in [0, 1]
    angle, share = hsv[..., 0], hsv[..., 1]
    angle += np.float32(360 * hue)
    angle[angle >= 360] -= np.float32(360)
    angle[angle < 0] += np.float32(360)
    share *= np.float32(saturation)
    np.clip(share, 0.0, 1.0, out=share)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)
