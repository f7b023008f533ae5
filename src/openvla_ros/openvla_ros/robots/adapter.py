"""What a robot understands: an adapter turns targets into commands, described as data.

An adapter knows no ROS: it names topics and gives plain values, which `nodes.messages` turns into messages at the
one place that casts and checks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from openvla_ros.robots.target_pose import Pose


@dataclass(frozen=True)
class PoseTarget:
    """An end-effector pose to pull towards, in `frame` (becomes geometry_msgs/PoseStamped)."""

    pose: Pose
    frame: str
    stamp_ns: int


@dataclass(frozen=True)
class Opening:
    """A gripper opening to reach, 0 closed … 1 open (becomes std_msgs/Float64)."""

    opening: float


Command = PoseTarget | Opening


class RobotAdapter(Protocol):
    """One robot's face. Every method returns (topic, command) pairs, which the bridge publishes in that order."""

    topics: Sequence[tuple[str, type]]  # every topic it may name, with the kind of command

    def target(self, pose: Pose, stamp_ns: int) -> Sequence[tuple[str, Command]]:
        """Commands that move the controller's set-point to `pose`, called at the restream rate."""
        ...

    def gripper(self, opening: float) -> Sequence[tuple[str, Command]]:
        """Commands for a new gripper opening 0 … 1, called only when it changes."""
        ...
