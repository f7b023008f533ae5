"""Image and camera messages, built from arrays."""

from __future__ import annotations

from array import array

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from openvla_policy.contract.camera import Picture, encode_jpeg
from openvla_ros.nodes.common.conversions import header, numbers


def _checked(image: Picture) -> Picture:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image is uint8 (height, width, 3), not {image.dtype} {image.shape}")
    return np.ascontiguousarray(image)


def image_message(picture: Picture, frame: str, at_ns: int) -> Image:
    """An rgb8 Image.

    Args:
        picture: RGB uint8 (height, width, 3).
        frame: The camera's optical frame.
        at_ns: Time of the exposure [ns].

    Returns:
        The message.
    """
    picture = _checked(picture)
    height, width = picture.shape[:2]
    message = Image(header=header(at_ns, frame), height=height, width=width, encoding="rgb8", step=3 * width)
    message.data = _byte_array(picture.tobytes())
    return message


def jpeg_message(picture: Picture, frame: str, at_ns: int, quality: int) -> CompressedImage:
    """A JPEG CompressedImage with image_transport's format string.

    Args:
        picture: RGB uint8 (height, width, 3).
        frame: The camera's optical frame.
        at_ns: Time of the exposure [ns].
        quality: Quality of the JPEG [%].

    Returns:
        The message.
    """
    message = CompressedImage(header=header(at_ns, frame), format="rgb8; jpeg compressed bgr8")
    message.data = _byte_array(encode_jpeg(_checked(picture), int(quality)))
    return message


def _byte_array(data: bytes) -> array[int]:
    return array("B", data)  # the only type that rclpy does not copy element by element: a numpy array takes 85 ms


def camera_info_message(matrix: np.ndarray, width: int, height: int, frame: str, at_ns: int) -> CameraInfo:
    """Intrinsics of a pinhole camera without distortion.

    Args:
        matrix: Camera matrix (3, 3) [px].
        width: Width of the image [px].
        height: Height of the image [px].
        frame: The camera's optical frame.
        at_ns: Time of the exposure [ns].

    Returns:
        The message.
    """
    k = numbers(np.asarray(matrix, float).reshape(-1), "camera matrix", 9)
    message = CameraInfo(header=header(at_ns, frame), height=int(height), width=int(width))
    message.distortion_model, message.d = "plumb_bob", [0.0] * 5
    message.k, message.r = k, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [*k[0:3], 0.0, *k[3:6], 0.0, *k[6:9], 0.0]
    return message
