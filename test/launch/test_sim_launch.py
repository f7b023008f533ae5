"""launch/sim.launch.py starts the bringup table. Needs ROS 2's launch packages, which no registry carries."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from openvla_ros.nodes.bringup_launch import COMMON, stack

LAUNCH = Path(__file__).resolve().parents[2] / "launch" / "sim.launch.py"


def has_ros_launch() -> bool:
    return importlib.util.find_spec("launch_ros") is not None  # PyPI's `launch` is something else


def arguments() -> list[tuple]:
    """Those of all robots, and the file's ARGUMENTS, read without importing launch."""
    for node in ast.parse(LAUNCH.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "ARGUMENTS":
            types = {"str": str, "int": int, "float": float}
            own = eval(compile(ast.Expression(node.value), str(LAUNCH), "eval"), types)  # noqa: S307
            return [*COMMON, *own]
    raise AssertionError("launch/sim.launch.py has no ARGUMENTS")


def typed(**given: str) -> dict[str, str]:
    """Arguments as `ros2 launch` hands them over, with their defaults."""
    return {name: default for name, default, *_ in arguments()} | given


def names(**given: str) -> list[str]:
    return [spec.name for spec in stack("sim", typed(**given), arguments())]


def test_every_argument_sets_a_declared_parameter_of_its_type():
    from openvla_ros.nodes.bridge_parameters import PARAMETERS as BRIDGE
    from openvla_ros.nodes.policy_parameters import PARAMETERS as POLICY
    from openvla_ros.nodes.sim_parameters import PARAMETERS as SIM

    tables = {"sim_node": SIM, "bridge_node": BRIDGE, "policy_node": POLICY}
    rows = {(node, row.name): row for node, table in tables.items() for row in table}
    for name, _, description, targets in arguments():
        assert description, name
        for node, parameter, kind in targets:
            assert type(rows[node, parameter].default) is kind, f"{name} -> {node}.{parameter}"
    assert len({name for name, *_ in arguments()}) == len(arguments())


def test_what_the_arguments_start():
    managed = ["sim_node", "bridge_node", "policy_node", "lifecycle_manager"]
    assert names() == managed
    assert names(policy="false", seed="3") == ["sim_node", "bridge_node", "lifecycle_manager"]
    assert names(camera="realsense", foxglove="true") == ["camera", "foxglove_bridge", *managed]
    assert names(camera="usb_cam", camera_driver="false") == managed
    specs = {s.name: s for s in stack("sim", typed(camera="realsense", foxglove="true", namespace="left"), arguments())}
    assert (specs["camera"].package, specs["camera"].executable) == ("realsense2_camera", "realsense2_camera_node")
    assert ("~/color/image_raw", "camera/image_raw") in specs["camera"].remappings
    assert specs["policy_node"].params_files[-1].name == specs["camera"].params_files[0].name == "realsense.yaml"
    assert specs["foxglove_bridge"].parameters["port"] == 8765
    assert "clientPublish" not in specs["foxglove_bridge"].parameters["capabilities"], "a browser only looks"
    assert {spec.namespace for spec in specs.values()} == {"left"}
    assert specs["bridge_node"].remappings == specs["sim_node"].remappings == (("/clock", "clock"),)
    values = {
        s.name: s for s in stack("sim", typed(seed="3", use_sim_time="false", control_mode="streaming"), arguments())
    }
    assert values["sim_node"].parameters["seed"] == 3 and not values["bridge_node"].parameters["use_sim_time"]
    assert values["policy_node"].parameters["control_mode"] == "streaming"
    with pytest.raises(ValueError, match="policy:=perhaps: give true or false"):
        names(policy="perhaps")
    with pytest.raises(FileNotFoundError, match="camera 'webcam' is neither a file nor one of realsense, sim, usb_cam"):
        names(camera="webcam")


@pytest.mark.skipif(not has_ros_launch(), reason="ROS 2's launch_ros is not installed (only on a ROS workstation)")
def test_it_starts_the_processes_of_the_bringup_table():
    from launch import LaunchContext

    from openvla_ros.nodes.bringup import bringup

    spec = importlib.util.spec_from_file_location("sim_launch", LAUNCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = LaunchContext()
    *declared, function = module.generate_launch_description().entities
    assert {a.name for a in declared} == {name for name, *_ in arguments()}
    for argument in declared:
        argument.execute(context)
    nodes = function.execute(context)
    assert [n.node_executable for n in nodes] == [s.executable for s in bringup("sim")]
