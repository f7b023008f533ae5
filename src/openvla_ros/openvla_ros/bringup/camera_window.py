"""A window with what the camera sees, for whoever drives the arm: `openvla-teleop --show` starts it.

Only a look: no lifecycle, nothing waits for it, and closing the window changes nothing for anybody.
"""

from __future__ import annotations

import os
import sys

import cv2
import rclpy
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import Image

from openvla_policy.contract.camera import to_rgb
from openvla_ros.bringup.image_window import Window
from openvla_ros.nodes.common.lifecycle_node import RCLError
from openvla_ros.nodes.common.qos import SENSOR

HEIGHT = 672  # [px] smaller pictures are enlarged to this


def main() -> None:
    """Show `camera/image_raw` until told to end."""
    rclpy.init()
    node = rclpy.create_node("camera_window")
    window = Window("openvla-teleop: camera")
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
        if rclpy.ok():  # else: told to end while waiting
            raise
    window.close()
    node.destroy_node()  # or its shared memory stays behind
    sys.stdout.flush()
    os._exit(0)  # as `main_of`


def enlarged(message: Image) -> cv2.typing.MatLike:
    """The picture as uint8 RGB, at least HEIGHT high."""
    picture = to_rgb(message)
    factor = max(1.0, HEIGHT / picture.shape[0])
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)


if __name__ == "__main__":
    main()
