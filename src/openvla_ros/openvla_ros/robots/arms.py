"""Arms as tables: joints, ranges, speeds, and the fixed tool. Inverse kinematics and the simulator build from them.

Positions are in metres, angles in radians, joints in the order of the arm's commands. Every joint turns about an axis
of the previous joint's frame; with all joints at zero, all frames are parallel to the base's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Joint:
    """One revolute joint: position [m] and axis in the previous joint's frame, range [rad], speed [rad/s], torque."""

    name: str
    offset: Triple
    axis: Triple
    low: float
    high: float
    speed: float
    torque: float  # [N m]


@dataclass(frozen=True)
class Arm:
    """A chain of joints that ends in a tool frame."""

    name: str
    joints: tuple[Joint, ...]
    tool: Triple  # [m] origin of the end effector's frame in the last joint's frame

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the joints."""
        return tuple(joint.name for joint in self.joints)


_TURN = math.pi - 1e-5
_X, _Y, _Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)

# Offsets, ranges, speeds and efforts as published in wx250s.urdf.xacro (Interbotix/interbotix_ros_manipulators, branch
# humble). The tool frame is ee_gripper_link, between the finger tips: x forward, y from finger to finger.
WIDOWX_250S = Arm(
    "wx250s",
    (
        Joint("waist", (0.0, 0.0, 0.072), _Z, -_TURN, _TURN, math.pi, 10.0),
        Joint("shoulder", (0.0, 0.0, 0.03865), _Y, math.radians(-108), math.radians(114), math.pi, 20.0),
        Joint("elbow", (0.04975, 0.0, 0.25), _Y, math.radians(-123), math.radians(92), math.pi, 15.0),
        Joint("forearm_roll", (0.175, 0.0, 0.0), _X, -_TURN, _TURN, math.pi, 2.0),
        Joint("wrist_angle", (0.075, 0.0, 0.0), _Y, math.radians(-100), math.radians(123), math.pi, 5.0),
        Joint("wrist_rotate", (0.065, 0.0, 0.0), _X, -_TURN, _TURN, math.pi, 1.0),
    ),
    tool=(0.093575, 0.0, 0.0),
)
# [m] distance of a finger from the middle, closed and open, as published there.
WIDOWX_FINGER = (0.015, 0.037)
# A posture with the gripper pointing down over the table in front of the arm.
WIDOWX_READY = (0.0, -0.35, 0.50, 0.0, 1.42, 0.0)
