"""The processes of a stack that a person drives: robot, bridge, recorder and teleop_node; no policy. No ROS import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from openvla_ros.nodes.bringup import MANAGER, ProcessSpec, bringup
from openvla_ros.paths import config_file, share_folder

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
