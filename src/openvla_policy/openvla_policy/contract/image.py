"""The one image preparation: a camera frame on the robot, a frame of a bag and a training sample alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .observation import check_rgb

ResizeStrategy = Literal["resize-naive", "letterbox", "resize-crop"]
EVALUATION_CROP_AREA = 0.9  # of policies trained with random-resized-crop augmentation
_IMAGENET = ((0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375))  # bf16-rounded
_PILLOW_NAMES = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class ImagePreparation:
    """uint8 RGB of any size -> pixel values, one group of three channels an encoder.

    Reference: PrismaticImageProcessor. `size` is (height, width) [px]; `means` and `stds` have one RGB
    triple an encoder; `resample` is Pillow's filter number (3 = bicubic); `letterbox_fill` is uint8 RGB.
    `crop_area`, where set, zooms into the centre after resizing (evaluation of augmented policies).
    `source` keeps the preprocessor_config.json this came from, so that it is written back whole.
    """

    size: tuple[int, int]
    means: tuple[tuple[float, ...], ...]
    stds: tuple[tuple[float, ...], ...]
    strategy: ResizeStrategy = "resize-naive"
    resample: int = 3
    letterbox_fill: tuple[int, ...] | None = None
    crop_area: float | None = None
    source: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.strategy not in get_args(ResizeStrategy):
            choices = ", ".join(get_args(ResizeStrategy))
            raise ValueError(f"image_resize_strategy: {self.strategy!r} is unknown; choose one of {choices}")
        if self.crop_area is not None and not 0.0 < self.crop_area <= 1.0:
            raise ValueError(f"crop_area: expected a share of the area in (0, 1], got {self.crop_area}")

    @classmethod
    def standard(cls, size: int, encoders: Sequence[Literal["imagenet", "half"]]) -> ImagePreparation:
        """The published models' preparation at `size` px: DINOv2 wants `imagenet`, SigLIP `half`."""
        pairs = [_IMAGENET if kind == "imagenet" else _HALF for kind in encoders]
        return cls(size=(size, size), means=tuple(p[0] for p in pairs), stds=tuple(p[1] for p in pairs))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ImagePreparation:
        """Read a preprocessor_config.json. Its `tvf_*` values, where present, win (as in the reference)."""
        sizes = [tuple(int(n) for n in size[-2:]) for size in config["input_sizes"]]
        means, stds = config["means"], config["stds"]
        if config.get("tvf_normalize_params"):
            means = [entry["mean"] for entry in config["tvf_normalize_params"]]
            stds = [entry["std"] for entry in config["tvf_normalize_params"]]
        resamples = [_PILLOW_NAMES[name] for name in config.get("interpolations", ["bicubic"] * len(sizes))]
        if config.get("tvf_resize_params"):
            resamples = [int(entry["interpolation"]) for entry in config["tvf_resize_params"]]
        if config.get("tvf_crop_params"):
            sizes = [tuple(int(n) for n in entry["output_size"]) for entry in config["tvf_crop_params"]]
        if len(set(sizes)) > 1 or len(set(resamples)) > 1:
            raise ValueError(f"preprocessor_config: encoders differ in size {sizes} or filter {resamples}")
        strategy = config.get("image_resize_strategy", "resize-naive")
        if config.get("tvf_do_letterbox"):
            strategy = "letterbox"
        fill = config.get("tvf_letterbox_fill")
        if strategy == "letterbox" and fill is None:
            fill = [int(value * 255) for value in means[0]]
        return cls(
            size=(sizes[0][0], sizes[0][1]),
            means=tuple(tuple(map(float, mean)) for mean in means),
            stds=tuple(tuple(map(float, std)) for std in stds),
            strategy=strategy,
            resample=resamples[0],
            letterbox_fill=None if fill is None else tuple(int(v) for v in fill),
            source=dict(config),
        )

    def to_config(self) -> dict[str, Any]:
        """preprocessor_config.json, in the reference's layout."""
        if self.source:
            return dict(self.source)
        count, (height, width) = len(self.means), self.size
        resize: Any = [height, width] if self.strategy == "resize-naive" else height
        return {
            "image_processor_type": "PrismaticImageProcessor",
            "processor_class": "PrismaticProcessor",
            "image_resize_strategy": self.strategy,
            "input_sizes": [[3, height, width]] * count,
            "interpolations": [{v: k for k, v in _PILLOW_NAMES.items()}[self.resample]] * count,
            "means": [list(mean) for mean in self.means],
            "stds": [list(std) for std in self.stds],
            "tvf_crop_params": [{"output_size": [height, width]}] * count,
            "tvf_do_letterbox": self.strategy == "letterbox",
            "tvf_letterbox_fill": None if self.letterbox_fill is None else list(self.letterbox_fill),
            "tvf_normalize_params": [
                {"inplace": False, "mean": list(m), "std": list(s)} for m, s in zip(self.means, self.stds, strict=True)
            ],
            "tvf_resize_params": [{"antialias": True, "interpolation": self.resample, "max_size": None, "size": resize}]
            * count,
            "use_fused_vision_backbone": count > 1,
        }

    def with_crop(self, area: float | None = EVALUATION_CROP_AREA) -> ImagePreparation:
        """The same with (or, for None, without) the evaluation centre crop."""
        return replace(self, crop_area=area)

    def resize(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) -> uint8 (*size, 3): the geometry alone, which a trainer may cache."""
        check_rgb(image)
        picture = Image.fromarray(image)
        height, width = self.size
        resample = Image.Resampling(self.resample)
        if self.strategy == "resize-naive":
            picture = picture.resize((width, height), resample)
        else:
            if self.strategy == "letterbox":
                picture = _pad_to_square(picture, self.letterbox_fill or (0, 0, 0))
            picture = _crop_centre(_resize_short_side(picture, height, resample), height, width)
        resized = np.asarray(picture)
        return resized if self.crop_area is None else center_crop(resized, self.crop_area)

    def normalise(self, images: np.ndarray | Tensor, device: torch.device | str | None = None) -> Tensor:
        """uint8 (..., h, w, 3) -> float32 (..., 3 * encoders, h, w), on `device` (done there)."""
        if isinstance(images, np.ndarray):
            # Pillow hands out read-only arrays, which torch warns about.
            images = torch.from_numpy(images if images.flags.writeable else images.copy())
        pixels = images.to(device=device).movedim(-1, -3).float().div(255.0)
        means, stds = self._constants
        groups = [
            (pixels - mean.to(pixels.device)) / std.to(pixels.device) for mean, std in zip(means, stds, strict=True)
        ]
        return torch.cat(groups, dim=-3) if len(groups) > 1 else groups[0].contiguous()

    def __call__(self, image: np.ndarray, device: torch.device | str | None = None) -> Tensor:
        """One frame, uint8 (H, W, 3) -> float32 (3 * encoders, h, w)."""
        return self.normalise(self.resize(image), device)

    @cached_property
    def _constants(self) -> tuple[list[Tensor], list[Tensor]]:
        def column(values: tuple[float, ...]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device="cpu").view(3, 1, 1)

        return [column(m) for m in self.means], [column(s) for s in self.stds]


def _pad_to_square(picture: Image.Image, fill: tuple[int, ...]) -> Image.Image:
    width, height = picture.size
    side = max(width, height)
    left, top = int((side - width) / 2), int((side - height) / 2)
    # The reference pads both sides alike, so an odd difference leaves the square one pixel short.
    padded = Image.new("RGB", (width + 2 * left, height + 2 * top), fill)
    padded.paste(picture, (left, top))
    return padded


def _resize_short_side(picture: Image.Image, side: int, resample: Image.Resampling) -> Image.Image:
    width, height = picture.size
    short, long = min(width, height), max(width, height)
    other = int(side * long / short)
    new = (side, other) if width <= height else (other, side)
    return picture if new == (width, height) else picture.resize(new, resample)


def _crop_centre(picture: Image.Image, height: int, width: int) -> Image.Image:
    left = round((picture.width - width) / 2.0)
    top = round((picture.height - height) / 2.0)
    return picture.crop((left, top, left + width, top + height))


def center_crop(image: np.ndarray, area: float = EVALUATION_CROP_AREA) -> np.ndarray:
    """Zoom into the central `area` share of a uint8 (H, W, 3) image, keeping its size.

    Bilinear with corner-aligned samples, as tf.image.crop_and_resize in the reference's evaluation code
    (experiments/robot/openvla_utils.py, crop_and_resize).
    """
    return crop_and_resize(image, area, image.shape[0], image.shape[1])


def crop_and_resize(image: np.ndarray, area: float, height: int, width: int) -> np.ndarray:
    """The central `area` share of a uint8 (H, W, 3) image as uint8 (height, width, 3)."""
    side = np.sqrt(np.float32(area))
    start = (np.float32(1) - side) / np.float32(2)
    end = start + side
    pixels = image.astype(np.float32) * np.float32(1.0 / 255.0)
    for axis, count in ((1, width), (0, height)):  # TensorFlow's order, for the same rounding
        last = np.float32(pixels.shape[axis] - 1)
        step = (end - start) * last / np.float32(max(count - 1, 1))
        at = start * last + np.arange(count, dtype=np.float32) * step
        low = np.floor(at).astype(np.int64)
        high = np.ceil(at).astype(np.int64)
        weight = (at - low.astype(np.float32)).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        before, after = pixels.take(low, axis), pixels.take(high, axis)
        pixels = before + (after - before) * weight
    return np.clip(pixels * np.float32(255.5), 0, 255).astype(np.uint8)
