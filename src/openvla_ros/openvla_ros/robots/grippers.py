"""Grippers: an opening, 0 closed … 1 open, as the topic or the action goal that a gripper's driver takes, and back.

franka_gripper (frankarobotics/franka_ros2, branch jazzy, franka_gripper/src/gripper_action_server.cpp) serves the
actions ~/move and ~/grasp of franka_msgs (widths between the fingers [m], speed [m/s], force [N]) and ~/gripper_action
of control_msgs (`position` of one finger, half the width), and publishes the two fingers on ~/joint_states.
ros2_controllers (jazzy) has two gripper controllers, both with an action ~/gripper_cmd: parallel_gripper_controller
takes control_msgs/action/ParallelGripperCommand (exactly one position), the older gripper_controllers GripperCommand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from openvla_ros.robots.adapter import JOINTS, Fields, Goal, Handler, Measured, Opening, Sent, positions_of

KINDS = ("topic", "franka", "command", "parallel", "none")


@dataclass(frozen=True)
class GripperConfig:
    """One gripper (parameters `hand.*`). `closed`, `opened`: the sum of its joint positions there [m]."""

    kind: str = "topic"
    name: str = "gripper/command"  # topic, or action (command, parallel), or node of the actions (franka)
    state_topic: str = "gripper/state"
    joints: tuple[str, ...] = ()  # (): the first position of the message
    closed: float = 0.0
    opened: float = 1.0
    speed: float = 0.1  # [m/s]
    force: float = 20.0  # [N]
    timeout: float = 3.0  # [s]

    def __post_init__(self) -> None:
        """Check kind and range.

        Raises:
            ValueError: The kind is unknown, or the range is empty.
        """
        if self.kind not in KINDS:
            raise ValueError(f"hand.kind '{self.kind}' is unknown; choices: {', '.join(KINDS)}")
        if abs(self.opened - self.closed) < 1e-6:
            raise ValueError(
                f"hand.closed and hand.opened are both {self.closed}: give each the sum of the joint positions there"
            )


class GripperDriver:
    """Commands and state of one gripper."""

    def __init__(self, config: GripperConfig) -> None:
        self.config = config
        name = config.name
        self.topics = ((name, Opening),) if config.kind == "topic" else ()
        self.actions = {
            "franka": ((f"{name}/move", "franka_msgs/action/Move"), (f"{name}/grasp", "franka_msgs/action/Grasp")),
            "command": ((name, "control_msgs/action/GripperCommand"),),
            "parallel": ((name, "control_msgs/action/ParallelGripperCommand"),),
        }.get(config.kind, ())
        self.timeout = config.timeout if self.actions else None  # [s] longest goal; None: there are none
        self.sources: Mapping[str, Handler] = (
            {} if config.kind == "none" else {config.state_topic: Handler(JOINTS, self.read_joints)}
        )

    def command(self, opening: float) -> Sent:
        """Commands to reach `opening`. Closing is a grasp that holds whatever is between the fingers with `force`."""
        cfg = self.config
        width = cfg.closed + opening * (cfg.opened - cfg.closed)
        if cfg.kind == "topic":
            return ((cfg.name, Opening(opening)),)
        finger = width / max(1, len(cfg.joints))  # the position of one finger; the joints add up to the width
        if cfg.kind == "parallel":
            fields: Fields = {"command": {"name": cfg.joints[:1], "position": (finger,), "effort": (cfg.force,)}}
            return ((cfg.name, Goal("control_msgs/action/ParallelGripperCommand", fields)),)
        if cfg.kind == "command":
            fields = {"command": {"position": finger, "max_effort": cfg.force}}
            return ((cfg.name, Goal("control_msgs/action/GripperCommand", fields)),)
        if cfg.kind == "franka" and opening >= 0.5:
            return ((f"{cfg.name}/move", Goal("franka_msgs/action/Move", {"width": width, "speed": cfg.speed})),)
        if cfg.kind == "franka":
            # Any width is a success: what is between the fingers is not known.
            epsilon = {"inner": cfg.opened, "outer": cfg.opened}
            fields = {"width": width, "epsilon": epsilon, "speed": cfg.speed, "force": cfg.force}
            return ((f"{cfg.name}/grasp", Goal("franka_msgs/action/Grasp", fields)),)
        return ()

    def read_joints(self, names: Sequence[str], positions: Sequence[float], stamp_ns: int) -> Measured:
        """Compute the opening from joint positions [m].

        Args:
            names: Names of the joints in the message.
            positions: Their positions.
            stamp_ns: Stamp of the message [ns].

        Returns:
            The opening, limited to 0 … 1.

        Raises:
            ValueError: Joints are missing.
        """
        if not positions:
            raise ValueError("no position[0]")
        values = positions_of(self.config.joints, names, positions) if self.config.joints else [positions[0]]
        opening = (sum(values) - self.config.closed) / (self.config.opened - self.config.closed)
        return Measured(opening=min(1.0, max(0.0, opening)))
