"""The driver emulators by name."""

from __future__ import annotations

from openvla_ros.nodes.common.lifecycle_node import ManagedNode
from openvla_ros.nodes.sim.driver import SimFace


def make_face(node: ManagedNode) -> SimFace:
    """The face that the node's parameter `face` names; ImportError where its messages are not installed."""
    name = node.value("face")
    if name == "franka":
        from openvla_ros.nodes.sim.franka_driver import FrankaFace

        return FrankaFace(node)
    if name == "widowx":
        from openvla_ros.nodes.sim.xs_sdk_driver import WidowXFace

        return WidowXFace(node)
    return SimFace(node)
