"""A window with the camera's image, for the operator; `openvla-teleop --show` starts it as a process of its own.

It has no lifecycle, no node waits for it, and closing the window does not affect the stack.
"""

from __future__ import annotations

import os
import sys

import cv2
import rclpy
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import Image

from openvla_policy.contract.camera import to_rgb
from openvla_ros.bringup.image_window import ImageWindow
from openvla_ros.nodes.common.lifecycle_node import RCLError
from openvla_ros.nodes.common.qos import SENSOR

HEIGHT = 672  # [px] smaller images are enlarged to this height


def main() -> None:
    """Display `camera/image_raw` until the process is signalled to end."""
    rclpy.init()
    node = rclpy.create_node("camera_window")
    window = ImageWindow("openvla-teleop: camera")
    newest: list[Image] = []

    def keep(message: Image) -> None:
        newest[:] = [message]

    node.create_subscription(Image, "camera/image_raw", keep, SENSOR)
    try:
        while rclpy.ok():
            rclpy.spin_once(node, timeout_sec=0.05)
            if newest:
                window.show(enlarged(newest.pop()))
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RCLError:
        if rclpy.ok():  # otherwise the context was shut down during the wait
            raise
    window.close()
    node.destroy_node()  # else its shared memory segment stays behind
    sys.stdout.flush()
    os._exit(0)  # without waiting for library threads, as the nodes do


def enlarged(message: Image) -> cv2.typing.MatLike:
    """The image as uint8 RGB (H, W, 3), at least HEIGHT pixels high."""
    picture = to_rgb(message)
    factor = max(1.0, HEIGHT / picture.shape[0])
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)


if __name__ == "__main__":
    main()
