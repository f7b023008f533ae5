"""Camera messages to RGB images: one function for raw and compressed images in any common encoding.

The policy node and the conversion of bags both use it, so that training sees what the robot saw. A message is any
object with the fields of sensor_msgs/Image or CompressedImage, from rclpy or from a bag. OpenCV converts colours, as
it does inside cv_bridge; plain rgb8 needs no conversion.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

# encoding -> (bytes per pixel, 0 for planar; OpenCV's conversion to 8- or 16-bit RGB, '' for none). Names as in
# sensor_msgs/image_encodings.hpp; OpenCV names Bayer patterns by the second row's pixels. OpenCV's type names have no
# colour order: drivers that use 8UC3 and similar names mean OpenCV's own order.
_ENCODINGS = {
    "rgb8": (3, ""), "bgr8": (3, "BGR2RGB"), "rgba8": (4, "RGBA2RGB"), "bgra8": (4, "BGRA2RGB"),
    "mono8": (1, "GRAY2RGB"), "8UC1": (1, "GRAY2RGB"), "8UC3": (3, "BGR2RGB"), "8UC4": (4, "BGRA2RGB"),
    "rgb16": (6, ""), "bgr16": (6, "BGR2RGB"), "rgba16": (8, "RGBA2RGB"), "bgra16": (8, "BGRA2RGB"),
    "mono16": (2, "GRAY2RGB"), "16UC1": (2, "GRAY2RGB"),
    "yuv422": (2, "YUV2RGB_UYVY"), "uyvy": (2, "YUV2RGB_UYVY"),
    "yuv422_yuy2": (2, "YUV2RGB_YUYV"), "yuyv": (2, "YUV2RGB_YUYV"),
    "nv12": (0, "YUV2RGB_NV12"), "nv21": (0, "YUV2RGB_NV21"),
    "bayer_rggb8": (1, "BayerBG2RGB"), "bayer_bggr8": (1, "BayerRG2RGB"),
    "bayer_gbrg8": (1, "BayerGR2RGB"), "bayer_grbg8": (1, "BayerGB2RGB"),
    "bayer_rggb16": (2, "BayerBG2RGB"), "bayer_bggr16": (2, "BayerRG2RGB"),
    "bayer_gbrg16": (2, "BayerGR2RGB"), "bayer_grbg16": (2, "BayerGB2RGB"),
}  # fmt: skip
PIXEL_BYTES = {name: size for name, (size, _) in _ENCODINGS.items()}
_WIDE = {"16UC1", *(name for name in _ENCODINGS if name.endswith("16"))}


def to_rgb(message: Any) -> Picture:
    """Convert a camera message to RGB. 16-bit images are divided by 257.

    Args:
        message: A sensor_msgs Image or CompressedImage, from rclpy or from a bag.

    Returns:
        uint8 (height, width, 3).

    Raises:
        ValueError: The encoding is unknown, or the data does not have the size that it implies.
    """
    return _decompressed(message) if hasattr(message, "format") else _converted(message)


def _converted(message: Any) -> Picture:
    encoding, height, width = str(message.encoding), int(message.height), int(message.width)
    if encoding not in _ENCODINGS:
        raise ValueError(f"image encoding '{encoding}' is unknown; known: {', '.join(_ENCODINGS)}")
    if height <= 0 or width <= 0:
        raise ValueError(f"image is {width} x {height} pixels")
    pixel_bytes, conversion = _ENCODINGS[encoding]
    rows = height if pixel_bytes else height * 3 // 2
    row_bytes = width * (pixel_bytes or 1)
    step = int(message.step) or row_bytes
    data = np.frombuffer(message.data, np.uint8)
    if step < row_bytes or data.size < step * (rows - 1) + row_bytes:
        raise ValueError(
            f"image of {width} x {height} pixels in '{encoding}' needs {rows} rows of {row_bytes} bytes; "
            f"it has {data.size} bytes with step {step}"
        )
    if data.size < step * rows:  # drivers may omit the last row's padding
        data = np.concatenate([data, np.zeros(step * rows - data.size, np.uint8)])
    pixels: NDArray[Any] = np.ascontiguousarray(data[: step * rows].reshape(rows, step)[:, :row_bytes])
    if encoding in _WIDE:
        pixels = pixels.view(">u2" if message.is_bigendian else "<u2").astype(np.uint16)
    channels = pixels.shape[1] // width
    pixels = pixels.reshape((rows, width, channels) if channels > 1 else (rows, width))
    if conversion:
        import cv2

        pixels = np.asarray(cv2.cvtColor(pixels, getattr(cv2, f"COLOR_{conversion}")))
    if encoding in _WIDE:
        pixels = pixels // 257
    return np.ascontiguousarray(pixels, np.uint8)


def _decompressed(message: Any) -> Picture:
    import cv2

    picture = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"compressed image of {len(message.data)} bytes, format '{message.format}', cannot be decoded")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def encode_jpeg(picture: Picture, quality: int) -> bytes:
    """Encode an RGB image as the bytes of a JPEG file."""
    import cv2

    fine, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not fine:
        raise ValueError(f"an image of shape {picture.shape} cannot be encoded as JPEG")
    return bytes(encoded)
