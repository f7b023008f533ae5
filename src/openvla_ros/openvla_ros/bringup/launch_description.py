"""What the launch files share: arguments, and processes of the bringup table as launch actions.

Launch files cannot import each other. Only `description`, `action` and what they call need ROS 2's launch packages
(test/launch); the rest is tested where there are none.
"""

from __future__ import annotations

import difflib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from openvla_ros.bringup.process_table import CAMERAS, FOXGLOVE, POLICY, ProcessSpec, bringup, companions
from openvla_ros.paths import share_folder

# name, default ('' = what config/ says), description, the parameters it sets: (node, parameter, type)
Argument = tuple[str, str, str, Sequence[tuple[str, str, type]]]
BRIDGE, ENABLE_MODE, ENABLE_TOPIC, JOY = "bridge_node", "enable.mode", "enable.topic", "joy"
COMMON: tuple[Argument, ...] = (
    ("namespace", "", "Namespace of all topics and nodes", ()),
    ("use_sim_time", "", "true or false: take the time from /clock ('' = only in the simulator)", ()),
    ("config", "", "Your settings: a YAML file whose values win (or a name in config/robots)", ()),
    ("policy", "true", "Start the policy node (false: scripted expert or teleoperation)", ()),
    ("checkpoint", "", "Checkpoint folder of a policy that runs here", ((POLICY, "checkpoint", str),)),
    ("server", "", "Or the policy server: ws://HOST:8000", ((POLICY, "server.url", str),)),
    ("server_token_file", "", "File with that server's bearer token", ((POLICY, "server.token_file", str),)),
    ("unnorm_key", "", "Dataset whose statistics un-normalise the actions", ((POLICY, "unnorm_key", str),)),
    ("precision", "", "Number format of the policy's weights", ((POLICY, "precision", str),)),
    ("instruction", "", "Instruction to begin with", ((POLICY, "instruction", str),)),
    ("control_mode", "", "blocking or streaming", ((BRIDGE, "control_mode", str),)),
    ("camera", "", "A file of config/cameras (realsense, usb_cam), or a path", ()),
    ("camera_driver", "true", "Start the camera's driver: true (the one that camera:= names), "
     f"{' or '.join(CAMERAS)} (for camera:=PATH) or false", ()),
    ("foxglove", "false", "Start foxglove_bridge; layout: config/foxglove/openvla.json", ()),
    ("foxglove_port", "8765", "Its WebSocket port", ()),
)  # fmt: skip
# Of the real robots' launch files.
ROBOT: tuple[Argument, ...] = (
    ("scale", "", "Factor on the policy's motions; begin with 0.2", ((BRIDGE, "scale", float),)),
    ("enable_mode", "", "switch, deadman, or joystick (a button of joy_node, on the topic joy unless your config names "
     "another enable.topic)", ((BRIDGE, ENABLE_MODE, str),)),
)  # fmt: skip
DDS_PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"


def typed(name: str, text: str, kind: type, others: Iterable[str] = ()) -> Any:
    """A launch argument's text as `kind`; ValueError names it, and what `others` it could have been."""
    if kind is bool:
        if text.lower() in ("true", "1", "yes"):
            return True
        if text.lower() in ("false", "0", "no"):
            return False
        raise ValueError(f"launch argument {name}:={text}: give {', '.join((*others, 'true'))} or false")
    try:
        return kind(text)
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}[kind]
        raise ValueError(f"launch argument {name}:={text}: give {wanted}") from None


def overrides(given: Mapping[str, str], arguments: Sequence[Argument]) -> dict[str, dict[str, object]]:
    """Node -> parameter -> value for the arguments that were given."""
    made: dict[str, dict[str, object]] = {}
    for name, _, _, targets in arguments:
        for node, parameter, kind in targets:
            if given[name]:
                made.setdefault(node, {})[parameter] = typed(name, given[name], kind)
    return made


def stack(robot: str, given: Mapping[str, str], arguments: Sequence[Argument]) -> list[ProcessSpec]:
    """The processes for launch arguments as typed; `arguments` are COMMON and the robot's own."""
    policy = typed("policy", given["policy"], bool)
    values = overrides(given, arguments)
    if given["checkpoint"] and given["server"]:
        raise ValueError("launch arguments checkpoint and server: give one, the policy is here or there")
    if given["checkpoint"] or given["server"]:
        values[POLICY]["policy.backend"] = "remote" if given["server"] else "local"
    if not policy:
        values.pop(POLICY, None)
    sim_time = typed("use_sim_time", given["use_sim_time"], bool) if given["use_sim_time"] else None
    port = typed("foxglove_port", given["foxglove_port"], int)
    port = port if typed("foxglove", given["foxglove"], bool) else 0
    chosen = given["camera_driver"]
    driver = chosen if chosen in CAMERAS else typed("camera_driver", chosen, bool, CAMERAS)
    managed = bringup(
        given.get("robot", robot), values, policy=policy, namespace=given["namespace"], use_sim_time=sim_time,
        camera=given["camera"], config=given["config"],
    )  # fmt: skip
    if values.get(BRIDGE, {}).get(ENABLE_MODE) == "joystick":
        managed = [_hearing_joy(spec) if spec.name == BRIDGE else spec for spec in managed]
    return companions(given["camera"], driver, port, given["namespace"], given["config"]) + managed


def _hearing_joy(bridge: ProcessSpec) -> ProcessSpec:
    """The bridge with joy_node's topic as the joystick's, unless one of its YAML files names another."""
    yaml = import_module("yaml")  # the system's Python has it beside launch
    for file in bridge.params_files:
        for section in (yaml.safe_load(file.read_text()) or {}).values():
            values = (section or {}).get("ros__parameters") or {}
            if ENABLE_TOPIC in values or "topic" in (values.get("enable") or {}):
                return bridge
    return replace(bridge, parameters={**bridge.parameters, ENABLE_TOPIC: JOY})


def refuse_unknown(file: str, names: Sequence[str], command: Sequence[str]) -> None:
    """ValueError for a word `name:=value` of `ros2 launch`'s command line that the launch file does not know.

    launch ignores such words: with scael:=0.2 an arm would move at its full scale. Only when `file` itself was
    launched; a file that includes it has arguments of its own.
    """
    if not any(Path(word).name == file for word in command):
        return
    for name, given, _ in (word.partition(":=") for word in command):
        if given and name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"it has: {', '.join(names)}"
            raise ValueError(f"{file} has no argument '{name}'; {hint}")


def description(
    file: str, arguments: Sequence[tuple[Any, ...]], actions: Callable[[Mapping[str, str]], list[Any]]
) -> Any:
    """The LaunchDescription of a launch file. arguments: name, default, description, …; actions: from their values."""
    launch, known = import_module("launch"), import_module("launch.actions")
    configuration = import_module("launch.substitutions").LaunchConfiguration
    names = [name for name, *_ in arguments]

    def start(context: Any) -> list[Any]:
        refuse_unknown(file, names, sys.argv)
        return actions({name: configuration(name).perform(context) for name in names})

    declared = [
        known.DeclareLaunchArgument(name, default_value=default, description=text)
        for name, default, text, *_ in arguments
    ]
    # As env.bash does: camera frames need more shared memory than Fast DDS takes by default, also in the driver.
    profile = os.environ.get(DDS_PROFILE) or str(share_folder() / "config" / "dds" / "fastdds.xml")
    environment = known.SetEnvironmentVariable(DDS_PROFILE, profile)
    return launch.LaunchDescription([*declared, environment, known.OpaqueFunction(function=start)])


def describe(robot: str, own: Sequence[Argument] = ()) -> Any:
    """The LaunchDescription of a robot."""
    arguments = (*COMMON, *own)
    return description(
        f"{robot}.launch.py", arguments, lambda given: [action(spec) for spec in stack(robot, given, arguments)]
    )


def action(spec: ProcessSpec) -> Any:
    """A process as a launch action; when it ends, all end. (A viewer's end is nobody's concern.)"""
    if spec.package != "openvla_ros":
        _installed(spec)
    return import_module("launch_ros.actions").Node(
        package=spec.package,
        executable=spec.executable,
        name=spec.name,
        namespace=spec.namespace,
        parameters=[*(str(file) for file in spec.params_files), {k: _value(v) for k, v in spec.parameters.items()}],
        remappings=list(spec.remappings),
        arguments=list(spec.arguments),
        output="screen",
        on_exit=[] if spec.package == FOXGLOVE.package else ending(spec.name),
    )


def ending(name: str) -> Callable[[Any, Any], Any]:
    """What is done when `name` ends: all others are ended, and `ros2 launch` itself fails when `name` did."""
    shutdown = import_module("launch.events").Shutdown(reason=f"{name} ended")

    def ended(event: Any, context: Any) -> Any:
        if context.is_shutdown:
            return None
        if event.returncode:
            how = signal.Signals(-event.returncode).name if event.returncode < 0 else f"status {event.returncode}"
            raise RuntimeError(f"{name} ended with {how}; all others are ended")
        return import_module("launch.actions").EmitEvent(event=shutdown)

    return ended


def _value(value: object) -> Any:
    # launch_ros reads texts as YAML: an instruction would become a number, a bool, or an error.
    as_is = import_module("launch_ros.parameter_descriptions").ParameterValue
    if isinstance(value, str):
        return as_is(value, value_type=str)
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
        return as_is(list(value), value_type=list[str])
    return value


def _installed(spec: ProcessSpec) -> None:
    packages = import_module("ament_index_python.packages")
    try:
        packages.get_package_prefix(spec.package)
    except packages.PackageNotFoundError:
        apt = f"ros-{os.environ.get('ROS_DISTRO', 'jazzy')}-{spec.package.replace('_', '-')}"
        raise RuntimeError(f"{spec.package} is not installed: sudo apt install {apt}") from None
