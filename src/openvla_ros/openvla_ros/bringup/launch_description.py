"""What the launch files share: arguments, and processes of the process table as launch actions.

Launch files cannot import each other. Only the functions below `refuse_unknown` need ROS 2's launch packages, and
import them when called; everything else is tested without them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from openvla_policy.suggestions import did_you_mean
from openvla_ros.bringup.process_table import (
    BRIDGE,
    CAMERAS,
    FOXGLOVE,
    PACKAGE,
    POLICY,
    ProcessSpec,
    bringup,
    companions,
)
from openvla_ros.paths import shipped_config

# Name, default ('' = as in config/), description, the parameters it sets: (node, parameter, type).
Argument = tuple[str, str, str, Sequence[tuple[str, str, type]]]
ENABLE_MODE, ENABLE_TOPIC, JOY = "enable.mode", "enable.topic", "joy"
COMMON: tuple[Argument, ...] = (
    ("namespace", "", "Namespace of all topics and nodes", ()),
    ("use_sim_time", "", "true or false: use the time on /clock ('' = only in the simulator)", ()),
    ("config", "", "Your settings: a YAML file whose values win over all others, or a name in config/robots", ()),
    ("policy", "true", "Start the policy node (false: scripted expert or teleoperation)", ()),
    ("checkpoint", "", "Checkpoint folder of a policy that runs on this machine", ((POLICY, "checkpoint", str),)),
    ("server", "", "Policy server instead: ws://HOST:8000", ((POLICY, "server.url", str),)),
    ("server_token_file", "", "File with the policy server's bearer token", ((POLICY, "server.token_file", str),)),
    ("unnorm_key", "", "Dataset whose statistics un-normalise the actions", ((POLICY, "unnorm_key", str),)),
    ("precision", "", "Number format of the policy's weights", ((POLICY, "precision", str),)),
    ("instruction", "", "Instruction at the start", ((POLICY, "instruction", str),)),
    ("control_mode", "", "blocking or streaming", ((BRIDGE, "control_mode", str),)),
    ("camera", "", "A file of config/cameras (realsense, usb_cam), or a path", ()),
    ("camera_driver", "true", "Start the camera's driver: true (the one that camera:= names), "
     f"{' or '.join(CAMERAS)} (for camera:=PATH) or false", ()),
    ("foxglove", "false", "Start foxglove_bridge; its layout is config/foxglove/openvla.json", ()),
    ("foxglove_port", "8765", "WebSocket port of foxglove_bridge", ()),
)  # fmt: skip
# Further arguments of the real robots' launch files.
ROBOT: tuple[Argument, ...] = (
    ("scale", "", "Factor on the policy's motions; start with 0.2", ((BRIDGE, "scale", float),)),
    ("enable_mode", "", "switch, deadman, or joystick (a button of joy_node, on the topic joy unless your config names "
     "another enable.topic)", ((BRIDGE, ENABLE_MODE, str),)),
)  # fmt: skip
DDS_PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"


def typed(name: str, text: str, kind: type, choices: Iterable[str] = ()) -> Any:
    """Convert the text of a launch argument.

    Args:
        name: The argument.
        text: Its text.
        kind: bool, int, float or str.
        choices: Other values that a boolean argument accepts, for the error message.

    Returns:
        The value as `kind`.

    Raises:
        ValueError: The text is no `kind`; the message names the argument and what it accepts.
    """
    if kind is bool:
        if text.lower() in ("true", "1", "yes"):
            return True
        if text.lower() in ("false", "0", "no"):
            return False
        raise ValueError(f"launch argument {name}:={text}: give {', '.join((*choices, 'true'))} or false")
    try:
        return kind(text)
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}[kind]
        raise ValueError(f"launch argument {name}:={text}: give {wanted}") from None


def overrides(given: Mapping[str, str], arguments: Sequence[Argument]) -> dict[str, dict[str, object]]:
    """Node -> parameter -> value of the arguments that are not ''."""
    values: dict[str, dict[str, object]] = {}
    for name, _, _, targets in arguments:
        for node, parameter, kind in targets:
            if given[name]:
                values.setdefault(node, {})[parameter] = typed(name, given[name], kind)
    return values


def stack(robot: str, given: Mapping[str, str], arguments: Sequence[Argument]) -> list[ProcessSpec]:
    """The processes that a launch file starts.

    Args:
        robot: A row of the process table; an argument `robot` wins over it.
        given: The launch arguments' texts.
        arguments: `COMMON` and the launch file's own.

    Returns:
        Companions first, then the managed nodes and their manager.

    Raises:
        ValueError: An argument has no valid value, or two contradict each other.
    """
    policy = typed("policy", given["policy"], bool)
    values = overrides(given, arguments)
    if given["checkpoint"] and given["server"]:
        raise ValueError("launch arguments checkpoint and server: give one of the two")
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
        given.get("robot", robot),
        values,
        policy=policy,
        namespace=given["namespace"],
        use_sim_time=sim_time,
        camera=given["camera"],
        config=given["config"],
    )
    if values.get(BRIDGE, {}).get(ENABLE_MODE) == "joystick":
        managed = [_with_joy_topic(spec) if spec.name == BRIDGE else spec for spec in managed]
    return companions(given["camera"], driver, port, given["namespace"], given["config"]) + managed


def _with_joy_topic(bridge: ProcessSpec) -> ProcessSpec:
    """The bridge with joy_node's topic as `enable.topic`, unless one of its YAML files names another."""
    yaml = import_module("yaml")  # the system's Python has it beside launch
    for file in bridge.params_files:
        for section in (yaml.safe_load(file.read_text()) or {}).values():
            values = (section or {}).get("ros__parameters") or {}
            if ENABLE_TOPIC in values or "topic" in (values.get("enable") or {}):
                return bridge
    return replace(bridge, parameters={**bridge.parameters, ENABLE_TOPIC: JOY})


def refuse_unknown(file: str, names: Sequence[str], command: Sequence[str]) -> None:
    """Refuse arguments of the command line that a launch file does not have.

    launch ignores them: with scael:=0.2 an arm would move at full scale. Checks only when `file` itself was launched; a
    file that includes it has arguments of its own.

    Args:
        file: Name of the launch file.
        names: Its arguments.
        command: The words of `ros2 launch`'s command line.

    Raises:
        ValueError: A word `name:=value` has an unknown name; the message suggests similar ones.
    """
    if not any(Path(word).name == file for word in command):
        return
    for name, given, _ in (word.partition(":=") for word in command):
        if given and name not in names:
            raise ValueError(f"{file} has no argument '{name}'; {did_you_mean(name, names)}")


def description(
    file: str, arguments: Sequence[tuple[Any, ...]], actions: Callable[[Mapping[str, str]], list[Any]]
) -> Any:
    """The LaunchDescription of a launch file.

    Args:
        file: Name of the launch file.
        arguments: Tuples that begin with name, default and description.
        actions: Makes the launch actions from the arguments' texts.

    Returns:
        The description.
    """
    launch, launch_actions = import_module("launch"), import_module("launch.actions")
    configuration = import_module("launch.substitutions").LaunchConfiguration
    names = [name for name, *_ in arguments]

    def start(context: Any) -> list[Any]:
        refuse_unknown(file, names, sys.argv)
        return actions({name: configuration(name).perform(context) for name in names})

    declared = [
        launch_actions.DeclareLaunchArgument(name, default_value=default, description=text)
        for name, default, text, *_ in arguments
    ]
    # As env.bash: camera frames need more shared memory than Fast DDS's default, also in the camera's driver.
    profile = os.environ.get(DDS_PROFILE) or str(shipped_config("dds", "fastdds.xml"))
    environment = launch_actions.SetEnvironmentVariable(DDS_PROFILE, profile)
    return launch.LaunchDescription([*declared, environment, launch_actions.OpaqueFunction(function=start)])


def describe(robot: str, own: Sequence[Argument] = ()) -> Any:
    """The LaunchDescription of `<robot>.launch.py`, whose arguments are `COMMON` and `own`."""
    arguments = (*COMMON, *own)
    return description(
        f"{robot}.launch.py", arguments, lambda given: [action(spec) for spec in stack(robot, given, arguments)]
    )


def action(spec: ProcessSpec) -> Any:
    """A process as a launch action. Its end shuts the launch down, except that of the Foxglove bridge, a viewer."""
    if spec.package != PACKAGE:
        _require_installed(spec)
    return import_module("launch_ros.actions").Node(
        package=spec.package,
        executable=spec.executable,
        name=spec.name,
        namespace=spec.namespace,
        parameters=[
            *(str(file) for file in spec.params_files),
            {k: parameter_value(v) for k, v in spec.parameters.items()},
        ],
        remappings=list(spec.remappings),
        arguments=list(spec.arguments),
        output="screen",
        on_exit=[] if spec.package == FOXGLOVE.package else on_exit(spec.name),
    )


def on_exit(name: str) -> Callable[[Any, Any], Any]:
    """Make the exit handler of a process: it shuts the launch down.

    Args:
        name: The process, for the message.

    Returns:
        The handler. It raises RuntimeError when the process failed, so that `ros2 launch` itself fails.
    """
    shutdown = import_module("launch.events").Shutdown(reason=f"{name} ended")

    def handle(event: Any, context: Any) -> Any:
        if context.is_shutdown:
            return None
        if event.returncode:
            how = signal.Signals(-event.returncode).name if event.returncode < 0 else f"status {event.returncode}"
            raise RuntimeError(f"{name} ended with {how}; shutting down all processes")
        return import_module("launch.actions").EmitEvent(event=shutdown)

    return handle


def parameter_value(value: object) -> Any:
    """A parameter's value for launch_ros, which parses a plain string as YAML: to a number, a bool, or an error."""
    typed_value = import_module("launch_ros.parameter_descriptions").ParameterValue
    if isinstance(value, str):
        return typed_value(value, value_type=str)
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
        return typed_value(list(value), value_type=list[str])
    return value


def _require_installed(spec: ProcessSpec) -> None:
    packages = import_module("ament_index_python.packages")
    try:
        packages.get_package_prefix(spec.package)
    except packages.PackageNotFoundError:
        apt = f"ros-{os.environ.get('ROS_DISTRO', 'jazzy')}-{spec.package.replace('_', '-')}"
        raise RuntimeError(f"{spec.package} is not installed: sudo apt install {apt}") from None
