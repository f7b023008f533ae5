"""launch/sim.launch.py starts the bringup table. Needs ROS 2's launch packages, which no registry carries."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "launch" / "sim.launch.py"


def has_ros_launch() -> bool:
    return importlib.util.find_spec("launch_ros") is not None  # PyPI's `launch` is something else


def arguments() -> list[tuple]:
    """The ARGUMENTS table, read without importing launch."""
    for node in ast.parse(LAUNCH.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "ARGUMENTS":
            types = {"str": str, "int": int, "float": float}
            return eval(compile(ast.Expression(node.value), str(LAUNCH), "eval"), types)  # noqa: S307
    raise AssertionError("launch/sim.launch.py has no ARGUMENTS")


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


@pytest.mark.skipif(not has_ros_launch(), reason="ROS 2's launch_ros is not installed (only on a ROS workstation)")
def test_it_starts_the_processes_of_the_bringup_table():
    from launch import LaunchContext

    from openvla_ros.nodes.bringup import bringup

    spec = importlib.util.spec_from_file_location("sim_launch", LAUNCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = LaunchContext()
    *declared, function = module.generate_launch_description().entities
    assert {a.name for a in declared} == {name for name, *_ in module.ARGUMENTS}
    for argument in declared:
        argument.execute(context)
    nodes = function.execute(context)
    assert [n.node_executable for n in nodes] == [s.executable for s in bringup("sim")]
