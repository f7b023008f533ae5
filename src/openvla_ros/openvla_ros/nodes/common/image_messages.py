"""Image messages to arrays and back."""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from openvla_policy.contract.camera import Picture, encode_jpeg
from openvla_ros.nodes.common.conversions import header, numbers


def _picture(picture: Picture) -> Picture:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture is uint8 (height, width, 3), not {picture.dtype} {picture.shape}")
    return np.ascontiguousarray(picture)


def image_message(picture: Picture, frame: str, at_ns: int) -> Image:
    """An rgb8 Image of a uint8 (height, width, 3) picture."""
    picture = _picture(picture)
    height, width = int(picture.shape[0]), int(picture.shape[1])
    message = Image(header=header(at_ns, frame), height=height, width=width, encoding="rgb8", step=3 * width)
    message.data = _byte_array(picture.tobytes())
    return message


def jpeg_message(picture: Picture, frame: str, at_ns: int, quality: int) -> CompressedImage:
    """A JPEG CompressedImage, with image_transport's format string."""
    message = CompressedImage(header=header(at_ns, frame), format="rgb8; jpeg compressed bgr8")
    message.data = _byte_array(encode_jpeg(_picture(picture), int(quality)))
    return message


def _byte_array(data: bytes) -> object:
    from array import array

    return array("B", data)  # the one type that rclpy takes over as it is: a numpy array costs 85 ms a frame


def camera_info_message(matrix: np.ndarray, width: int, height: int, frame: str, at_ns: int) -> CameraInfo:
    """Intrinsics of a pinhole camera without distortion. matrix: (3, 3) [px]."""
    k = numbers(np.asarray(matrix, float).reshape(-1), "camera matrix", 9)
    message = CameraInfo(header=header(at_ns, frame), height=int(height), width=int(width))
    message.distortion_model, message.d = "plumb_bob", [0.0] * 5
    message.k, message.r = k, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [*k[0:3], 0.0, *k[3:6], 0.0, *k[6:9], 0.0]
    return message
