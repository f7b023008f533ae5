"""Which processes make up a running stack, and with which YAML: one table for `ros2 launch`, the demo and the tests.

No ROS import: the launch file, the demo runner and the tests all turn the same table into processes, so
that they cannot drift apart. A robot is one row of `ROBOTS`; swapping the robot swaps the YAML.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from openvla_ros.paths import config_file, share_folder

ROBOTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # node (also its executable) -> YAML files under config/, later files win
    "sim": {
        "sim_node": ("robots/sim.yaml", "cameras/sim.yaml"),
        "bridge_node": ("robots/sim.yaml", "safety/sim.yaml"),
        "policy_node": ("cameras/sim.yaml", "policies/openvla_tiny_sim.yaml"),
    },
    "franka": {
        "bridge_node": ("robots/franka.yaml", "safety/franka.yaml"),
        "policy_node": ("robots/franka.yaml", "policies/remote.yaml"),
    },
    "widowx": {
        "bridge_node": ("robots/widowx.yaml", "safety/widowx.yaml"),
        "policy_node": ("robots/widowx.yaml", "policies/remote.yaml"),
    },
    # Any arm with a pose controller or MoveIt Servo: `config` names it and its box.
    "generic": {
        "bridge_node": ("robots/generic.yaml", "safety/generic.yaml"),
        "policy_node": ("robots/generic.yaml", "policies/remote.yaml"),
    },
    # Those bridges on simulated robots that look like the drivers of the real ones.
    "franka_sim": {
        "sim_node": ("robots/sim.yaml", "cameras/sim.yaml", "robots/franka_sim.yaml"),
        "bridge_node": ("robots/franka.yaml", "safety/franka.yaml", "robots/franka_sim.yaml"),
        "policy_node": (
            "robots/franka.yaml",
            "cameras/sim.yaml",
            "policies/openvla_tiny_sim.yaml",
            "robots/franka_sim.yaml",
        ),
    },
    "widowx_sim": {
        "sim_node": ("robots/sim.yaml", "cameras/sim.yaml", "robots/widowx_sim.yaml"),
        "bridge_node": ("robots/widowx.yaml", "safety/widowx.yaml", "robots/widowx_sim.yaml"),
        "policy_node": ("robots/widowx.yaml", "cameras/sim.yaml", "policies/openvla_tiny_sim.yaml"),
    },
}
MANAGER = "lifecycle_manager"
POLICY = "policy_node"


@dataclass(frozen=True)
class ProcessSpec:
    """One process: a node with its YAML files and parameters (these win over the YAML).

    The node is one of `openvla_ros.nodes`, or, of another `package`, a driver that only a ROS installation has.
    """

    executable: str
    name: str
    params_files: tuple[Path, ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    namespace: str = ""
    remappings: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()
    package: str = "openvla_ros"


def _onto(topic: str, prefix: str) -> tuple[tuple[str, str], ...]:
    """Remappings of an image publisher's topics: image_transport remaps each of them by itself."""
    pairs = (("", ""), ("/compressed", "/compressed"))
    images = tuple((f"{prefix}image_raw{a}", f"{topic}/image_raw{b}") for a, b in pairs)
    return (*images, (f"{prefix}camera_info", f"{topic}/camera_info"))


# Camera drivers, by the name of their file in config/cameras: their pictures come out on camera/image_raw.
CAMERAS: Mapping[str, ProcessSpec] = {
    "realsense": ProcessSpec(
        "realsense2_camera_node", "camera", remappings=_onto("camera", "~/color/"), package="realsense2_camera"
    ),
    "usb_cam": ProcessSpec("usb_cam_node_exe", "camera", remappings=_onto("camera", ""), package="usb_cam"),
}
FOXGLOVE = ProcessSpec("foxglove_bridge", "foxglove_bridge", package="foxglove_bridge")


def camera_files(camera: str) -> tuple[Path, ...]:
    """The YAML of a camera: a name in config/cameras, or a path; () for ''. FileNotFoundError lists the names."""
    return (config_file("cameras", camera, "camera"),) if camera else ()


def companions(
    camera: str = "",
    driver: bool | str = True,
    foxglove_port: int = 0,
    namespace: str = "",
    config: str = "",
) -> list[ProcessSpec]:
    """The processes beside the managed nodes: the camera's driver and the Foxglove bridge, where they are wanted.

    driver: one of CAMERAS; True: the one that `camera` names, if it does; False: none. camera: as in `bringup`; '' with
    a driver's name: the file of that name. config: as in `bringup`, its values win.
    """
    made = []
    name = driver if isinstance(driver, str) else camera if driver and camera in CAMERAS else ""
    if name:
        if name not in CAMERAS:
            raise ValueError(f"camera driver '{name}' is unknown; known drivers: {', '.join(CAMERAS)}")
        files = (*camera_files(camera or name), *_own(config))
        made.append(replace(CAMERAS[name], params_files=files, namespace=namespace))
    if foxglove_port:
        # Only listening: from a browser nothing can be published, called or set.
        parameters = {"port": foxglove_port, "capabilities": ["connectionGraph", "assets"]}
        made.append(replace(FOXGLOVE, parameters=parameters, namespace=namespace))
    return made


def _own(config: str) -> tuple[Path, ...]:
    """The lab's own file; () for ''."""
    return (config_file("robots", config, "config"),) if config else ()


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
    """The processes of a stack, in the order in which they are brought up; the lifecycle manager is last.

    overrides: node name -> parameter -> value. policy=False leaves the policy out (scripted expert,
    teleoperation). camera: a file of config/cameras for the policy, after the robot's own. config: a file of
    config/robots or a path, whose values win over those. extra: further managed nodes (a recorder), brought up before
    the policy. In a namespace a simulator has a clock of its own.
    """
    if robot not in ROBOTS:
        raise ValueError(f"robot '{robot}' is unknown; known robots: {', '.join(sorted(ROBOTS))}")
    shipped = share_folder() / "config"
    own = _own(config)
    sim_time = "sim_node" in ROBOTS[robot] if use_sim_time is None else use_sim_time
    overrides = dict(overrides or {})
    clock = (("/clock", "clock"),) if namespace.strip("/") and "sim_node" in ROBOTS[robot] else ()
    specs: list[ProcessSpec] = []
    for name, files in ROBOTS[robot].items():
        more = camera_files(camera) if name == POLICY else ()
        if name == POLICY:
            specs.extend(replace(one, namespace=namespace, remappings=(*one.remappings, *clock)) for one in extra)
            if not policy:
                overrides.pop(name, None)
                continue
        parameters = {"use_sim_time": sim_time and name != "sim_node", **overrides.pop(name, {})}
        yaml_files = (*(shipped / f for f in files), *more, *own)
        specs.append(ProcessSpec(name, name, yaml_files, parameters, namespace, clock))
    if manager:
        names = {"managed_nodes": [s.name for s in specs], **overrides.pop(MANAGER, {})}
        specs.append(ProcessSpec(MANAGER, MANAGER, (), names, namespace))
    if overrides:
        known = [s.name for s in specs]
        raise ValueError(f"overrides for unknown nodes {sorted(overrides)}; nodes of '{robot}': {known}")
    return specs


def yaml_value(value: object) -> str:
    """A parameter's value as rcl's `-p name:=value` reads it (YAML flow style)."""
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
    """The Python module of a node: `policy_node` is nodes/policy/policy_node.py, `lifecycle_manager` is in nodes/."""
    folder, is_node, _ = executable.partition("_node")
    return f"openvla_ros.nodes.{folder}.{executable}" if is_node else f"openvla_ros.nodes.{executable}"


def argv(spec: ProcessSpec, python: str | None = None) -> list[str]:
    """The command line that starts `spec` with this interpreter (what `ros2 run` would do, without ros2cli).

    Raises ValueError for a node of another package: `ros2 launch` starts those.
    """
    if spec.package != "openvla_ros":
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


NODE, RECORDER, BRIDGE = "teleop_node", "recorder_node", "bridge_node"


def device_file(device: str) -> Path:
    """The YAML of a device: a name in config/teleop, or a path. FileNotFoundError lists the names."""
    return config_file("teleop", device, "device")


def teleoperation(
    device: str,
    robot: str = "sim",
    *,
    teleop: Mapping[str, object] | None = None,
    recorder: Mapping[str, object] | None = None,
    overrides: Mapping[str, Mapping[str, object]] | None = None,
    manager: bool = True,
) -> list[ProcessSpec]:
    """The specs in the order of bringing up. device 'none' leaves teleop_node out (it runs in another terminal).

    teleop, recorder: parameters of these nodes; overrides: of the others. What config/teleop/<robot>.yaml says wins
    over the robot's own files.
    """
    config = share_folder() / "config"
    changes = config / "teleop" / f"{robot}.yaml"
    extra_files = (changes,) if changes.is_file() else ()
    recording = config / "recording" / (f"{robot}.yaml" if robot == "sim" else "recorder.yaml")
    sim_time = {"use_sim_time": robot == "sim"}
    extra = [ProcessSpec(RECORDER, RECORDER, (recording,), sim_time | dict(recorder or {}))]
    if device != "none":
        extra.append(ProcessSpec(NODE, NODE, (*extra_files, device_file(device)), sim_time | dict(teleop or {})))
    # `bringup` puts the extra nodes before the policy, which is left out here.
    specs = bringup(robot, overrides, policy=False, manager=manager, extra=extra)
    return [replace(s, params_files=(*s.params_files, *extra_files)) if s.name == BRIDGE else s for s in specs]


__all__ = ["BRIDGE", "MANAGER", "NODE", "RECORDER", "device_file", "teleoperation"]
