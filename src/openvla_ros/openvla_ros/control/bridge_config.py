"""Configuration of the bridge core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from openvla_ros.control.motion import ArrivalConfig
from openvla_ros.control.target_pose import BASE
from openvla_ros.geometry import IDENTITY, Quaternion
from openvla_ros.safety.gate import GateConfig
from openvla_ros.safety.permission import PermissionConfig


@dataclass(frozen=True)
class CoreConfig:
    """Everything that is fixed while the bridge is configured."""

    gate: GateConfig
    permission: PermissionConfig = field(default_factory=PermissionConfig)
    arrival: ArrivalConfig = field(default_factory=ArrivalConfig)
    period: float = 0.02  # [s] between two targets
    max_following_error: tuple[float, float] = (0.05, 0.3)  # [m, rad] of the measured pose behind the commanded one
    max_state_speed: float = 4.0  # [m/s] a measured pose that moved faster did not get there by the arm's motion
    frames: Mapping[str, tuple[str, Quaternion]] = field(default_factory=lambda: {"base": (BASE, IDENTITY)})
    actions_per_chunk: int = 0  # 0: all (open loop); n: the first n (receding horizon)
    ensemble_decay: float | None = None  # temporal ensembling with this decay; None: no ensembling
    gripper_first: bool = False  # blocking control: the gripper finishes before the arm moves
    tolerance: tuple[float, float] = (0.01, 0.05)  # [m, rad] how far outside its zones the arm may stand to begin
    simulated_time: bool = False  # the node's clock is a simulator's: motion runs on it
    gripper_timeout: float | None = None  # [s] longest gripper goal; None: gripper commands have no result
    recovery_timeout: float = 10.0  # [s] longest goal of the robot's error recovery

    def __post_init__(self) -> None:
        """Check that the target can stop in time, and that ensembling sees whole chunks.

        Raises:
            ValueError: A stop takes longer than its limit, or ensembling is combined with `actions_per_chunk`.
        """
        self.gate.limits.check_stop(self.period)
        if self.ensemble_decay is not None and self.actions_per_chunk:
            raise ValueError("chunk.ensemble uses all actions of a chunk; set actions_per_chunk to 0")
