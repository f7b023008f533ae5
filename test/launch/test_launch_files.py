"""The launch files: their arguments, the processes they make, and, where ROS 2's launch is installed, the true actions.

README.md in this folder says how to have launch without a ROS installation.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from openvla_ros.bringup.launch_description import COMMON, overrides, refuse_unknown, stack, typed
from openvla_ros.bringup.process_table import bringup
from openvla_ros.paths import config_file

FILES = sorted((Path(__file__).resolve().parents[2] / "launch").glob("*.launch.py"))
NAMES = [file.name.partition(".")[0] for file in FILES]
STACKS = ["franka", "generic", "sim", "widowx"]
with_launch = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,  # PyPI's `launch` is something else
    reason="ROS 2's launch_ros is not installed (only on a ROS workstation)",
)


def load(name: str) -> ModuleType:
    """The launch file as a module; importing it needs no launch."""
    file = FILES[NAMES.index(name)]
    spec = importlib.util.spec_from_file_location(f"{name}_launch", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(name: str) -> list[tuple]:
    """Those of the file, and those of all robots."""
    return [*(COMMON if name in STACKS else ()), *load(name).ARGUMENTS]


def given(name: str, **values: str) -> dict[str, str]:
    """Arguments as `ros2 launch` hands them over, with their defaults."""
    return {argument: default for argument, default, *_ in arguments(name)} | values


def specs(name: str = "sim", **values: str) -> dict:
    return {spec.name: spec for spec in stack(name, given(name, **values), arguments(name))}


# ---- without launch ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n != "serve"]
)  # serve: test/unit/policy/serving/test_serving_docs.py
def test_every_argument_is_described_and_sets_a_declared_parameter_of_its_type(name):
    from openvla_ros.nodes.bridge.parameters import BridgeParameters
    from openvla_ros.nodes.policy.parameters import PolicyParameters
    from openvla_ros.nodes.recorder.parameters import RecorderParameters
    from openvla_ros.nodes.sim.parameters import SimParameters
    from openvla_ros.nodes.teleop.parameters import TeleopParameters
    from openvla_ros.parameters import rows as parameter_rows

    nodes = (SimParameters, BridgeParameters, PolicyParameters, RecorderParameters, TeleopParameters)
    types = {(node.node, row.name): type(row.default) for node in nodes for row in parameter_rows(node)}
    rows = arguments(name)
    assert len({argument for argument, *_ in rows}) == len(rows)
    for argument, default, description, targets in rows:
        assert isinstance(default, str) and description, argument
        for node, parameter, kind in targets:
            assert parameter == "use_sim_time" or types[node, parameter] is kind, f"{argument} -> {node}.{parameter}"


def test_what_the_arguments_start():
    managed = ["sim_node", "bridge_node", "policy_node", "lifecycle_manager"]
    assert list(specs()) == managed
    assert list(specs(policy="false", seed="3")) == ["sim_node", "bridge_node", "lifecycle_manager"]
    assert list(specs(camera="realsense", foxglove="true")) == ["camera", "foxglove_bridge", *managed]
    assert list(specs(camera="usb_cam", camera_driver="false")) == managed
    made = specs(camera="realsense", foxglove="true", namespace="left")
    assert (made["camera"].package, made["camera"].executable) == ("realsense2_camera", "realsense2_camera_node")
    assert ("~/color/image_raw", "camera/image_raw") in made["camera"].remappings
    assert made["policy_node"].params_files[-1].name == made["camera"].params_files[0].name == "realsense.yaml"
    assert made["foxglove_bridge"].parameters["port"] == 8765
    assert "clientPublish" not in made["foxglove_bridge"].parameters["capabilities"], "a browser only looks"
    assert {spec.namespace for spec in made.values()} == {"left"}
    assert made["bridge_node"].remappings == made["sim_node"].remappings == (("/clock", "clock"),)
    made = specs(seed="3", use_sim_time="false", control_mode="streaming")
    assert made["sim_node"].parameters["seed"] == 3 and not made["bridge_node"].parameters["use_sim_time"]
    assert made["bridge_node"].parameters["control_mode"] == "streaming"
    assert specs(robot="widowx_sim")["bridge_node"].params_files == bringup("widowx_sim")[1].params_files


def test_the_driver_of_a_camera_s_own_file_can_be_named(tmp_path):
    mine = tmp_path / "my_cam.yaml"
    mine.write_text("{/**/camera: {ros__parameters: {video_device: /dev/video4}}}")
    assert "camera" not in specs(camera=str(mine)), "whose file it is, nobody knows"
    made = specs(camera=str(mine), camera_driver="usb_cam")
    assert made["camera"].package == "usb_cam" and made["camera"].params_files == (mine,)
    assert made["policy_node"].params_files[-1] == mine
    assert [f.name for f in specs(camera_driver="realsense")["camera"].params_files] == ["realsense.yaml"]
    with pytest.raises(ValueError, match="camera_driver:=webcam: give realsense, usb_cam, true or false"):
        specs(camera_driver="webcam")


def test_a_joystick_is_heard_where_joy_node_speaks(tmp_path):
    def topic(**values):
        return specs("widowx", **values)["bridge_node"].parameters.get("enable.topic")

    assert topic() is topic(enable_mode="deadman") is None
    assert topic(enable_mode="joystick") == "joy"
    mine = tmp_path / "lab.yaml"
    for text in ("enable.topic: pedal", "enable: {topic: pedal}"):
        mine.write_text(f"{{/**/bridge_node: {{ros__parameters: {{{text}}}}}}}")
        assert topic(enable_mode="joystick", config=str(mine)) is None, "the lab's own wins"
    mine.write_text("")
    assert topic(enable_mode="joystick", config=str(mine)) == "joy"


def test_a_robot_s_policy_is_here_or_at_a_server():
    def backend(**values):
        (spec,) = [s for s in specs("franka", **values).values() if s.name == "policy_node"]
        return {k: v for k, v in spec.parameters.items() if k != "use_sim_time"}

    assert backend() == {}
    assert backend(checkpoint="a") == {"checkpoint": "a", "policy.backend": "local"}
    assert backend(server="ws://b:8000") == {"server.url": "ws://b:8000", "policy.backend": "remote"}
    assert backend(server="ws://b:8000", server_token_file="~/token")["server.token_file"] == "~/token"
    with pytest.raises(ValueError, match="checkpoint and server: give one"):
        backend(checkpoint="a", server="ws://b:8000")
    assert "policy_node" not in specs("franka", policy="false", checkpoint="a")


def test_a_lab_s_own_file_wins_over_all_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text("{/**/bridge_node: {ros__parameters: {limit.speed: 0.1}}}")
    for spec in specs("franka", config="lab.yaml", camera="usb_cam").values():
        if spec.name.endswith("_node") or spec.name == "camera":
            assert spec.params_files[-1] == tmp_path / "lab.yaml"
    assert specs("generic", config="google_robot")["bridge_node"].params_files[-1].name == "google_robot.yaml"


def test_the_system_s_python_can_read_them(root):
    """`ros2 launch` runs in it on a workstation: without .venv's packages."""
    code = "import openvla_ros.bringup.launch_description, openvla_ros.bringup.process_table"
    source = {"PYTHONPATH": str(root / "src" / "openvla_ros"), "PATH": ""}
    done = subprocess.run([sys.executable, "-S", "-c", code], env=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_wrong_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="policy:=perhaps: give true or false"):
        specs(policy="perhaps")
    with pytest.raises(ValueError, match="scale:=slow: give a number"):
        specs("franka", scale="slow")
    with pytest.raises(ValueError, match="seed:=1.5: give a whole number"):
        specs(seed="1.5")
    with pytest.raises(FileNotFoundError, match="camera 'webcam' is neither a file nor one of realsense, sim, usb_cam"):
        specs(camera="webcam")
    with pytest.raises(FileNotFoundError, match="config 'mine.yaml' is neither a file nor one of franka, franka_sim"):
        specs("franka", config="mine.yaml")
    with pytest.raises(FileNotFoundError, match="config 'sims' is neither a file nor one of recorder, sim"):
        config_file("recording", "sims", "config")
    assert typed("write", "No", bool) is False


def test_a_misspelt_argument_does_not_start_a_robot():
    names = [name for name, *_ in arguments("franka")]
    command = ["/opt/ros/jazzy/bin/ros2", "launch", "openvla_ros", "franka.launch.py"]
    refuse_unknown("franka.launch.py", names, [*command, "scale:=0.2", "config:=a:=b"])
    with pytest.raises(ValueError, match=r"franka.launch.py has no argument 'scael'; did you mean scale\?"):
        refuse_unknown("franka.launch.py", names, [*command, "scael:=0.2"])
    # A file that includes this one has arguments of its own.
    refuse_unknown("franka.launch.py", names, [*command[:3], "lab.launch.py", "scael:=0.2"])


# ---- with launch ---------------------------------------------------------------------------------


def processes(name: str, context, **values: str) -> list:
    """The actions of a launch file for these arguments, and the description's declared arguments."""
    for argument, value in values.items():
        context.launch_configurations[argument] = value
    *declared, _, function = load(name).generate_launch_description().entities
    assert [a.name for a in declared] == [argument for argument, *_ in arguments(name)]
    for argument in declared:
        argument.execute(context)
    return function.execute(context)


@with_launch
@pytest.mark.parametrize("name", STACKS)
def test_launch_starts_the_processes_of_the_bringup_table(name, monkeypatch):
    from launch import LaunchContext

    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "openvla_ros", f"{name}.launch.py"])
    nodes = processes(name, LaunchContext())
    assert [n.node_executable for n in nodes] == [spec.executable for spec in bringup(name)]


@with_launch
def test_launch_leaves_words_words(monkeypatch):
    """launch_ros reads a text as YAML unless told otherwise: `no` is false for it, and a colon an error."""
    from launch import LaunchContext
    from launch_ros.utilities import evaluate_parameters

    monkeypatch.setattr(sys, "argv", ["ros2"])
    context = LaunchContext()
    nodes = processes("sim", context, instruction="no: 1e3", unnorm_key="2024", expert_role="off", seed="7")
    values = {}
    for node in nodes:
        *_, file = evaluate_parameters(context, node._Node__parameters)
        values[node.node_executable] = file
    assert values["policy_node"] == {"use_sim_time": True, "instruction": "no: 1e3", "unnorm_key": "2024"}
    assert values["sim_node"] == {"use_sim_time": False, "expert.role": "off", "seed": 7}
    names = list(values["lifecycle_manager"]["managed_nodes"])
    assert names == ["sim_node", "bridge_node", "policy_node"] and yaml.safe_load(yaml.dump(names)) == names


@with_launch
def test_a_driver_that_is_not_installed_is_named_with_its_package(monkeypatch):
    from launch import LaunchContext

    monkeypatch.setattr(sys, "argv", ["ros2"])
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/nowhere")
    with pytest.raises(RuntimeError, match="usb_cam is not installed: sudo apt install ros-[a-z]+-usb-cam"):
        processes("sim", LaunchContext(), camera="usb_cam")


def test_the_recorder_s_arguments():
    rows = load("record").ARGUMENTS
    values = overrides(given("record", output="~/bags", target="50", write="false"), rows)
    assert values == {
        "recorder_node": {"use_sim_time": False, "output": "~/bags", "target_episodes": 50, "write": False}
    }


@pytest.mark.parametrize(
    ("values", "clock"),
    [
        ({}, ()),
        ({"use_sim_time": "true"}, ()),
        ({"namespace": "left"}, ()),
        ({"namespace": "left", "use_sim_time": "true"}, (("/clock", "clock"),)),  # as the simulator's own
        ({"namespace": "left", "use_sim_time": "true", "clock": "/clock"}, ()),  # another simulator's, of all robots
    ],
)
def test_the_recorder_takes_the_time_of_the_stack_that_it_records(values, clock):
    (spec,) = load("record").recorder(given("record", **values))
    assert spec.remappings == clock and spec.namespace == values.get("namespace", "")
