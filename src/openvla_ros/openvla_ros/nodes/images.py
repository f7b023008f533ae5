"""Camera messages to RGB pictures: one function for raw and compressed images in any common encoding.

cv_bridge converts where the ROS installation has it, rosbags-image elsewhere. Neither tells a short buffer from a
padded row, so rows are checked and packed here first.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

# encoding -> (bytes a pixel, or 0 for planar). Names as in sensor_msgs/image_encodings.hpp.
PIXEL_BYTES = {
    "rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC1": 1, "8UC3": 3, "8UC4": 4,
    "rgb16": 6, "bgr16": 6, "rgba16": 8, "bgra16": 8, "mono16": 2, "16UC1": 2,
    "yuv422": 2, "uyvy": 2, "yuv422_yuy2": 2, "yuyv": 2, "nv12": 0, "nv21": 0,
    "bayer_rggb8": 1, "bayer_bggr8": 1, "bayer_gbrg8": 1, "bayer_grbg8": 1,
    "bayer_rggb16": 2, "bayer_bggr16": 2, "bayer_gbrg16": 2, "bayer_grbg16": 2,
}  # fmt: skip
# OpenCV's type names carry no colour order; drivers that use them mean OpenCV's own order.
ALIASES = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "16UC1": "mono16"}


def to_rgb(message: Any) -> Picture:
    """A sensor_msgs Image or CompressedImage (of rclpy or of a bag) as RGB uint8 (height, width, 3).

    16-bit pictures are divided by 257. Raises ValueError naming the encoding or the sizes that do not fit.
    """
    return _decompressed(message) if hasattr(message, "format") else _converted(message)


def _converted(message: Any) -> Picture:
    encoding, height, width = str(message.encoding), int(message.height), int(message.width)
    if encoding not in PIXEL_BYTES:
        raise ValueError(f"image encoding '{encoding}' is unknown; known: {', '.join(PIXEL_BYTES)}")
    if height <= 0 or width <= 0:
        raise ValueError(f"image is {width} x {height} pixels")
    planar = PIXEL_BYTES[encoding] == 0
    rows = height * 3 // 2 if planar else height
    row_bytes = width * (PIXEL_BYTES[encoding] or 1)
    step = int(message.step) or row_bytes
    data = np.frombuffer(message.data, np.uint8)
    if step < row_bytes or data.size < step * (rows - 1) + row_bytes:
        raise ValueError(
            f"image of {width} x {height} pixels in '{encoding}' needs {rows} rows of {row_bytes} bytes; "
            f"it has {data.size} bytes with step {step}"
        )
    if data.size < step * rows:  # the last row's padding may be left out
        data = np.concatenate([data, np.zeros(step * rows - data.size, np.uint8)])
    packed = data[: step * rows].reshape(rows, step)[:, :row_bytes]
    if encoding == "rgb8":
        return np.ascontiguousarray(packed).reshape(height, width, 3)
    if planar:
        import cv2

        code = cv2.COLOR_YUV2RGB_NV12 if encoding == "nv12" else cv2.COLOR_YUV2RGB_NV21
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(packed), code), np.uint8)
    tight = SimpleNamespace(
        encoding=ALIASES.get(encoding, encoding), height=height, width=width, step=row_bytes,
        is_bigendian=int(message.is_bigendian), data=np.ascontiguousarray(packed).reshape(-1),
    )  # fmt: skip
    return np.ascontiguousarray(_backend()(tight))


def _decompressed(message: Any) -> Picture:
    import cv2

    picture = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"compressed image of {len(message.data)} bytes, format '{message.format}', cannot be decoded")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _backend() -> Any:
    """A function from a packed Image to RGB uint8."""
    global _convert
    if _convert is None:
        try:
            from cv_bridge import CvBridge

            bridge = CvBridge()
            bridge.imgmsg_to_cv2  # noqa: B018  a broken installation has no such thing
            _convert = lambda m: bridge.imgmsg_to_cv2(m, "rgb8")  # noqa: E731
        except (ImportError, AttributeError, KeyError):  # KeyError: cv_bridge with OpenCV 5
            from rosbags.image import image_to_cvimage

            _convert = lambda m: image_to_cvimage(m, "rgb8")  # noqa: E731
    return _convert


_convert: Any = None


def encode_jpeg(picture: Picture, quality: int) -> bytes:
    """An RGB picture as a JPEG file's bytes."""
    import cv2

    fine, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not fine:
        raise ValueError(f"a picture of shape {picture.shape} cannot be encoded as JPEG")
    return bytes(encoded)
