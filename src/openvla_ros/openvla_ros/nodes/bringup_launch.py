"""What the launch files of all robots share: arguments, and the bringup table's processes as launch actions.

Launch files cannot import each other. `stack` needs no launch, so that it is tested where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from openvla_ros.nodes.bringup import CAMERAS, FOXGLOVE, POLICY, ProcessSpec, bringup, companions

# name, default ('' = what config/ says), description, the parameters it sets: (node, parameter, type)
Argument = tuple[str, str, str, Sequence[tuple[str, str, type]]]
BRIDGE = "bridge_node"
COMMON: tuple[Argument, ...] = (
    ("namespace", "", "Namespace of all topics and nodes", ()),
    ("use_sim_time", "", "Take the time from /clock ('' = only in the simulator)", ()),
    ("policy", "true", "Start the policy node (false: scripted expert or teleoperation)", ()),
    ("checkpoint", "", "Checkpoint folder of the policy", ((POLICY, "checkpoint", str),)),
    ("unnorm_key", "", "Dataset whose statistics un-normalise the actions", ((POLICY, "unnorm_key", str),)),
    ("precision", "", "Number format of the policy's weights", ((POLICY, "precision", str),)),
    ("instruction", "", "Instruction to begin with", ((POLICY, "instruction", str),)),
    ("control_mode", "", "blocking or streaming", ((POLICY, "control_mode", str), (BRIDGE, "control_mode", str))),
    ("camera", "", "A file of config/cameras (realsense, usb_cam), or a path", ()),
    ("camera_driver", "true", f"Start the driver of camera:={' or '.join(CAMERAS)}", ()),
    ("foxglove", "false", "Start foxglove_bridge; layout: config/foxglove/openvla.json", ()),
    ("foxglove_port", "8765", "Its WebSocket port", ()),
)


def truth(name: str, text: str) -> bool:
    """A launch argument as a bool; ValueError names it."""
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise ValueError(f"launch argument {name}:={text}: give true or false")


def stack(robot: str, given: Mapping[str, str], arguments: Sequence[Argument]) -> list[ProcessSpec]:
    """The processes for launch arguments as typed; `arguments` are COMMON and the robot's own."""
    policy = truth("policy", given["policy"])
    overrides: dict[str, dict[str, object]] = {}
    for name, _, _, targets in arguments:
        for node, parameter, kind in targets:
            if given[name] and (policy or node != POLICY):
                value = truth(name, given[name]) if kind is bool else kind(given[name])
                overrides.setdefault(node, {})[parameter] = value
    sim_time = truth("use_sim_time", given["use_sim_time"]) if given["use_sim_time"] else None
    port = int(given["foxglove_port"]) if truth("foxglove", given["foxglove"]) else 0
    driver = truth("camera_driver", given["camera_driver"])
    managed = bringup(
        robot, overrides, policy=policy, namespace=given["namespace"], use_sim_time=sim_time, camera=given["camera"]
    )
    return companions(given["camera"], driver, port, given["namespace"]) + managed


def describe(robot: str, own: Sequence[Argument] = ()) -> Any:
    """The LaunchDescription of a robot. Needs ROS 2's launch packages."""
    launch, actions = import_module("launch"), import_module("launch.actions")
    configuration = import_module("launch.substitutions").LaunchConfiguration
    arguments = (*COMMON, *own)

    def processes(context: Any) -> list[Any]:
        given = {name: configuration(name).perform(context) for name, *_ in arguments}
        return [action(spec) for spec in stack(robot, given, arguments)]

    declared = [
        actions.DeclareLaunchArgument(n, default_value=default, description=text) for n, default, text, _ in arguments
    ]
    return launch.LaunchDescription([*declared, actions.OpaqueFunction(function=processes)])


def action(spec: ProcessSpec) -> Any:
    """A process as a launch action; when it ends, all end. (A viewer's end is nobody's concern.)"""
    ended = import_module("launch.events").Shutdown(reason=f"{spec.name} ended")
    on_exit = [] if spec.package == FOXGLOVE.package else [import_module("launch.actions").EmitEvent(event=ended)]
    return import_module("launch_ros.actions").Node(
        package=spec.package,
        executable=spec.executable,
        name=spec.name,
        namespace=spec.namespace,
        parameters=[*(str(file) for file in spec.params_files), dict(spec.parameters)],
        remappings=list(spec.remappings),
        arguments=list(spec.arguments),
        output="screen",
        on_exit=on_exit,
    )
