"""Looks up the orientation of a camera on /tf_static, where calibration tools and robot_state_publisher publish."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rclpy.node import Node

from openvla_ros.geometry import Pose, Quaternion
from openvla_ros.nodes.common.message_types import load
from openvla_ros.nodes.common.qos import STATICS
from openvla_ros.nodes.common.temporary_node import temporary_node
from openvla_ros.robots.static_transforms import axes_in

TOPIC = "/tf_static"


def camera_axes(node: Node, camera: str, fixed_to: Mapping[str, str], timeout: float) -> tuple[str, Quaternion]:
    """Look up what a camera is fixed to, and its orientation there.

    Args:
        node: The node that waits.
        camera: Frame of the camera.
        fixed_to: Frames that the camera may be fixed to -> what to return for each; the first that applies counts.
        timeout: Longest wait [s].

    Returns:
        The value of the frame that the camera is fixed to, and the camera's orientation in that frame.

    Raises:
        ImportError: tf2_msgs is not installed.
        TimeoutError: No static transforms connect the camera with any of the frames.
        ValueError: A transform is malformed, or the transforms form a loop.
    """
    links: dict[str, tuple[str, Quaternion]] = {}

    def on_transforms(message: Any) -> None:
        for transform in message.transforms:
            r = transform.transform.rotation
            turn = Pose.of((0.0, 0.0, 0.0), (r.x, r.y, r.z, r.w)).quaternion
            links[transform.child_frame_id.lstrip("/")] = (transform.header.frame_id.lstrip("/"), turn)

    end = time.monotonic() + timeout
    with temporary_node(node, "tf") as (temporary, executor):
        temporary.create_subscription(load("tf2_msgs/msg/TFMessage"), TOPIC, on_transforms, STATICS)
        while True:
            for frame, name in fixed_to.items():
                axes = axes_in(links, camera.lstrip("/"), frame.lstrip("/"))
                if axes is not None:
                    return name, axes
            if time.monotonic() >= end:
                known = ", ".join(f"{child} in {parent}" for child, (parent, _) in sorted(links.items()))
                raise TimeoutError(
                    f"{TOPIC} does not connect camera_frame '{camera}' with {' or '.join(fixed_to)} (received in "
                    f"{timeout:g} s: {known or 'nothing'}): publish its calibration (ros2 run tf2_ros "
                    "static_transform_publisher), or set camera.transform to parameter, and camera.parent and "
                    "camera.quaternion"
                )
            executor.spin_once(timeout_sec=0.05)
