"""Which processes make up a running stack, and with which YAML: one table for `ros2 launch`, the demo and the tests.

No ROS import: the launch file, the demo runner and the tests all turn the same table into processes, so
that they cannot drift apart. A robot is one row of `ROBOTS`; swapping the robot swaps the YAML.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROBOTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # node (also its executable) -> YAML files under config/, later files win
    "sim": {
        "sim_node": ("robots/sim.yaml", "cameras/sim.yaml"),
        "bridge_node": ("robots/sim.yaml", "safety/sim.yaml"),
        "policy_node": ("cameras/sim.yaml", "policies/openvla_tiny_sim.yaml"),
    },
}
MANAGER = "lifecycle_manager"


@dataclass(frozen=True)
class ProcessSpec:
    """One process: a node of `openvla_ros.nodes` with its YAML files and parameters (these win over the YAML)."""

    executable: str
    name: str
    params_files: tuple[Path, ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    namespace: str = ""
    remappings: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()


def share_folder() -> Path:
    """The folder that holds config/ and launch/: the source tree, or share/openvla_ros of an installation.

    OPENVLA_SHARE overrides. Raises FileNotFoundError naming the folders tried.
    """
    here = Path(__file__).resolve()
    candidates = [Path(p) for p in [os.environ.get("OPENVLA_SHARE")] if p]
    candidates += list(here.parents)
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    candidates += [Path(p) / "share" / "openvla_ros" for p in prefixes if p]
    for folder in candidates:
        if (folder / "config" / "robots").is_dir():
            return folder
    raise FileNotFoundError(
        "no config/robots folder found; set OPENVLA_SHARE to the repository, or source env.bash. Looked in: "
        + ", ".join(str(c) for c in candidates)
    )


def resolve(path: str | Path) -> Path:
    """A path as a user writes it in YAML: absolute, `~`, relative to here, or relative to the share folder."""
    given = Path(path).expanduser()
    if given.is_absolute() or given.exists():
        return given
    shared = share_folder() / given
    return shared if shared.exists() else given


def bringup(
    robot: str = "sim",
    overrides: Mapping[str, Mapping[str, object]] | None = None,
    *,
    policy: bool = True,
    manager: bool = True,
    namespace: str = "",
    use_sim_time: bool | None = None,
    extra: Sequence[ProcessSpec] = (),
) -> list[ProcessSpec]:
    """The processes of a stack, in the order in which they are brought up; the lifecycle manager is last.

    overrides: node name -> parameter -> value. policy=False leaves the policy out (scripted expert,
    teleoperation). extra: further managed nodes (a recorder), brought up before the policy.
    """
    if robot not in ROBOTS:
        raise ValueError(f"robot '{robot}' is unknown; known robots: {', '.join(sorted(ROBOTS))}")
    config = share_folder() / "config"
    sim_time = robot == "sim" if use_sim_time is None else use_sim_time
    overrides = dict(overrides or {})
    specs: list[ProcessSpec] = []
    for name, files in ROBOTS[robot].items():
        if name == "policy_node":
            specs.extend(extra)
            if not policy:
                overrides.pop(name, None)
                continue
        parameters = {"use_sim_time": sim_time and name != "sim_node", **overrides.pop(name, {})}
        specs.append(ProcessSpec(name, name, tuple(config / f for f in files), parameters, namespace))
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


def argv(spec: ProcessSpec, python: str | None = None) -> list[str]:
    """The command line that starts `spec` with this interpreter (what `ros2 run` would do, without ros2cli)."""
    command = [python or sys.executable, "-m", f"openvla_ros.nodes.{spec.executable}", *spec.arguments]
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
