"""Franka FR3 under franka_ros2 (Jazzy): the generic bridge, plus the robot's own state and its recovery.

Names and types: frankarobotics/franka_ros2, branch jazzy. franka_robot_state_broadcaster publishes ~/current_pose
(PoseStamped, best effort: a reliable subscriber hears nothing; in the URDF's root, `base`) and ~/robot_state
(franka_msgs/FrankaRobotState, reliable, 1 kHz); franka_hardware's node `action_server` serves ~/error_recovery
(franka_msgs/action/ErrorRecovery). An error in the middle of control (a reflex) deactivates the hardware component and
all controllers, the state broadcaster too (franka_hardware/doc/index.rst): it shows as silence, and coming back takes
two commands more than the recovery. A mode other than `move` is heard while no controller commands the arm.
"""

from __future__ import annotations

from dataclasses import dataclass

from openvla_ros.robots.adapter import Goal, Source
from openvla_ros.robots.generic import GenericAdapter, GenericConfig

# franka_msgs/msg/FrankaRobotState.robot_mode
MODES = ("other", "idle", "move", "guiding", "reflex", "user stopped", "automatic error recovery")
MOVES = ("idle", "move")  # idle: no controller commands it yet, such as right after recovery
REFLEX = MODES.index("reflex")
RECOVERY = "look why, then bridge_node/recover_robot and the driver's two commands (docs/how-to/first-motion-franka.md)"


@dataclass(frozen=True)
class FrankaConfig:
    """What a Franka has beside what every arm has."""

    robot_state_topic: str = "franka_robot_state_broadcaster/robot_state"  # '' = not listened to
    recovery_action: str = "action_server/error_recovery"
    recovery_timeout: float = 10.0  # [s]


class FrankaAdapter(GenericAdapter):
    """A Franka."""

    def __init__(self, config: GenericConfig, franka: FrankaConfig) -> None:
        super().__init__(config)
        self.silence = f"after a reflex {RECOVERY}"
        self.after_recovery = (
            "; before that `ros2 control set_hardware_component_state FrankaHardwareInterface active` and `ros2 "
            "control switch_controllers --activate` with the state broadcaster and your controller"
        )
        self.actions = (*self.actions, (franka.recovery_action, "franka_msgs/action/ErrorRecovery"))
        self.recovery = (
            franka.recovery_action,
            Goal("franka_msgs/action/ErrorRecovery", {}, franka.recovery_timeout),
        )
        if franka.robot_state_topic:
            mode = Source(franka.robot_state_topic, "mode", "franka_msgs/msg/FrankaRobotState")
            self.sources = (*self.sources, mode)

    def fault(self, mode: int) -> str:
        """A robot that follows nobody's targets: reflex, guided by hand, stopped by its button."""
        name = MODES[mode] if 0 <= mode < len(MODES) else f"unknown mode {mode}"
        if name in MOVES:
            return ""
        cure = f": {RECOVERY}" if mode == REFLEX else ""
        return f"the robot is in mode '{name}'{cure}"
