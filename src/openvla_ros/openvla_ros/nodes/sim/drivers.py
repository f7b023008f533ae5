"""The driver emulators by name."""

from __future__ import annotations

from openvla_ros.nodes.common.lifecycle_node import ManagedNode
from openvla_ros.nodes.sim.driver import DriverEmulator
from openvla_ros.nodes.sim.parameters import SimParameters


def make_driver(node: ManagedNode[SimParameters]) -> DriverEmulator:
    """The driver emulator that the node's parameter `face` names.

    Args:
        node: The simulator node.

    Returns:
        The driver emulator, without publishers and subscriptions yet.
    """
    name = node.parameters.driver
    if name == "franka":
        from openvla_ros.nodes.sim.franka_driver import FrankaDriverEmulator

        return FrankaDriverEmulator(node)
    if name == "widowx":
        from openvla_ros.nodes.sim.xs_sdk_driver import XsSdkEmulator

        return XsSdkEmulator(node)
    return DriverEmulator(node)
