"""The launch files: arguments, processes, and, where ROS 2's launch is installed, the launch actions.

README.md in this folder says how to install launch without a ROS installation.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from openvla_ros.bringup.launch_description import COMMON, overrides, parameter_value, refuse_unknown, stack, typed
from openvla_ros.bringup.process_table import bringup
from openvla_ros.paths import config_file

FILES = sorted((Path(__file__).resolve().parents[2] / "launch").glob("*.launch.py"))
NAMES = [file.name.partition(".")[0] for file in FILES]
STACKS = ["franka", "generic", "sim", "widowx"]
with_launch = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,  # PyPI's `launch` is another program
    reason="ROS 2's launch_ros is not installed (only on a ROS workstation)",
)


def load(name: str) -> ModuleType:
    """The launch file as a module; importing it does not need the package launch."""
    file = FILES[NAMES.index(name)]
    spec = importlib.util.spec_from_file_location(f"{name}_launch", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(name: str) -> list[tuple]:
    """The file's own arguments, and those of all robots."""
    return [*(COMMON if name in STACKS else ()), *load(name).ARGUMENTS]


def given(name: str, **values: str) -> dict[str, str]:
    """Arguments as `ros2 launch` passes them, with their defaults."""
    return {argument: default for argument, default, *_ in arguments(name)} | values


def specs(name: str = "sim", **values: str) -> dict:
    return {spec.name: spec for spec in stack(name, given(name, **values), arguments(name))}


# ---- without launch ------------------------------------------------------------------------------


# serve's arguments: test/unit/ros/nodes/test_policy_options.py
@pytest.mark.parametrize("name", [n for n in NAMES if n != "serve"])
def test_arguments_are_described_and_set_declared_parameters(name):
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


MANAGED = ["sim_node", "bridge_node", "policy_node", "lifecycle_manager"]


@pytest.mark.parametrize(
    ("values", "processes"),
    [
        ({}, MANAGED),
        ({"policy": "false", "seed": "3"}, ["sim_node", "bridge_node", "lifecycle_manager"]),
        ({"camera": "realsense", "foxglove": "true"}, ["camera", "foxglove_bridge", *MANAGED]),
        ({"camera": "usb_cam", "camera_driver": "false"}, MANAGED),
    ],
)
def test_arguments_choose_the_processes(values, processes):
    assert list(specs(**values)) == processes


def test_camera_argument_configures_driver_and_policy():
    made = specs(camera="realsense")
    assert (made["camera"].package, made["camera"].executable) == ("realsense2_camera", "realsense2_camera_node")
    assert ("~/color/image_raw", "camera/image_raw") in made["camera"].remappings
    assert made["policy_node"].params_files[-1].name == made["camera"].params_files[0].name == "realsense.yaml"


def test_foxglove_bridge_lets_a_browser_only_observe():
    parameters = specs(foxglove="true")["foxglove_bridge"].parameters
    assert parameters["port"] == 8765 and "clientPublish" not in parameters["capabilities"]


def test_namespace_moves_all_processes_and_the_simulator_s_clock():
    made = specs(camera="realsense", foxglove="true", namespace="left")
    assert {spec.namespace for spec in made.values()} == {"left"}
    assert made["bridge_node"].remappings == made["sim_node"].remappings == (("/clock", "clock"),)


def test_arguments_become_parameters_of_their_nodes():
    made = specs(seed="3", use_sim_time="false", control_mode="streaming")
    assert made["sim_node"].parameters["seed"] == 3 and not made["bridge_node"].parameters["use_sim_time"]
    assert made["bridge_node"].parameters["control_mode"] == "streaming"


def test_robot_argument_wins_over_the_launch_file_s_name():
    assert specs(robot="widowx_sim")["bridge_node"].params_files == bringup("widowx_sim")[1].params_files


def test_camera_driver_can_be_named_for_an_own_file(tmp_path):
    mine = tmp_path / "my_cam.yaml"
    mine.write_text("{/**/camera: {ros__parameters: {video_device: /dev/video4}}}")
    assert "camera" not in specs(camera=str(mine)), "the file's name tells no driver"
    made = specs(camera=str(mine), camera_driver="usb_cam")
    assert made["camera"].package == "usb_cam" and made["camera"].params_files == (mine,)
    assert made["policy_node"].params_files[-1] == mine
    assert [f.name for f in specs(camera_driver="realsense")["camera"].params_files] == ["realsense.yaml"]
    with pytest.raises(ValueError, match="camera_driver:=webcam: give realsense, usb_cam, true or false"):
        specs(camera_driver="webcam")


def test_joystick_topic_is_joy_unless_configured(tmp_path):
    def topic(**values):
        return specs("widowx", **values)["bridge_node"].parameters.get("enable.topic")

    assert topic() is topic(enable_mode="deadman") is None
    assert topic(enable_mode="joystick") == "joy"
    mine = tmp_path / "lab.yaml"
    for text in ("enable.topic: pedal", "enable: {topic: pedal}"):
        mine.write_text(f"{{/**/bridge_node: {{ros__parameters: {{{text}}}}}}}")
        assert topic(enable_mode="joystick", config=str(mine)) is None, "the user's topic wins"
    mine.write_text("")
    assert topic(enable_mode="joystick", config=str(mine)) == "joy"


def test_policy_runs_locally_or_at_a_server():
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


def test_user_config_wins_over_all_other_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text("{/**/bridge_node: {ros__parameters: {limit.speed: 0.1}}}")
    for spec in specs("franka", config="lab.yaml", camera="usb_cam").values():
        if spec.name.endswith("_node") or spec.name == "camera":
            assert spec.params_files[-1] == tmp_path / "lab.yaml"
    assert specs("generic", config="google_robot")["bridge_node"].params_files[-1].name == "google_robot.yaml"


def test_system_python_can_import_what_launch_files_need(root):
    """On a workstation `ros2 launch` runs without .venv's packages."""
    code = "import openvla_ros.bringup.launch_description, openvla_ros.bringup.process_table"
    packages = ":".join(str(root / "src" / name) for name in ("openvla_ros", "openvla_policy"))
    source = {"PYTHONPATH": packages, "PATH": ""}
    done = subprocess.run([sys.executable, "-S", "-c", code], env=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "argument", "value", "message", "error"),
    [
        ("sim", "policy", "perhaps", "policy:=perhaps: give true or false", ValueError),
        ("franka", "scale", "slow", "scale:=slow: give a number", ValueError),
        ("sim", "seed", "1.5", "seed:=1.5: give a whole number", ValueError),
        (
            "sim",
            "camera",
            "webcam",
            "camera 'webcam' is neither a file nor one of realsense, sim, usb_cam",
            FileNotFoundError,
        ),
        (
            "franka",
            "config",
            "mine.yaml",
            "config 'mine.yaml' is neither a file nor one of franka, franka_sim",
            FileNotFoundError,
        ),
    ],
)
def test_wrong_values_are_refused_with_the_choices(name, argument, value, message, error):
    with pytest.raises(error, match=message):
        specs(name, **{argument: value})


def test_unknown_recording_config_is_refused_with_the_choices():
    with pytest.raises(FileNotFoundError, match="config 'sims' is neither a file nor one of recorder, sim"):
        config_file("recording", "sims", "config")


def test_booleans_ignore_case():
    assert typed("write", "No", bool) is False


FRANKA = ["/opt/ros/jazzy/bin/ros2", "launch", "openvla_ros", "franka.launch.py"]


def refuse_unknown_of_franka(command):
    refuse_unknown("franka.launch.py", [name for name, *_ in arguments("franka")], command)


def test_known_arguments_are_accepted():
    refuse_unknown_of_franka([*FRANKA, "scale:=0.2", "config:=a:=b"])


def test_misspelt_argument_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match=r"franka.launch.py has no argument 'scael'; did you mean scale\b"):
        refuse_unknown_of_franka([*FRANKA, "scael:=0.2"])


def test_arguments_of_an_including_launch_file_are_accepted():
    refuse_unknown_of_franka([*FRANKA[:3], "lab.launch.py", "scael:=0.2"])


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
def test_launch_starts_the_processes_of_the_process_table(name, monkeypatch):
    from launch import LaunchContext

    monkeypatch.setattr(sys, "argv", ["ros2", "launch", "openvla_ros", f"{name}.launch.py"])
    nodes = processes(name, LaunchContext())
    assert [n.node_executable for n in nodes] == [spec.executable for spec in bringup(name)]


@with_launch
@pytest.mark.parametrize("value", ["no: 1e3", "2024", "off", 7, True, ["sim_node", "off"]])
def test_launch_passes_parameter_values_unchanged(value):
    """launch_ros parses a plain string as YAML: `off` would become false, and a colon an error."""
    from launch import LaunchContext
    from launch_ros.utilities import evaluate_parameters, normalize_parameters

    parameters = normalize_parameters([{"name": parameter_value(value)}])
    (evaluated,) = evaluate_parameters(LaunchContext(), parameters)
    result = list(evaluated["name"]) if isinstance(value, list) else evaluated["name"]
    assert result == value and type(result) is type(value)


@with_launch
def test_launch_gives_nodes_their_parameters_unchanged(monkeypatch):
    import launch_ros.actions
    from launch import LaunchContext
    from launch_ros.utilities import evaluate_parameters, normalize_parameters

    given_to, node = {}, launch_ros.actions.Node

    def record(**options):
        given_to[options["executable"]] = options["parameters"]
        return node(**options)

    monkeypatch.setattr(launch_ros.actions, "Node", record)
    monkeypatch.setattr(sys, "argv", ["ros2"])
    context = LaunchContext()
    processes("sim", context, instruction="no: 1e3", unnorm_key="2024", expert_role="off", seed="7")
    values = {name: evaluate_parameters(context, normalize_parameters(p))[-1] for name, p in given_to.items()}
    assert values["policy_node"] == {"use_sim_time": True, "instruction": "no: 1e3", "unnorm_key": "2024"}
    assert values["sim_node"] == {"use_sim_time": False, "expert.role": "off", "seed": 7}
    assert list(values["lifecycle_manager"]["managed_nodes"]) == ["sim_node", "bridge_node", "policy_node"]


@with_launch
def test_missing_driver_is_named_with_its_package(monkeypatch):
    from launch import LaunchContext

    monkeypatch.setattr(sys, "argv", ["ros2"])
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/nowhere")
    with pytest.raises(RuntimeError, match="usb_cam is not installed: sudo apt install ros-[a-z]+-usb-cam"):
        processes("sim", LaunchContext(), camera="usb_cam")


def test_record_arguments_become_recorder_parameters():
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
        ({"namespace": "left", "use_sim_time": "true"}, (("/clock", "clock"),)),  # the simulator's own
        ({"namespace": "left", "use_sim_time": "true", "clock": "/clock"}, ()),  # one simulator's for all robots
    ],
)
def test_recorder_uses_the_clock_of_its_stack(values, clock):
    (spec,) = load("record").recorder(given("record", **values))
    assert spec.remappings == clock and spec.namespace == values.get("namespace", "")
