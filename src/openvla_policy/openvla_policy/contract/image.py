"""The image preparation of robots, bags and training samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openvla_policy.contract import resample as resampling
from openvla_policy.contract.observation import check_rgb

ResizeStrategy = Literal["resize-naive", "letterbox", "resize-crop"]
EVALUATION_CROP_AREA = 0.9  # of policies trained with random-resized-crop augmentation
_IMAGENET = ((0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375))  # bf16-rounded
_PILLOW_NAMES = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class ImagePreparation:
    """uint8 RGB of any size to pixel values, three channels for each encoder (reference: PrismaticImageProcessor).

    Attributes:
        size: (height, width) [px].
        means: An RGB triple for each encoder.
        stds: Likewise.
        strategy: How an image is brought to `size`.
        resample: Pillow's filter number (3: bicubic).
        letterbox_fill: uint8 RGB of the padding.
        crop_area: Share of the area to zoom into after resizing (evaluation of augmented policies). None: no zoom.
        source: The preprocessor_config.json that was read, which is written back unchanged.
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
        if self.strategy == "letterbox" and self.letterbox_fill is None:
            # As in the reference: the colour that the first encoder's normalisation turns into 0.
            object.__setattr__(self, "letterbox_fill", tuple(int(value * 255) for value in self.means[0]))

    @classmethod
    def standard(cls, size: int, encoders: Sequence[Literal["imagenet", "half"]]) -> ImagePreparation:
        """The published models' preparation at `size` px: DINOv2 has `imagenet` statistics, SigLIP `half`."""
        pairs = [_IMAGENET if kind == "imagenet" else _HALF for kind in encoders]
        return cls(size=(size, size), means=tuple(p[0] for p in pairs), stds=tuple(p[1] for p in pairs))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ImagePreparation:
        """Read a preprocessor_config.json. Its `tvf_*` values have precedence, as in the reference."""
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
        """The contents of preprocessor_config.json, in the reference's layout."""
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
        """Replace the evaluation's centre crop; None removes it."""
        return replace(self, crop_area=area)

    def resize(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) -> uint8 (*size, 3): the geometric part, which a trainer may cache."""
        check_rgb(image)
        picture = Image.fromarray(image)
        height, width = self.size
        resample = Image.Resampling(self.resample)
        if self.strategy == "resize-naive":
            picture = picture.resize((width, height), resample)
        else:
            if self.letterbox_fill is not None and self.strategy == "letterbox":
                picture = _pad_to_square(picture, self.letterbox_fill)
            picture = _crop_centre(_resize_short_side(picture, height, resample), height, width)
        resized = np.asarray(picture)
        return resized if self.crop_area is None else center_crop(resized, self.crop_area)

    def resize_tensor(self, image: Tensor) -> Tensor:
        """`resize`, bit for bit, on the device of the image: uint8 (H, W, 3) -> uint8 (*size, 3)."""
        height, width = self.size
        if self.strategy == "resize-naive":
            image = resampling.resize(image, height, width, self.resample)
        else:
            if self.strategy == "letterbox":
                left, top = _padding(image.shape[1], image.shape[0])
                fill = torch.tensor(self.letterbox_fill, dtype=torch.uint8, device=image.device)
                padded = fill.expand(image.shape[0] + 2 * top, image.shape[1] + 2 * left, 3).clone()
                padded[top : top + image.shape[0], left : left + image.shape[1]] = image
                image = padded
            wide, high = _short_side(image.shape[1], image.shape[0], height)
            image = resampling.resize(image, high, wide, self.resample)
            left, top = _centre(wide, high, height, width)
            image = image[top : top + height, left : left + width]
        return image if self.crop_area is None else _zoom(image, self.crop_area, height, width)

    def normalise(self, images: np.ndarray | Tensor, device: torch.device | str | None = None) -> Tensor:
        """uint8 (..., h, w, 3) -> float32 (..., 3 * encoders, h, w), computed on `device`."""
        if isinstance(images, np.ndarray):
            # Pillow returns read-only arrays, about which torch warns.
            images = torch.from_numpy(images if images.flags.writeable else images.copy())
        pixels = images.to(device=device).movedim(-1, -3).float().div(255.0)
        means, stds = (_columns(values, pixels.device) for values in (self.means, self.stds))
        groups = [(pixels - mean) / std for mean, std in zip(means, stds, strict=True)]
        return torch.cat(groups, dim=-3) if len(groups) > 1 else groups[0].contiguous()

    def prepare(self, images: Sequence[np.ndarray], device: torch.device | str | None = None) -> Tensor:
        """Prepare frames of any sizes.

        For a GPU the frames are copied as bytes from pinned memory and resized there, bit for bit as Pillow does on the
        CPU (contract/resample.py).

        Args:
            images: uint8 RGB (H, W, 3) each.
            device: Where the result goes. None: the CPU.

        Returns:
            float32 (B, 3 * encoders, h, w).
        """
        device = torch.device(device or "cpu")
        if device.type != "cuda" or not resampling.supports(self.resample):
            return self.normalise(np.stack([self.resize(image) for image in images]), device)
        resized = []
        for image in images:
            check_rgb(image)
            pinned = torch.empty(image.shape, dtype=torch.uint8, pin_memory=True)
            pinned.numpy()[:] = image
            resized.append(self.resize_tensor(pinned.to(device, non_blocking=True)))
        return self.normalise(torch.stack(resized))

    def __call__(self, image: np.ndarray, device: torch.device | str | None = None) -> Tensor:
        """uint8 (H, W, 3) -> float32 (3 * encoders, h, w)."""
        return self.normalise(self.resize(image), device)


@lru_cache(maxsize=16)  # small, but each is a copy to the GPU
def _columns(values: tuple[tuple[float, ...], ...], device: torch.device) -> list[Tensor]:
    return [torch.tensor(channels, dtype=torch.float32, device="cpu").view(3, 1, 1).to(device) for channels in values]


def _padding(width: int, height: int) -> tuple[int, int]:
    """Columns and rows to add on either side for a square image."""
    side = max(width, height)
    # The reference pads both sides alike, so an odd difference leaves the square one pixel short.
    return int((side - width) / 2), int((side - height) / 2)


def _short_side(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height after scaling the shorter to `side`."""
    other = int(side * max(width, height) / min(width, height))
    return (side, other) if width <= height else (other, side)


def _centre(wide: int, high: int, height: int, width: int) -> tuple[int, int]:
    """Left and top of the central (height, width)."""
    return round((wide - width) / 2.0), round((high - height) / 2.0)


def _pad_to_square(picture: Image.Image, fill: tuple[int, ...]) -> Image.Image:
    left, top = _padding(*picture.size)
    padded = Image.new("RGB", (picture.width + 2 * left, picture.height + 2 * top), fill)
    padded.paste(picture, (left, top))
    return padded


def _resize_short_side(picture: Image.Image, side: int, resample: Image.Resampling) -> Image.Image:
    new = _short_side(*picture.size, side)
    return picture if new == picture.size else picture.resize(new, resample)


def _crop_centre(picture: Image.Image, height: int, width: int) -> Image.Image:
    left, top = _centre(*picture.size, height, width)
    return picture.crop((left, top, left + width, top + height))


def center_crop(image: np.ndarray, area: float = EVALUATION_CROP_AREA) -> np.ndarray:
    """Zoom into the centre of an image, keeping its size.

    Bilinear with corner-aligned samples, as tf.image.crop_and_resize in the reference's evaluation code
    (experiments/robot/openvla_utils.py, crop_and_resize).

    Args:
        image: uint8 (H, W, 3).
        area: Share of the area to keep.

    Returns:
        uint8 (H, W, 3).
    """
    return crop_and_resize(image, area, image.shape[0], image.shape[1])


def crop_and_resize(image: np.ndarray, area: float, height: int, width: int) -> np.ndarray:
    """The central `area` share of a uint8 (H, W, 3) image as uint8 (height, width, 3)."""
    writeable = image if image.flags.writeable else image.copy()
    return _zoom(torch.from_numpy(writeable), area, height, width).numpy()


def _zoom(image: Tensor, area: float, height: int, width: int) -> Tensor:
    """`crop_and_resize` on the device of the image."""
    pixels = image.float() * (1.0 / 255.0)
    for axis, count in ((1, width), (0, height)):  # TensorFlow's order, for the same rounding
        low, high, weight = _samples(pixels.shape[axis], count, area, image.device)
        before, after = pixels.index_select(axis, low), pixels.index_select(axis, high)
        pixels = before + (after - before) * weight.view((-1, 1, 1) if axis == 0 else (1, -1, 1))
    return (pixels * 255.5).clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _samples(length: int, count: int, area: float, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Indices before and after each of `count` samples along an axis, and the weight of those after."""
    side = np.sqrt(np.float32(area))
    start = (np.float32(1) - side) / np.float32(2)
    last = np.float32(length - 1)
    end = start + side
    step = (end - start) * last / np.float32(max(count - 1, 1))
    at = start * last + np.arange(count, dtype=np.float32) * step
    low, high = np.floor(at), np.ceil(at)
    first, second, weight = (torch.from_numpy(v) for v in (low.astype(np.int64), high.astype(np.int64), at - low))
    return first.to(device), second.to(device), weight.to(device)
