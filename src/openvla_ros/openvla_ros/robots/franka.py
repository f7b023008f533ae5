"""Franka FR3 under franka_ros2 (Jazzy): the generic adapter, plus the robot's fault state and its recovery.

Names and types: frankarobotics/franka_ros2, branch jazzy. franka_robot_state_broadcaster publishes ~/current_pose
(PoseStamped, best effort: a reliable subscription receives nothing; in the URDF's root, `base`) and ~/robot_state
(franka_msgs/FrankaRobotState, reliable, 1 kHz); franka_hardware's node `action_server` serves ~/error_recovery
(franka_msgs/action/ErrorRecovery). An error during control (a reflex) deactivates the hardware component and all
controllers, the state broadcaster too (franka_hardware/doc/index.rst): the bridge notices it as silence, and recovery
takes two commands more. Modes other than `move` are reported while no controller commands the arm.
"""

from __future__ import annotations

from dataclasses import dataclass

from openvla_ros.robots.adapter import FRANKA_STATE, Goal, Handler, Measured
from openvla_ros.robots.generic import GenericAdapter, GenericConfig

# franka_msgs/msg/FrankaRobotState.robot_mode
MODES = ("other", "idle", "move", "guiding", "reflex", "user stopped", "automatic error recovery")
MOVES = ("idle", "move")  # idle: no controller commands it yet, for example right after recovery
REFLEX = MODES.index("reflex")
RECOVERY = (
    "find the cause, then call bridge_node/recover_robot and the driver's two commands "
    "(docs/how-to/first-motion-franka.md)"
)


@dataclass(frozen=True)
class FrankaConfig:
    """What a Franka has in addition to every arm."""

    robot_state_topic: str = "franka_robot_state_broadcaster/robot_state"  # '': not read
    recovery_action: str = "action_server/error_recovery"
    recovery_timeout: float = 10.0  # [s]


class FrankaAdapter(GenericAdapter):
    """A Franka."""

    def __init__(self, config: GenericConfig, franka: FrankaConfig) -> None:
        super().__init__(config)
        self.after_recovery = (
            "; before that `ros2 control set_hardware_component_state FrankaHardwareInterface active` and `ros2 "
            "control switch_controllers --activate` with the state broadcaster and your controller"
        )
        self.recovery = (franka.recovery_action, Goal("franka_msgs/action/ErrorRecovery", {}))
        self.recovery_timeout = franka.recovery_timeout
        if franka.robot_state_topic:
            mode = Handler(FRANKA_STATE, self.read_mode, silence=f"after a reflex {RECOVERY}")
            self.sources = {**self.sources, franka.robot_state_topic: mode}

    def read_mode(self, mode: int) -> Measured:
        """Report a robot that follows no targets: in reflex, guided by hand, or stopped by its button."""
        name = MODES[mode] if 0 <= mode < len(MODES) else f"unknown mode {mode}"
        if name in MOVES:
            return Measured(fault="")
        remedy = f": {RECOVERY}" if mode == REFLEX else ""
        return Measured(fault=f"the robot is in mode '{name}'{remedy}")
