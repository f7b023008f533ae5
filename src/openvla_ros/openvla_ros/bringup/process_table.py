"""The processes of a stack and their YAML files: one table for `ros2 launch`, the demo and the tests.

No ROS import: launch files, command line tools and tests turn the same table into processes. A robot is a row of
`ROBOTS`; another robot needs another row and its YAML files, no code.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from openvla_ros.paths import config_file, shipped_config

PACKAGE = "openvla_ros"
# Nodes; a node's name is also its executable's.
SIM, BRIDGE, POLICY, RECORDER, TELEOP = "sim_node", "bridge_node", "policy_node", "recorder_node", "teleop_node"
MANAGER = "lifecycle_manager"
CAMERA_WINDOW = "camera_window"

# Robot -> node -> YAML files under config/; values of later files win.
ROBOTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "sim": {
        SIM: ("robots/sim.yaml", "cameras/sim.yaml"),
        BRIDGE: ("robots/sim.yaml", "safety/sim.yaml"),
        POLICY: ("cameras/sim.yaml", "policies/openvla_tiny_sim.yaml"),
    },
    "franka": {
        BRIDGE: ("robots/franka.yaml", "safety/franka.yaml"),
        POLICY: ("robots/franka.yaml", "policies/remote.yaml"),
    },
    "widowx": {
        BRIDGE: ("robots/widowx.yaml", "safety/widowx.yaml"),
        POLICY: ("robots/widowx.yaml", "policies/remote.yaml"),
    },
    # Any arm with a pose controller or MoveIt Servo; the user's `config` has its topics and workspace.
    "generic": {
        BRIDGE: ("robots/generic.yaml", "safety/generic.yaml"),
        POLICY: ("robots/generic.yaml", "policies/remote.yaml"),
    },
    # The bridges of real robots on a simulator that emulates the real robot's driver.
    "franka_sim": {
        SIM: ("robots/sim.yaml", "cameras/sim.yaml", "robots/franka_sim.yaml"),
        BRIDGE: ("robots/franka.yaml", "safety/franka.yaml", "robots/franka_sim.yaml"),
        POLICY: (
            "robots/franka.yaml",
            "cameras/sim.yaml",
            "policies/openvla_tiny_sim.yaml",
            "robots/franka_sim.yaml",
        ),
    },
    "widowx_sim": {
        SIM: ("robots/sim.yaml", "cameras/sim.yaml", "robots/widowx_sim.yaml"),
        BRIDGE: ("robots/widowx.yaml", "safety/widowx.yaml", "robots/widowx_sim.yaml"),
        POLICY: ("robots/widowx.yaml", "cameras/sim.yaml", "policies/openvla_tiny_sim.yaml"),
    },
}


@dataclass(frozen=True)
class ProcessSpec:
    """One process: a node with its YAML files and parameters, which win over the YAML.

    With another `package` it is a driver from the ROS installation, which only `ros2 launch` can start.
    """

    executable: str
    name: str
    params_files: tuple[Path, ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    namespace: str = ""
    remappings: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()
    package: str = PACKAGE


def _image_remappings(topic: str, prefix: str) -> tuple[tuple[str, str], ...]:
    """Remappings of an image publisher to `topic`: image_transport remaps each of its topics separately."""
    images = tuple((f"{prefix}image_raw{end}", f"{topic}/image_raw{end}") for end in ("", "/compressed"))
    return (*images, (f"{prefix}camera_info", f"{topic}/camera_info"))


# Camera drivers by the name of their file in config/cameras; they publish on camera/image_raw.
CAMERAS: Mapping[str, ProcessSpec] = {
    "realsense": ProcessSpec(
        "realsense2_camera_node",
        "camera",
        remappings=_image_remappings("camera", "~/color/"),
        package="realsense2_camera",
    ),
    "usb_cam": ProcessSpec("usb_cam_node_exe", "camera", remappings=_image_remappings("camera", ""), package="usb_cam"),
}
FOXGLOVE = ProcessSpec("foxglove_bridge", "foxglove_bridge", package="foxglove_bridge")


def camera_files(camera: str) -> tuple[Path, ...]:
    """The YAML of a camera, by its name in config/cameras or its path; () for ''."""
    return (config_file("cameras", camera, "camera"),) if camera else ()


def device_file(device: str) -> Path:
    """The YAML of a teleoperation device, by its name in config/teleop or its path."""
    return config_file("teleop", device, "device")


def _user_files(config: str) -> tuple[Path, ...]:
    return (config_file("robots", config, "config"),) if config else ()


def companions(
    camera: str = "",
    driver: bool | str = True,
    foxglove_port: int = 0,
    namespace: str = "",
    config: str = "",
) -> list[ProcessSpec]:
    """The processes beside the managed nodes: the camera's driver and the Foxglove bridge, where requested.

    Args:
        camera: A file of config/cameras, or a path; '' with a driver's name: the file of that name.
        driver: A name in `CAMERAS`; True: the one that `camera` names, if any; False: none.
        foxglove_port: WebSocket port of the Foxglove bridge; 0: no bridge.
        namespace: Namespace of topics and nodes.
        config: The user's YAML, as in `bringup`.

    Returns:
        Zero to two processes of other packages.

    Raises:
        ValueError: The driver is not in `CAMERAS`.
    """
    specs = []
    name = driver if isinstance(driver, str) else camera if driver and camera in CAMERAS else ""
    if name:
        if name not in CAMERAS:
            raise ValueError(f"camera driver '{name}' is unknown; known drivers: {', '.join(CAMERAS)}")
        files = (*camera_files(camera or name), *_user_files(config))
        specs.append(replace(CAMERAS[name], params_files=files, namespace=namespace))
    if foxglove_port:
        # Without the capabilities clientPublish, parameters and services a browser can only observe.
        parameters = {"port": foxglove_port, "capabilities": ["connectionGraph", "assets"]}
        specs.append(replace(FOXGLOVE, parameters=parameters, namespace=namespace))
    return specs


def bringup(
    robot: str = "sim",
    overrides: Mapping[str, Mapping[str, object]] | None = None,
    *,
    policy: bool = True,
    manager: bool = True,
    namespace: str = "",
    use_sim_time: bool | None = None,
    camera: str = "",
    config: str = "",
    extra: Sequence[ProcessSpec] = (),
) -> list[ProcessSpec]:
    """The processes of a stack, in the order in which the lifecycle manager, the last one, brings them up.

    Args:
        robot: A row of `ROBOTS`.
        overrides: Node name -> parameter -> value; wins over the YAML files.
        policy: False leaves the policy node out (scripted expert, teleoperation).
        manager: False leaves the lifecycle manager out.
        namespace: Namespace of topics and nodes. A simulator in a namespace has a clock of its own.
        use_sim_time: None: only with the simulator.
        camera: A file of config/cameras or a path, for the policy; read after the robot's files.
        config: A file of config/robots or a path, whose values win over all other files.
        extra: Further managed nodes, such as a recorder; brought up before the policy.

    Returns:
        The processes.

    Raises:
        ValueError: The robot, or a node in `overrides`, is unknown.
    """
    if robot not in ROBOTS:
        raise ValueError(f"robot '{robot}' is unknown; known robots: {', '.join(sorted(ROBOTS))}")
    user_files = _user_files(config)
    simulated = SIM in ROBOTS[robot]
    sim_time = simulated if use_sim_time is None else use_sim_time
    overrides = dict(overrides or {})
    clock = (("/clock", "clock"),) if simulated and namespace.strip("/") else ()
    specs: list[ProcessSpec] = []
    for name, files in ROBOTS[robot].items():
        if name == POLICY:
            specs.extend(replace(one, namespace=namespace, remappings=(*one.remappings, *clock)) for one in extra)
            if not policy:
                overrides.pop(name, None)
                continue
        parameters = {"use_sim_time": sim_time and name != SIM, **overrides.pop(name, {})}
        camera_yaml = camera_files(camera) if name == POLICY else ()
        yaml_files = (*(shipped_config(file) for file in files), *camera_yaml, *user_files)
        specs.append(ProcessSpec(name, name, yaml_files, parameters, namespace, clock))
    if manager:
        managed = {"managed_nodes": [spec.name for spec in specs], **overrides.pop(MANAGER, {})}
        specs.append(ProcessSpec(MANAGER, MANAGER, (), managed, namespace))
    if overrides:
        known = [spec.name for spec in specs]
        raise ValueError(f"overrides for unknown nodes {sorted(overrides)}; nodes of '{robot}': {known}")
    return specs


def teleoperation(
    device: str,
    robot: str = "sim",
    *,
    teleop: Mapping[str, object] | None = None,
    recorder: Mapping[str, object] | None = None,
    overrides: Mapping[str, Mapping[str, object]] | None = None,
    manager: bool = True,
) -> list[ProcessSpec]:
    """The processes of a stack that an operator moves, with a recorder, in the order of bringing up.

    config/teleop/<robot>.yaml, where it exists, wins over the robot's own files.

    Args:
        device: A file of config/teleop, or a path; `none` leaves teleop_node out (it runs in another terminal).
        robot: A row of `ROBOTS`.
        teleop: Parameters of teleop_node.
        recorder: Parameters of recorder_node.
        overrides: Node name -> parameter -> value of the other nodes.
        manager: False leaves the lifecycle manager out.

    Returns:
        The processes.
    """
    robot_file = shipped_config("teleop", f"{robot}.yaml")
    robot_files = (robot_file,) if robot_file.is_file() else ()
    recording = shipped_config("recording", "sim.yaml" if robot == "sim" else "recorder.yaml")
    sim_time = {"use_sim_time": robot == "sim"}
    extra = [ProcessSpec(RECORDER, RECORDER, (recording,), sim_time | dict(recorder or {}))]
    if device != "none":
        files = (*robot_files, device_file(device))
        extra.append(ProcessSpec(TELEOP, TELEOP, files, sim_time | dict(teleop or {})))
    specs = bringup(robot, overrides, policy=False, manager=manager, extra=extra)
    return [replace(s, params_files=(*s.params_files, *robot_files)) if s.name == BRIDGE else s for s in specs]


def yaml_value(value: object) -> str:
    """A parameter's value as rcl reads it in `-p name:=value`: YAML flow style."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(yaml_value(v) for v in value) + "]"
    if isinstance(value, (str, Path)):
        return "'" + str(value).replace("'", "''") + "'"
    if isinstance(value, float):
        return repr(float(value)) if "e" not in repr(float(value)) else f"{value:.12f}"
    return str(value)


def node_module(executable: str) -> str:
    """The Python module of an executable: that of `policy_node` is nodes/policy/policy_node.py."""
    folders = {MANAGER: "nodes", CAMERA_WINDOW: "bringup"}
    folder = folders.get(executable) or f"nodes.{executable.removesuffix('_node')}"
    return f"{PACKAGE}.{folder}.{executable}"


def argv(spec: ProcessSpec, python: str | None = None) -> list[str]:
    """The command line of a process, as `ros2 run` makes it, without ros2cli.

    Args:
        spec: A node of this package.
        python: The interpreter; default: the running one.

    Returns:
        The words of the command.

    Raises:
        ValueError: The executable belongs to another package, which `ros2 launch` starts.
    """
    if spec.package != PACKAGE:
        raise ValueError(f"{spec.package}'s {spec.executable} is started by `ros2 launch`, or in a terminal of its own")
    command = [python or sys.executable, "-m", node_module(spec.executable), *spec.arguments]
    command += ["--ros-args", "-r", f"__node:={spec.name}"]
    if spec.namespace:
        command += ["-r", f"__ns:=/{spec.namespace.strip('/')}"]
    for source, target in spec.remappings:
        command += ["-r", f"{source}:={target}"]
    for file in spec.params_files:
        command += ["--params-file", str(file)]
    for name, value in spec.parameters.items():
        command += ["-p", f"{name}:={yaml_value(value)}"]
    return command
