"""Image augmentation of the reference, one image at a time.

Order, ranges and formulas are those of the reference's data loader (dlimp over tf.image): random resized crop, then
brightness, contrast, saturation and hue, each clipped to [0, 1]. Drawing the parameters is separate from applying them,
so that threads can share the images of a batch. Images are float32 (H, W, 3) in [0, 1] and are changed in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from openvla_training.trainer.config import AugmentConfig


@dataclass(frozen=True)
class Augmentation:
    """The parameters of one image's augmentation.

    Attributes:
        area: Share of the image area that the crop keeps.
        place: Position (y, x) of the crop, each in [0, 1].
        brightness: Offset.
        contrast: Factor.
        saturation: Factor.
        hue: Shift [turns].
    """

    area: float = 1.0
    place: tuple[float, float] = (0.0, 0.0)
    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


class Augment:
    """Augments images, drawing from one generator."""

    def __init__(self, config: AugmentConfig, generator: torch.Generator) -> None:
        self.config, self._generator = config, generator

    def __call__(self, images: Tensor) -> Tensor:
        """Augment each of the images, uint8 (B, H, W, 3), independently."""
        pairs = zip(images.numpy(), self.draw(len(images)), strict=True)
        return torch.from_numpy(np.stack([augment_image(image, augmentation) for image, augmentation in pairs]))

    def draw(self, count: int) -> list[Augmentation]:
        """The parameters of the next `count` images."""
        cfg = self.config
        drawn: dict[str, list[Any]] = {}
        if cfg.crop_area is not None:
            drawn["area"] = self._uniform(count, *cfg.crop_area).tolist()
            drawn["place"] = [tuple(pair) for pair in self._uniform((count, 2), 0.0, 1.0).tolist()]
        if cfg.brightness:
            drawn["brightness"] = self._uniform(count, -cfg.brightness, cfg.brightness).tolist()
        if cfg.contrast is not None:
            drawn["contrast"] = self._uniform(count, *cfg.contrast).tolist()
        if cfg.saturation is not None:
            drawn["saturation"] = self._uniform(count, *cfg.saturation).tolist()
        if cfg.hue:
            drawn["hue"] = self._uniform(count, -cfg.hue, cfg.hue).tolist()
        return [Augmentation(**{name: values[index] for name, values in drawn.items()}) for index in range(count)]

    def _uniform(self, shape: int | tuple[int, ...], low: float, high: float) -> Tensor:
        size = (shape,) if isinstance(shape, int) else shape
        return torch.rand(size, generator=self._generator) * (high - low) + low


def augment_image(image: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """An image, uint8 (H, W, 3), with an augmentation applied to it."""
    x = image.astype(np.float32)
    x *= np.float32(1 / 255)
    if augmentation.area != 1.0:
        x = resized_crop(x, augmentation.area, augmentation.place)
    if augmentation.brightness:
        x += np.float32(augmentation.brightness)
        _clip(x)
    if augmentation.contrast != 1.0:
        _clip(adjust_contrast(x, augmentation.contrast))
    if augmentation.saturation != 1.0 or augmentation.hue:
        x = adjust_hue_saturation(x, augmentation.hue, augmentation.saturation)
    x *= np.float32(255.5)  # and truncated: the conversion of tf.image.convert_image_dtype to uint8
    return np.clip(x, 0, 255, out=x).astype(np.uint8)


def _clip(x: np.ndarray) -> None:
    np.clip(x, 0.0, 1.0, out=x)


def resized_crop(x: np.ndarray, area: float, place: tuple[float, float]) -> np.ndarray:
    """Crop an image and resize the crop back, bilinearly with aligned corners (tf.image.crop_and_resize, as in dlimp).

    Args:
        x: The image (H, W, 3).
        area: Share of the area to keep.
        place: Position (y, x) of the crop, each in [0, 1].

    Returns:
        The crop, of the image's size.
    """
    side, (height, width, channels) = np.sqrt(area), x.shape
    for axis, count in ((1, width), (0, height)):
        at = place[axis] * (1 - side) * (count - 1) + np.arange(count) * side
        low = np.minimum(at.astype(np.intp), count - 1)
        share = (at - low).astype(np.float32)
        near, far = (x.take(index, axis).reshape(height, -1) for index in (low, np.minimum(low + 1, count - 1)))
        far -= near
        far *= share[:, None] if axis == 0 else np.repeat(share, channels)
        near += far
        x = near.reshape(height, width, channels)
    return x


def adjust_contrast(x: np.ndarray, factor: float) -> np.ndarray:
    """Scale each channel about its mean over the image (tf.image.adjust_contrast)."""
    height, width, channels = x.shape
    mean = np.tile(
        np.array(cv2.mean(x)[:channels], np.float32), width
    )  # one value per row element: numpy adds long rows faster
    rows = x.reshape(height, -1)
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
