"""A process that publishes static transforms, as tf2_ros' static_transform_publisher does: `parent child x y z w` each.

python static_transforms.py "world panda_link0 0 0 0 1" "world camera_optical_frame 0 0 0 1"
"""

from __future__ import annotations

import contextlib
import sys

import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.executors import ExternalShutdownException
from tf2_msgs.msg import TFMessage

from openvla_ros.nodes.common.qos import LATCHED


def main() -> None:
    """Publish each transform by its own publisher, as several publishers on a robot do, until the process ends."""
    rclpy.init()
    node = rclpy.create_node("static_transforms")
    for argument in sys.argv[1:]:
        parent, child, *quaternion = argument.split()
        made = TransformStamped(child_frame_id=child)
        made.header.frame_id = parent
        r = made.transform.rotation
        r.x, r.y, r.z, r.w = map(float, quaternion)
        node.create_publisher(TFMessage, "/tf_static", LATCHED).publish(TFMessage(transforms=[made]))
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


if __name__ == "__main__":
    main()
