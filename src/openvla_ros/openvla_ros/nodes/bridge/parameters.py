"""The bridge's parameters: the table, and how it becomes the configurations of the pure parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from openvla_ros.control.bridge_config import CoreConfig
from openvla_ros.control.motion import ArrivalConfig
from openvla_ros.control.target_pose import BASE, END_EFFECTOR
from openvla_ros.geometry import IDENTITY, Bounds, Pose, Quaternion, Vector
from openvla_ros.parameters import Parameter as P
from openvla_ros.robots import ADAPTERS
from openvla_ros.robots.factory import Get
from openvla_ros.robots.parameters import ROBOT_PARAMETERS
from openvla_ros.safety.gate import FIRST, MODES, GateConfig
from openvla_ros.safety.limits import MIN_STOP_FACTOR, ON_LIMIT, Limits
from openvla_ros.safety.permission import MODES as ENABLE_MODES, PermissionConfig
from openvla_ros.safety.watchdogs import Watchdogs
from openvla_ros.safety.zones import Cone, KeepOut, Zones

TF_STATIC = "tf_static"
_ARRIVAL, _WATCHDOG = ArrivalConfig(), Watchdogs()

PARAMETERS = (
    P("robot", "sim", "The robot's adapter", choices=ADAPTERS),
    P("base_frame", "panda_link0", "Frame of robot/ee_pose and of the targets"),
    P("end_effector_frame", "panda_hand_tcp", "Frame name of deltas given along the end effector's axes"),
    P("control_mode", "blocking", "blocking: an action is fully executed before the next image; streaming: fixed rate",
      choices=MODES),
    P("camera_frame", "", "Frame name of deltas given along a camera's axes; '' = none"),
    P("camera.transform", "parameter", "Where its axes are from: parameter (camera.parent, camera.quaternion), or "
      "tf_static: what /tf_static says of camera_frame and base_frame or end_effector_frame at configure",
      choices=("parameter", TF_STATIC)),
    P("camera.parent", BASE, "What the camera is fixed to", choices=(BASE, END_EFFECTOR)),
    P("camera.quaternion", [0.0, 0.0, 0.0, 1.0], "The camera's axes in its parent's (x y z w); where it is mounted "
      "makes no difference to a delta", "", -1.0, 1.0, length=4),
    P("enabled", False, "The operator's switch: whether the robot may move", live=True),
    P("enable.mode", "switch", "switch: `enabled` is enough; deadman: `true` on enable.topic must be repeated as well; "
      "joystick: enable.button must be held as well", choices=ENABLE_MODES),
    P("enable.topic", "enable", "Topic of the deadman (std_msgs/Bool) or of the joystick (sensor_msgs/Joy)"),
    P("enable.button", 4, "Index of the joystick's button", low=0, high=63),
    P("enable.timeout", 0.5, "A held button not heard of for longer counts as let go", "s", 0.02, 10.0),
    P("e_stop.timeout", 0.0, "Longest silence of e_stop before the robot holds; 0 = it may be silent", "s", 0.0, 10.0),
    P("sources", ["policy", "expert"], "Sources that may be in command, one at a time"),
    P("source", FIRST, "The source in command at activation; first: whichever of `sources` sends a chunk first"),
    P("actions_per_chunk", 0, "Actions of a chunk to execute: 0 = all (open loop), n = the first n (receding horizon)",
      low=0, high=64),
    P("chunk.ensemble", False, "Temporal ensembling: execute the mean of what the chunks say for the same moment"),
    P("chunk.ensemble_decay", 0.01, "Weights exp(-decay · i), i = 0 for the oldest prediction", "1", -10.0, 10.0),
    P("restream_rate", 50.0, "Rate of the targets sent to the robot's controller", "Hz", 1.0, 1000.0),
    P("leash.translation", 0.05, "Farthest that the commanded position may be from the measured one", "m", 0.001, 0.5),
    P("leash.rotation", 0.3, "Farthest that the commanded orientation may be from the measured one", "rad", 0.01, 3.1),
    P("max_state_speed", 4.0, "A measured pose that moved faster was put there: start anew from it", "m/s", 0.1, 50.0),
    P("arrival.position", _ARRIVAL.position, "An action is executed when the position is this near", "m", 1e-4, 0.1),
    P("arrival.rotation", _ARRIVAL.rotation, "Likewise, by angle", "rad", 1e-3, 1.0),
    P("arrival.still_speed", _ARRIVAL.still_speed, "Slower than this is standing: executed as far as it goes", "m/s",
      1e-4, 0.2),
    P("arrival.still_time", _ARRIVAL.still_time, "How long it must stand", "s", 0.01, 5.0),
    P("arrival.gripper", _ARRIVAL.gripper, "The gripper has arrived when its opening is this near", "1", 1e-3, 0.5),
    P("arrival.gripper_speed", _ARRIVAL.gripper_speed, "A gripper slower than this stands: it holds something",
      "1/s", 1e-3, 2.0),
    P("arrival.gripper_delay", _ARRIVAL.gripper_delay, "Time a gripper has to begin to move", "s", 0.0, 5.0),
    P("arrival.time_limit", _ARRIVAL.time_limit, "Time after the planned motion to call an action executed anyway", "s",
      0.05, 30.0),
    P("workspace.low", [0.2, -0.4, 0.0], "Lowest corner of the workspace, base frame", "m", -5.0, 5.0, length=3),
    P("workspace.high", [0.8, 0.4, 0.6], "Highest corner of the workspace, base frame", "m", -5.0, 5.0, length=3),
    P("tolerance.translation", 0.01, "How far outside its limits the arm may stand to begin with", "m", 0.0, 0.1),
    P("tolerance.rotation", 0.05, "Likewise, by angle", "rad", 0.0, 0.5),
    P("keep_out", [""], "Boxes the target stays out of, each `name low_x low_y low_z high_x high_y high_z`, base frame",
      "m"),
    P("cone.axis", [0.0, 0.0, -1.0], "Direction the tool points along, base frame", "", -1.0, 1.0, length=3),
    P("cone.tool_axis", [0.0, 0.0, 1.0], "The tool's axis, end-effector frame", "", -1.0, 1.0, length=3),
    P("cone.angle", 3.1416, "How far the tool may lean from cone.axis; 3.1416 = as it likes", "rad", 0.01, 3.1416),
    P("yaw.low", -3.1416, "Smallest turn of the tool about cone.axis", "rad", -3.1416, 3.1416),
    P("yaw.high", 3.1416, "Largest turn of the tool about cone.axis", "rad", -3.1416, 3.1416),
    P("limit.translation", 0.12, "Largest translation of an action", "m", 1e-4, 1.0),
    P("limit.rotation", 0.5, "Largest roll, pitch or yaw of an action", "rad", 1e-3, 3.1),
    P("limit.speed", 0.5, "Highest speed of the target", "m/s", 1e-3, 3.0),
    P("limit.turn", 2.0, "Highest angular speed of the target", "rad/s", 1e-2, 6.0),
    P("limit.acceleration", 5.0, "Highest acceleration of the target", "m/s²", 0.01, 50.0),
    P("limit.jerk", 100.0, "Highest jerk of the target", "m/s³", 0.1, 10000.0),
    P("limit.turn_acceleration", 20.0, "Highest angular acceleration of the target", "rad/s²", 0.05, 200.0),
    P("limit.turn_jerk", 400.0, "Highest angular jerk of the target", "rad/s³", 0.5, 50000.0),
    P("stop.time", 0.25, "The target stands still so soon after it has to stop; checked at configure", "s", 0.01, 5.0),
    P("stop.factor", 2.0, "Braking may use so many times the acceleration and jerk limits", "1", MIN_STOP_FACTOR, 20.0),
    P("limit.mode", "clip", "What an action over a limit becomes", choices=ON_LIMIT),
    P("scale", 1.0, "Factor on translations and rotations; begin with 0.2 … 0.5 on a new robot", "1", 0.01, 1.0),
    P("gripper.close_below", 0.4, "The gripper closes when the policy asks for less", "1", 0.0, 1.0),
    P("gripper.open_above", 0.6, "The gripper opens when the policy asks for more", "1", 0.0, 1.0),
    P("gripper.interval", 0.3, "Shortest time between two changes of the gripper's command", "s", 0.0, 10.0),
    P("gripper.first", False, "Blocking control: a gripper that opens or closes is done before the arm moves"),
    P("watchdog.observation", _WATCHDOG.observation, "Oldest image an action may come from", "s", 0.01, 600.0),
    P("watchdog.action", _WATCHDOG.action, "Oldest action that is still executed", "s", 0.01, 600.0),
    P("watchdog.state", _WATCHDOG.state, "Oldest robot state to move on", "s", 0.01, 600.0),
    P("watchdog.clock_jump", _WATCHDOG.clock_jump, "A clock that gains more on the steady one, or goes back, holds",
      "s", 0.01, 600.0),
    P("watchdog.future", _WATCHDOG.future, "How far ahead of this clock a stamp may be", "s", 0.001, 10.0),
    *ROBOT_PARAMETERS,
)  # fmt: skip


def gate_config(get: Get) -> GateConfig:
    """The gate's configuration; ValueError in one line when the values contradict each other."""
    limits = Limits(
        zones=Zones(
            low=_three(get("workspace.low")),
            high=_three(get("workspace.high")),
            keep_out=tuple(KeepOut.parse(text) for text in get("keep_out") if text.strip()),
            cone=Cone(
                axis=_three(get("cone.axis")),
                tool_axis=_three(get("cone.tool_axis")),
                angle=min(math.pi, get("cone.angle")),
                yaw_low=max(-math.pi, get("yaw.low")),
                yaw_high=min(math.pi, get("yaw.high")),
            ),
        ),
        max_translation=get("limit.translation"),
        max_rotation=get("limit.rotation"),
        move=Bounds(get("limit.speed"), get("limit.acceleration"), get("limit.jerk")),
        turn=Bounds(get("limit.turn"), get("limit.turn_acceleration"), get("limit.turn_jerk")),
        stop_time=get("stop.time"),
        stop_factor=get("stop.factor"),
        scale=get("scale"),
        on_limit=get("limit.mode"),
        close_below=get("gripper.close_below"),
        open_above=get("gripper.open_above"),
        gripper_interval=get("gripper.interval"),
    )
    return GateConfig(
        limits=limits,
        watchdogs=Watchdogs(**{name: get(f"watchdog.{name}") for name in Watchdogs.__dataclass_fields__}),
        mode=get("control_mode"),
        sources=tuple(get("sources")),
        source=get("source"),
        frames=tuple(delta_frames(get)),
    )


def delta_frames(get: Get) -> dict[str, tuple[str, Quaternion]]:
    """The frames that deltas may be given in: name -> what it is fixed to, and its axes there."""
    if get("base_frame") == get("end_effector_frame"):
        raise ValueError(
            f"base_frame and end_effector_frame are both '{get('base_frame')}': deltas along the two differ, so give "
            "each its own name"
        )
    frames: dict[str, tuple[str, Quaternion]] = {
        get("base_frame"): (BASE, IDENTITY),
        get("end_effector_frame"): (END_EFFECTOR, IDENTITY),
    }
    if get("camera_frame"):
        if get("camera_frame") in frames:
            raise ValueError(f"camera_frame '{get('camera_frame')}' is the name of another frame, too")
        axes = Pose.of((0.0, 0.0, 0.0), get("camera.quaternion")).quaternion
        frames[get("camera_frame")] = (get("camera.parent"), axes)
    return frames


def core_config(get: Get, *, simulated_time: bool = False) -> CoreConfig:
    """Everything the core needs; ValueError in one line when the values contradict each other."""
    return CoreConfig(
        gate=gate_config(get),
        permission=PermissionConfig(get("enable.mode"), get("enable.timeout"), get("e_stop.timeout")),
        arrival=arrival_config(get),
        period=1.0 / get("restream_rate"),
        max_following_error=(get("leash.translation"), get("leash.rotation")),
        max_state_speed=get("max_state_speed"),
        frames=delta_frames(get),
        actions_per_chunk=get("actions_per_chunk"),
        ensemble_decay=get("chunk.ensemble_decay") if get("chunk.ensemble") else None,
        gripper_first=get("gripper.first"),
        tolerance=(get("tolerance.translation"), get("tolerance.rotation")),
        simulated_time=simulated_time,
    )


def _three(values: Sequence[float]) -> Vector:
    return (float(values[0]), float(values[1]), float(values[2]))


def arrival_config(get: Get) -> ArrivalConfig:
    """When an action counts as executed."""
    return ArrivalConfig(**{name: get(f"arrival.{name}") for name in ArrivalConfig.__dataclass_fields__})
