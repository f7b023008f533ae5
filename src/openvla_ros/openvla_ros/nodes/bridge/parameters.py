"""Parameters of the bridge node, and the configurations of its components that follow from them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import ClassVar

from openvla_ros.control.bridge_config import CoreConfig
from openvla_ros.control.motion import ArrivalConfig
from openvla_ros.control.target_pose import BASE, END_EFFECTOR
from openvla_ros.geometry import IDENTITY, Bounds, Pose, Quaternion
from openvla_ros.parameters import ManagedNodeParameters, parameter
from openvla_ros.robots import ADAPTERS
from openvla_ros.robots.adapter import RobotAdapter
from openvla_ros.robots.factory import make_adapter
from openvla_ros.robots.parameters import RobotParameters
from openvla_ros.safety.gate import FIRST, MODES, GateConfig
from openvla_ros.safety.limits import MIN_STOP_FACTOR, ON_LIMIT, Limits
from openvla_ros.safety.permission import MODES as ENABLE_MODES, PermissionConfig
from openvla_ros.safety.watchdogs import Watchdogs
from openvla_ros.safety.zones import Cone, KeepOut, Zones

TF_STATIC = "tf_static"


@dataclass(frozen=True)
class CameraAxesParameters:
    """Axes of a camera that deltas may be given along: `camera.*`."""

    transform: str = parameter(
        "parameter",
        "Source of its orientation: parameter (camera.parent, camera.quaternion), or tf_static (/tf_static, between "
        "camera_frame and base_frame or end_effector_frame, at configure)",
        choices=("parameter", TF_STATIC),
    )
    parent: str = parameter(BASE, "What the camera is fixed to", choices=(BASE, END_EFFECTOR))
    quaternion: tuple[float, float, float, float] = parameter(
        (0.0, 0.0, 0.0, 1.0),
        "Orientation of the camera in its parent (x y z w); its position does not matter for deltas",
        "",
        -1.0,
        1.0,
        length=4,
    )


@dataclass(frozen=True)
class EnableParameters:
    """The operator's permission: `enable.*`."""

    mode: str = parameter(
        "switch",
        "switch: `enabled` is enough; deadman: `true` on enable.topic must be repeated as well; "
        "joystick: enable.button must be held as well",
        choices=ENABLE_MODES,
    )
    topic: str = parameter("enable", "Topic of the deadman (std_msgs/Bool) or of the joystick (sensor_msgs/Joy)")
    button: int = parameter(4, "Index of the joystick's button", low=0, high=63)
    timeout: float = parameter(
        0.5, "Longest silence of a held button; after that it counts as released", "s", 0.02, 10.0
    )


@dataclass(frozen=True)
class EStopParameters:
    """The emergency stop: `e_stop.*`."""

    timeout: float = parameter(0.0, "Longest silence of e_stop before the robot holds; 0 = no limit", "s", 0.0, 10.0)


@dataclass(frozen=True)
class ChunkParameters:
    """Chunks of actions: `chunk.*`."""

    ensemble: bool = parameter(
        False, "Temporal ensembling: execute the mean of the chunks' predictions for the same moment"
    )
    ensemble_decay: float = parameter(
        0.01, "Weights exp(-decay · i), i = 0 for the oldest prediction", "1", -10.0, 10.0
    )


@dataclass(frozen=True)
class FollowingParameters:
    """How far the command may be from the measured pose: `leash.*`."""

    translation: float = parameter(
        0.05, "Maximum following error: distance of the commanded position from the measured one", "m", 0.001, 0.5
    )
    rotation: float = parameter(
        0.3, "Maximum following error: angle of the commanded orientation from the measured one", "rad", 0.01, 3.1
    )


@dataclass(frozen=True)
class ArrivalParameters:
    """When an action counts as executed: `arrival.*`."""

    position: float = parameter(
        ArrivalConfig.position, "An action counts as executed at this distance from its goal", "m", 1e-4, 0.1
    )
    rotation: float = parameter(
        ArrivalConfig.rotation, "An action counts as executed at this angle from its goal", "rad", 1e-3, 1.0
    )
    still_speed: float = parameter(
        ArrivalConfig.still_speed, "An arm slower than this is at rest: its action counts as executed", "m/s", 1e-4, 0.2
    )
    still_time: float = parameter(
        ArrivalConfig.still_time, "Time for which arm or gripper must be at rest", "s", 0.01, 5.0
    )
    gripper: float = parameter(
        ArrivalConfig.gripper, "The gripper has arrived at this difference of its opening", "1", 1e-3, 0.5
    )
    gripper_speed: float = parameter(
        ArrivalConfig.gripper_speed, "A gripper slower than this is at rest: it holds something", "1/s", 1e-3, 2.0
    )
    gripper_delay: float = parameter(ArrivalConfig.gripper_delay, "Time for a gripper to begin to move", "s", 0.0, 5.0)
    time_limit: float = parameter(
        ArrivalConfig.time_limit,
        "Longest time after the planned motion; then an action counts as executed",
        "s",
        0.05,
        30.0,
    )


@dataclass(frozen=True)
class WorkspaceParameters:
    """The workspace: `workspace.*`."""

    low: tuple[float, float, float] = parameter(
        (0.2, -0.4, 0.0), "Lowest corner of the workspace, base frame", "m", -5.0, 5.0, length=3
    )
    high: tuple[float, float, float] = parameter(
        (0.8, 0.4, 0.6), "Highest corner of the workspace, base frame", "m", -5.0, 5.0, length=3
    )


@dataclass(frozen=True)
class ToleranceParameters:
    """How far outside its limits an arm may begin to move: `tolerance.*`."""

    translation: float = parameter(
        0.01, "Largest distance outside the limits from which a motion may begin", "m", 0.0, 0.1
    )
    rotation: float = parameter(0.05, "Largest angle outside the limits from which a motion may begin", "rad", 0.0, 0.5)


@dataclass(frozen=True)
class ConeParameters:
    """Directions of the tool: `cone.*`."""

    axis: tuple[float, float, float] = parameter(
        (0.0, 0.0, -1.0), "Reference direction of the tool, base frame", "", -1.0, 1.0, length=3
    )
    tool_axis: tuple[float, float, float] = parameter(
        (0.0, 0.0, 1.0), "The tool's axis, end-effector frame", "", -1.0, 1.0, length=3
    )
    angle: float = parameter(3.1416, "Largest angle of the tool from cone.axis; 3.1416 = no limit", "rad", 0.01, 3.1416)


@dataclass(frozen=True)
class YawParameters:
    """Yaw of the tool about the cone's axis: `yaw.*`."""

    low: float = parameter(-3.1416, "Smallest yaw of the tool about cone.axis", "rad", -3.1416, 3.1416)
    high: float = parameter(3.1416, "Largest yaw of the tool about cone.axis", "rad", -3.1416, 3.1416)


@dataclass(frozen=True)
class LimitParameters:
    """Limits of the motion: `limit.*`."""

    translation: float = parameter(0.12, "Largest translation of an action", "m", 1e-4, 1.0)
    rotation: float = parameter(0.5, "Largest roll, pitch or yaw of an action", "rad", 1e-3, 3.1)
    speed: float = parameter(0.5, "Highest speed of the target", "m/s", 1e-3, 3.0)
    turn: float = parameter(2.0, "Highest angular speed of the target", "rad/s", 1e-2, 6.0)
    acceleration: float = parameter(5.0, "Highest acceleration of the target", "m/s²", 0.01, 50.0)
    jerk: float = parameter(100.0, "Highest jerk of the target", "m/s³", 0.1, 10000.0)
    turn_acceleration: float = parameter(20.0, "Highest angular acceleration of the target", "rad/s²", 0.05, 200.0)
    turn_jerk: float = parameter(400.0, "Highest angular jerk of the target", "rad/s³", 0.5, 50000.0)
    mode: str = parameter("clip", "What happens to an action over a limit", choices=ON_LIMIT)


@dataclass(frozen=True)
class StopParameters:
    """Stops: `stop.*`."""

    time: float = parameter(0.25, "Longest time from the cause of a stop to rest; checked at configure", "s", 0.01, 5.0)
    factor: float = parameter(
        2.0, "Acceleration and jerk while braking, relative to their limits", "1", MIN_STOP_FACTOR, 20.0
    )


@dataclass(frozen=True)
class GripperParameters:
    """The gripper's command: `gripper.*`."""

    close_below: float = parameter(0.4, "The gripper closes when the policy asks for less", "1", 0.0, 1.0)
    open_above: float = parameter(0.6, "The gripper opens when the policy asks for more", "1", 0.0, 1.0)
    interval: float = parameter(0.3, "Shortest time between two changes of the gripper's command", "s", 0.0, 10.0)
    first: bool = parameter(False, "Blocking control: the gripper finishes before the arm moves")


@dataclass(frozen=True)
class WatchdogParameters:
    """Ages that still count as fresh: `watchdog.*`."""

    observation: float = parameter(
        Watchdogs.observation, "Largest age of the image that an action answers", "s", 0.01, 600.0
    )
    action: float = parameter(Watchdogs.action, "Largest age of an action", "s", 0.01, 600.0)
    state: float = parameter(Watchdogs.state, "Largest age of the robot's state", "s", 0.01, 600.0)
    clock_jump: float = parameter(
        Watchdogs.clock_jump,
        "Largest gain of the clock on the steady one; more, or a step back, holds",
        "s",
        0.01,
        600.0,
    )
    future: float = parameter(Watchdogs.future, "Largest lead of a stamp over this clock", "s", 0.001, 10.0)


@dataclass(frozen=True)
class BridgeParameters(RobotParameters, ManagedNodeParameters):
    """Parameters of the bridge node."""

    node: ClassVar[str] = "bridge_node"

    robot: str = parameter("sim", "The robot's adapter", choices=ADAPTERS)
    base_frame: str = parameter("panda_link0", "Frame of robot/ee_pose and of the targets")
    end_effector_frame: str = parameter("panda_hand_tcp", "Frame name of deltas given along the end effector's axes")
    control_mode: str = parameter(
        "blocking",
        "blocking: an action is executed to its end before the next image; streaming: fixed rate",
        choices=MODES,
    )
    camera_frame: str = parameter("", "Frame name of deltas given along a camera's axes; '' = none")
    camera: CameraAxesParameters = field(default_factory=CameraAxesParameters)
    enabled: bool = parameter(False, "The operator's switch: whether the robot may move", live=True)
    enable: EnableParameters = field(default_factory=EnableParameters)
    e_stop: EStopParameters = field(default_factory=EStopParameters)
    sources: tuple[str, ...] = parameter(("policy", "expert"), "Sources that may be in command, one at a time")
    source: str = parameter(FIRST, "The source in command at activation; first: that of the first accepted chunk")
    actions_per_chunk: int = parameter(
        0, "Actions of a chunk to execute: 0 = all (open loop), n = the first n (receding horizon)", low=0, high=64
    )
    chunk: ChunkParameters = field(default_factory=ChunkParameters)
    restream_rate: float = parameter(50.0, "Rate of the targets sent to the robot's controller", "Hz", 1.0, 1000.0)
    leash: FollowingParameters = field(default_factory=FollowingParameters)
    max_state_speed: float = parameter(
        4.0,
        "A measured pose that moved faster is a jump: the motion ends, and the next one starts from it",
        "m/s",
        0.1,
        50.0,
    )
    arrival: ArrivalParameters = field(default_factory=ArrivalParameters)
    workspace: WorkspaceParameters = field(default_factory=WorkspaceParameters)
    tolerance: ToleranceParameters = field(default_factory=ToleranceParameters)
    keep_out: tuple[str, ...] = parameter(
        ("",), "Keep-out boxes, each `name low_x low_y low_z high_x high_y high_z`, base frame", "m"
    )
    cone: ConeParameters = field(default_factory=ConeParameters)
    yaw: YawParameters = field(default_factory=YawParameters)
    limit: LimitParameters = field(default_factory=LimitParameters)
    stop: StopParameters = field(default_factory=StopParameters)
    scale: float = parameter(
        1.0, "Factor on translations and rotations; begin with 0.2 … 0.5 on a new robot", "1", 0.01, 1.0
    )
    gripper: GripperParameters = field(default_factory=GripperParameters)
    watchdog: WatchdogParameters = field(default_factory=WatchdogParameters)


def gate_config(parameters: BridgeParameters) -> GateConfig:
    """The gate's configuration; ValueError if the values contradict each other."""
    limits = Limits(
        zones=Zones(
            low=parameters.workspace.low,
            high=parameters.workspace.high,
            keep_out=tuple(KeepOut.parse(text) for text in parameters.keep_out if text.strip()),
            cone=Cone(
                axis=parameters.cone.axis,
                tool_axis=parameters.cone.tool_axis,
                angle=min(math.pi, parameters.cone.angle),
                yaw_low=max(-math.pi, parameters.yaw.low),
                yaw_high=min(math.pi, parameters.yaw.high),
            ),
        ),
        max_translation=parameters.limit.translation,
        max_rotation=parameters.limit.rotation,
        move=Bounds(parameters.limit.speed, parameters.limit.acceleration, parameters.limit.jerk),
        turn=Bounds(parameters.limit.turn, parameters.limit.turn_acceleration, parameters.limit.turn_jerk),
        stop_time=parameters.stop.time,
        stop_factor=parameters.stop.factor,
        scale=parameters.scale,
        on_limit=parameters.limit.mode,
        close_below=parameters.gripper.close_below,
        open_above=parameters.gripper.open_above,
        gripper_interval=parameters.gripper.interval,
    )
    return GateConfig(
        limits=limits,
        watchdogs=Watchdogs(**asdict(parameters.watchdog)),
        mode=parameters.control_mode,
        sources=parameters.sources,
        source=parameters.source,
        frames=tuple(delta_frames(parameters)),
    )


def delta_frames(parameters: BridgeParameters) -> dict[str, tuple[str, Quaternion]]:
    """The frames that deltas may be given in: name -> what it is fixed to, and its orientation there."""
    if parameters.base_frame == parameters.end_effector_frame:
        raise ValueError(
            f"base_frame and end_effector_frame are both '{parameters.base_frame}': deltas along the two differ, so "
            "give each its own name"
        )
    frames: dict[str, tuple[str, Quaternion]] = {
        parameters.base_frame: (BASE, IDENTITY),
        parameters.end_effector_frame: (END_EFFECTOR, IDENTITY),
    }
    if parameters.camera_frame:
        if parameters.camera_frame in frames:
            raise ValueError(
                f"camera_frame '{parameters.camera_frame}' is the name of another frame, too: give it its own"
            )
        axes = Pose.of((0.0, 0.0, 0.0), parameters.camera.quaternion).quaternion
        frames[parameters.camera_frame] = (parameters.camera.parent, axes)
    return frames


def core_config(parameters: BridgeParameters, *, simulated_time: bool = False) -> CoreConfig:
    """The core's configuration; ValueError if the values contradict each other."""
    return CoreConfig(
        gate=gate_config(parameters),
        permission=PermissionConfig(parameters.enable.mode, parameters.enable.timeout, parameters.e_stop.timeout),
        arrival=arrival_config(parameters),
        period=1.0 / parameters.restream_rate,
        max_following_error=(parameters.leash.translation, parameters.leash.rotation),
        max_state_speed=parameters.max_state_speed,
        frames=delta_frames(parameters),
        actions_per_chunk=parameters.actions_per_chunk,
        ensemble_decay=parameters.chunk.ensemble_decay if parameters.chunk.ensemble else None,
        gripper_first=parameters.gripper.first,
        tolerance=(parameters.tolerance.translation, parameters.tolerance.rotation),
        simulated_time=simulated_time,
    )


def arrival_config(parameters: BridgeParameters) -> ArrivalConfig:
    """When an action counts as executed."""
    return ArrivalConfig(**asdict(parameters.arrival))


def robot_adapter(parameters: BridgeParameters) -> RobotAdapter:
    """The adapter of the robot; ValueError if the values contradict each other."""
    return make_adapter(
        parameters.robot,
        parameters,
        base_frame=parameters.base_frame,
        period=1.0 / parameters.restream_rate,
        speed=parameters.limit.speed,
        turn=parameters.limit.turn,
    )
