"""What a policy observes at one instant."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Observation:
    """One camera frame, with further cameras and the robot's state for policies that read them.

    Attributes:
        image: uint8 RGB (H, W, 3).
        stamp: When the frame was taken, on the robot's clock [s].
        state: Proprioception, float64 of any length; the base OpenVLA ignores it.
        extra_images: Further cameras by name, uint8 RGB.
    """

    image: np.ndarray
    stamp: float = 0.0
    state: np.ndarray | None = None
    extra_images: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, image in {"image": self.image, **self.extra_images}.items():
            check_rgb(image, name)


def check_rgb(image: np.ndarray, name: str = "image") -> None:
    """Raise TypeError or ValueError unless `image` is a uint8 RGB array (H, W, 3); nothing is converted silently."""
    if not isinstance(image, np.ndarray):
        raise TypeError(f"{name}: expected a uint8 RGB array (H, W, 3), got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"{name}: expected a uint8 RGB array (H, W, 3), got {image.dtype} {image.shape}; "
            "convert colours and scale before building an Observation"
        )
