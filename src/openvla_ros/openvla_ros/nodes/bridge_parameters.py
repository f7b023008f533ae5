"""The bridge's parameters: the table, and how it becomes the configurations of the pure parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openvla_ros.nodes.parameters import Parameter as P
from openvla_ros.robots import ADAPTERS
from openvla_ros.robots.motion import PROFILES, ArrivalConfig
from openvla_ros.safety.gate import MODES, GateConfig
from openvla_ros.safety.limits import ON_LIMIT, Limits
from openvla_ros.safety.watchdogs import Watchdogs

Get = Callable[[str], Any]

PARAMETERS = (
    P("robot", "sim", "The robot's adapter", choices=tuple(ADAPTERS)),
    P("base_frame", "panda_link0", "Frame of robot/ee_pose and of the targets"),
    P("end_effector_frame", "panda_hand_tcp", "Frame name of deltas given along the end effector's axes"),
    P("control_mode", "blocking", "blocking: an action is fully executed before the next image; streaming: fixed rate",
      choices=MODES),
    P("enabled", True, "Whether the robot may move", live=True),
    P("sources", ["policy", "expert"], "Sources whose chunks may command the robot"),
    P("actions_per_chunk", 0, "Actions of a chunk to execute; 0 = all", low=0, high=64),
    P("restream_rate", 50.0, "Rate of the targets sent to the robot's controller", "Hz", 1.0, 1000.0),
    P("profile", "minimum_jerk", "How the target travels from action to action", choices=tuple(PROFILES)),
    P("leash.translation", 0.05, "Farthest that the commanded position may be from the measured one", "m", 0.001, 0.5),
    P("leash.rotation", 0.3, "Farthest that the commanded orientation may be from the measured one", "rad", 0.01, 3.1),
    P("max_state_speed", 4.0, "A measured pose that moved faster was put there: start anew from it", "m/s", 0.1, 50.0),
    P("arrival.position", 0.005, "An action is executed when the position is this near", "m", 1e-4, 0.1),
    P("arrival.rotation", 0.03, "An action is executed when the orientation is this near", "rad", 1e-3, 1.0),
    P("arrival.still_speed", 0.01, "Slower than this is standing: executed as far as it goes", "m/s", 1e-4, 0.2),
    P("arrival.still_time", 0.1, "How long it must stand", "s", 0.01, 5.0),
    P("arrival.gripper", 0.03, "The gripper has arrived when its opening is this near", "1", 1e-3, 0.5),
    P("arrival.gripper_speed", 0.05, "A gripper slower than this stands: it holds something", "1/s", 1e-3, 2.0),
    P("arrival.gripper_delay", 0.15, "Time a gripper has to begin to move", "s", 0.0, 5.0),
    P("arrival.time_limit", 1.5, "Time after the planned motion to call an action executed anyway", "s", 0.05, 30.0),
    P("workspace.low", [0.2, -0.4, 0.0], "Lowest corner of the workspace, base frame", "m", -5.0, 5.0, length=3),
    P("workspace.high", [0.8, 0.4, 0.6], "Highest corner of the workspace, base frame", "m", -5.0, 5.0, length=3),
    P("limit.translation", 0.12, "Largest translation of an action", "m", 1e-4, 1.0),
    P("limit.rotation", 0.5, "Largest roll, pitch or yaw of an action", "rad", 1e-3, 3.1),
    P("limit.speed", 0.5, "Highest speed of the target", "m/s", 1e-3, 3.0),
    P("limit.turn", 2.0, "Highest angular speed of the target", "rad/s", 1e-2, 6.0),
    P("limit.mode", "clip", "What an action over a limit becomes", choices=ON_LIMIT),
    P("scale", 1.0, "Factor on translations and rotations; begin with 0.2 … 0.5 on a new robot", "1", 0.01, 1.0),
    P("gripper.close_below", 0.4, "The gripper closes when the policy asks for less", "1", 0.0, 1.0),
    P("gripper.open_above", 0.6, "The gripper opens when the policy asks for more", "1", 0.0, 1.0),
    P("gripper.first", False, "Blocking control: a gripper that opens or closes is done before the arm moves"),
    P("watchdog.observation", 2.0, "Oldest image an action may come from", "s", 0.01, 600.0),
    P("watchdog.action", 1.0, "Oldest action that is still executed", "s", 0.01, 600.0),
    P("watchdog.state", 0.3, "Oldest robot state to move on", "s", 0.01, 600.0),
    P("watchdog.clock_jump", 1.0, "A larger step of the clock holds", "s", 0.01, 600.0),
    P("watchdog.future", 0.05, "How far ahead of this clock a stamp may be", "s", 0.001, 10.0),
)  # fmt: skip


def gate_config(get: Get) -> GateConfig:
    """The gate's configuration; ValueError in one line when the values contradict each other."""
    low, high = get("workspace.low"), get("workspace.high")
    limits = Limits(
        box_low=(low[0], low[1], low[2]),
        box_high=(high[0], high[1], high[2]),
        max_translation=get("limit.translation"),
        max_rotation=get("limit.rotation"),
        max_speed=get("limit.speed"),
        max_turn=get("limit.turn"),
        scale=get("scale"),
        on_limit=get("limit.mode"),
        close_below=get("gripper.close_below"),
        open_above=get("gripper.open_above"),
    )
    names = ("observation", "action", "state", "clock_jump", "future")
    return GateConfig(
        limits=limits,
        watchdogs=Watchdogs(**{name: get(f"watchdog.{name}") for name in names}),
        mode=get("control_mode"),
        sources=tuple(get("sources")),
        frames=(get("base_frame"), get("end_effector_frame")),
    )


def arrival_config(get: Get) -> ArrivalConfig:
    """When an action counts as executed."""
    return ArrivalConfig(**{name: get(f"arrival.{name}") for name in ArrivalConfig.__dataclass_fields__})
