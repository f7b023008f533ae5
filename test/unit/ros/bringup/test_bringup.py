"""The process table: its YAML files, the declared parameters, the command lines."""

from __future__ import annotations

import importlib.util

import pytest
import yaml

from openvla_ros import paths
from openvla_ros.apps.doctor.examination import configured
from openvla_ros.bringup import process_table as table
from openvla_ros.nodes.bridge.parameters import BridgeParameters, arrival_config, delta_frames, gate_config
from openvla_ros.nodes.policy.parameters import PolicyParameters
from openvla_ros.nodes.sim.parameters import SimParameters
from openvla_ros.parameters import build, check, rows

CONFIGS = {config.node: config for config in (SimParameters, BridgeParameters, PolicyParameters)}


@pytest.mark.parametrize("robot", table.ROBOTS)
def test_every_yaml_key_is_declared_and_every_value_allowed(robot):
    for spec in table.bringup(robot, manager=False):
        values = {}
        for file in spec.params_files:
            section = yaml.safe_load(file.read_text()).get(f"/**/{spec.name}")
            assert section is not None, f"{file} has no section for {spec.name}"
            build(CONFIGS[spec.name], section["ros__parameters"])  # also what a later file overrides
            values |= section["ros__parameters"]
        parameters = build(CONFIGS[spec.name], values)
        if spec.name == "bridge_node":
            gate_config(parameters)
            arrival_config(parameters)


@pytest.mark.parametrize("robot", table.ROBOTS)
@pytest.mark.parametrize("config", ["", "google_robot"])
def test_bridge_knows_the_policy_s_frame(robot, config):
    specs = {spec.name: spec for spec in table.bringup(robot, config=config if robot == "generic" else "")}
    bridge, policy = (configured(specs[name]) for name in ("bridge_node", "policy_node"))
    del bridge["use_sim_time"]
    assert policy["frame"] in delta_frames(build(BridgeParameters, bridge))


@pytest.mark.parametrize("name", CONFIGS)
def test_parameter_defaults_are_within_their_ranges(name):
    declared = rows(CONFIGS[name])
    assert len({row.name for row in declared}) == len(declared)
    for row in declared:
        assert row.description and check(row, row.default) == row.default


def test_processes_are_in_order_of_bringing_up():
    names = [s.name for s in table.bringup("sim")]
    assert names == ["sim_node", "bridge_node", "policy_node", "lifecycle_manager"]


def test_recorder_replaces_the_policy_before_the_manager():
    recorder = table.ProcessSpec("recorder_node", "recorder_node")
    specs = table.bringup("sim", policy=False, extra=[recorder])
    assert [s.name for s in specs] == ["sim_node", "bridge_node", "recorder_node", "lifecycle_manager"]
    assert specs[-1].parameters["managed_nodes"] == ["sim_node", "bridge_node", "recorder_node"]


def test_all_but_the_simulator_use_simulated_time():
    simulator, bridge, policy, _ = table.bringup("sim")
    assert not simulator.parameters["use_sim_time"]
    assert bridge.parameters["use_sim_time"] and policy.parameters["use_sim_time"]


def test_unknown_robots_and_nodes_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="'r2d2' is unknown; known robots: franka, franka_sim, generic, sim, widowx"):
        table.bringup("r2d2")
    with pytest.raises(ValueError, match=r"unknown nodes \['simnode'\]; nodes of 'sim': \['sim_node'"):
        table.bringup("sim", {"simnode": {"seed": 1}})


def test_command_line_has_node_namespace_and_yaml_values():
    spec = table.bringup("sim", {"sim_node": {"expert.role": "off", "seed": 3, "camera.position": [1.0, 2.5, 1e-7]}},
                         namespace="bench")[0]  # fmt: skip
    command = table.argv(spec, python="py")
    assert command[:3] == ["py", "-m", "openvla_ros.nodes.sim.sim_node"]
    assert command[command.index("--ros-args") :][:5] == ["--ros-args", "-r", "__node:=sim_node", "-r", "__ns:=/bench"]
    # In YAML, `off` without quotes is a bool, and 1e-7 a string.
    assert "expert.role:='off'" in command and "seed:=3" in command and "use_sim_time:=false" in command
    assert "camera.position:=[1.0, 2.5, 0.000000100000]" in command


@pytest.mark.parametrize("camera", table.CAMERAS)
def test_camera_file_configures_driver_and_policy(camera):
    (file,) = table.camera_files(camera)
    sections = yaml.safe_load(file.read_text())
    assert set(sections) == {f"/**/{table.CAMERAS[camera].name}", "/**/policy_node"}
    build(PolicyParameters, sections["/**/policy_node"]["ros__parameters"])
    specs = {spec.name: spec for spec in table.bringup("sim", camera=camera)}
    assert specs["policy_node"].params_files[-1] == file


def test_driver_of_another_package_has_no_command_line():
    (driver,) = table.companions("usb_cam")
    with pytest.raises(ValueError, match="is started by `ros2 launch`"):
        table.argv(driver)


def test_simulator_in_a_namespace_has_its_own_clock():
    for spec in table.bringup("sim", namespace="left", extra=[table.ProcessSpec("recorder_node", "recorder_node")]):
        command = " ".join(table.argv(spec))
        assert "__ns:=/left" in command and ("/clock:=clock" in command) == (spec.name != "lifecycle_manager")


@pytest.mark.parametrize(
    "executable", [*table.ROBOTS["sim"], table.RECORDER, table.TELEOP, table.MANAGER, "camera_window"]
)
def test_every_executable_has_a_module(executable):
    assert importlib.util.find_spec(table.node_module(executable)) is not None


def test_relative_paths_are_found_in_the_share_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths.resolve("config/robots/sim.yaml").is_file()


def test_absolute_paths_stay_as_they_are():
    assert paths.resolve("/somewhere/else").as_posix() == "/somewhere/else"


def test_environment_variable_names_the_share_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENVLA_SHARE", str(tmp_path))
    (tmp_path / "config" / "robots").mkdir(parents=True)
    assert paths.share_folder() == tmp_path
