"""Encoding and decoding of dataset images, with OpenCV.

PNG keeps the pixels of training bit-equal to those that the policy receives on the robot. JPEG at quality 95 (4:2:0
chroma) is as in the published RLDS datasets, at a quarter of the size. TensorFlow's default JPEG decoder differs from
OpenCV's by up to 13 of 255; a reader in TensorFlow should use `dct_method='INTEGER_ACCURATE'`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args, overload

import cv2
import numpy as np
from numpy.typing import NDArray

JPEG_QUALITY = 95
Encoding = Literal["jpeg", "png"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)

Image = NDArray[np.uint8]


def encode_image(image: Image, encoding: str = "jpeg") -> bytes:
    """Encode an RGB uint8 image (H, W, 3) as jpeg or png."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} {image.shape}; expected uint8 (height, width, 3) RGB")
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if encoding == "jpeg":
        done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    elif encoding == "png":
        # Level 1: simulated and camera frames hardly shrink further, and encoding is 4 times faster than at level 6.
        done, data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    else:
        raise ValueError(f"image encoding {encoding!r} is unknown; choose one of {', '.join(ENCODINGS)}")
    if not done:
        raise ValueError(f"OpenCV could not encode a {image.shape} image as {encoding}")
    return data.tobytes()


def decode_image(data: bytes) -> Image:
    """Decode JPEG or PNG bytes to RGB uint8 (H, W, 3)."""
    image: Image | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)  # type: ignore[assignment]
    if image is None:
        raise ValueError(f"{len(data)} bytes that start with {data[:4]!r} are neither a JPEG nor a PNG image")
    return image


class EncodedImages(Sequence[Image]):
    """Encoded frames that are decoded each time they are indexed: an episode takes kilobytes, not megabytes."""

    def __init__(self, encoded: Sequence[bytes]) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> EncodedImages: ...
    def __getitem__(self, index: int | slice) -> Image | EncodedImages:
        if isinstance(index, slice):
            return EncodedImages(self.encoded[index])
        return decode_image(self.encoded[index])
