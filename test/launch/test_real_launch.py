"""The launch files under `ros2 launch`: real processes, ended by Ctrl-C or by the death of one.

README.md in this folder says how to install `ros2 launch` without a ROS installation.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import robot_interfaces
import yaml
from lifecycle_msgs.srv import GetState
from openvla_msgs.msg import ActionChunk, SafetyState

from openvla_ros.bringup.process_table import argv, bringup, node_module
from openvla_ros.nodes.common.qos import LATCHED, STATE

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(
        shutil.which("ros2") is None,
        reason="ROS 2's command line is not installed (only on a ROS workstation)",
    ),
]
FILES = sorted((Path(__file__).resolve().parents[2] / "launch").glob("*.launch.py"))
START_TIMEOUT = 240.0  # [s] for a stack on a busy machine


@pytest.fixture
def launch(start_process, ros_domain, tmp_path):
    """Give `launch("sim", "policy:=false", …)`: the running `ros2 launch`."""

    def start(name, *arguments, **environment):
        environment = {"ROS_LOG_DIR": str(tmp_path / "log"), **environment}
        return start_process("ros2", "launch", "openvla_ros", f"{name}.launch.py", *arguments, **environment)

    return start


@pytest.fixture
def active(ros_node, spin_until):
    """Give `active(process, node)`: wait until the node is active, while its launch runs."""

    def active(process, name):
        client = ros_node.create_client(GetState, f"{name}/get_state")
        asked, due = [], 0.0

        def answered():
            nonlocal due
            assert process.running, process.output
            if any(one.done() and one.result().current_state.label == "active" for one in asked):
                return True
            if client.service_is_ready() and (time.monotonic() > due or asked[-1].done()):
                asked.append(client.call_async(GetState.Request()))
                due = time.monotonic() + 10.0  # a node that has not discovered this client does not answer
            return False

        spin_until(answered, START_TIMEOUT, f"{name} to be active")

    return active


@pytest.fixture
def ends(wait_for):
    """Give `ends(process)`: its status at its end. None of its processes is left, and none printed a traceback."""

    def ends(process):
        wait_for(lambda: not process.running, 60.0, f"the launch to end; so far:\n{process.output}")
        with pytest.raises(ProcessLookupError):
            os.killpg(process.popen.pid, 0)
        assert "Traceback" not in process.output, process.output
        return process.popen.returncode

    return ends


@pytest.fixture
def interrupted(ends):
    """Give `interrupted(process)`: its status after Ctrl-C, which every process of the terminal receives."""

    def interrupted(process):
        os.killpg(process.popen.pid, signal.SIGINT)
        status = ends(process)
        assert "process has died" not in process.output, process.output
        return status

    return interrupted


def test_show_args_lists_described_arguments(capsys):
    from ros2launch.api import print_arguments_of_launch_file

    for file in FILES:
        print_arguments_of_launch_file(launch_file_path=str(file))
        out = capsys.readouterr().out
        assert "Arguments (pass arguments as '<name>:=<value>')" in out and "(no description given)" not in out, file


def test_wrong_argument_is_named_in_one_error_line(tmp_path):
    for file, argument, message in (
        ("sim", "policy:=perhaps", "launch argument policy:=perhaps: give true or false"),
        ("franka", "scael:=0.2", "franka.launch.py has no argument 'scael'; did you mean scale or camera?"),
        ("record", "config:=mine", "config 'mine' is neither a file nor one of recorder, sim"),
    ):
        done = subprocess.run(
            ["ros2", "launch", "openvla_ros", f"{file}.launch.py", argument],
            env={**os.environ, "ROS_LOG_DIR": str(tmp_path)}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        (line,) = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
        assert done.returncode == 1 and line.endswith(message), line


def test_server_answers_until_ctrl_c(launch, wait_for, interrupted):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = launch("serve", f"port:={port}")

    def answer():
        assert process.running, process.output
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
        except OSError:
            return False

    wait_for(answer, START_TIMEOUT, "the server")
    assert interrupted(process) == 0


def test_recorder_runs_until_ctrl_c(launch, active, interrupted, tmp_path):
    process = launch("record", f"output:={tmp_path / 'bags'}", "target:=3")
    active(process, "recorder_node")
    assert (tmp_path / "bags").is_dir()
    assert interrupted(process) == 0


@pytest.mark.slow
def test_policy_moves_the_simulated_arm_until_ctrl_c(launch, active, listen, spin_until, interrupted):
    chunks, safe = (
        listen(ActionChunk, "left/policy/action_chunk", STATE),
        listen(SafetyState, "left/safety/state", LATCHED),
    )
    process = launch("sim", "namespace:=left", "instruction:=lift the red cube", "control_mode:=blocking")
    active(process, "left/policy_node")
    spin_until(lambda: len(chunks) > 2, START_TIMEOUT, "actions")
    spin_until(lambda: SafetyState.EXECUTING in [m.state for m in safe], 60.0, "the arm to move")
    assert chunks[0].instruction == "lift the red cube"
    assert interrupted(process) == 0


@pytest.mark.slow
def test_dead_node_ends_all_and_fails_the_launch(launch, wait_for, ends):
    process = launch("sim", "policy:=false", "expert_role:=off")
    wait_for(lambda: "active: sim_node, bridge_node" in process.output, START_TIMEOUT, "the stack")
    pid = re.search(r"\[bridge_node-\d+\]: process started with pid \[(\d+)\]", process.output)
    os.kill(int(pid[1]), signal.SIGKILL)
    assert ends(process) == 1 and "bridge_node ended with SIGKILL; shutting down all processes" in process.output


@pytest.mark.slow
def test_refused_parameter_ends_all(launch, ends, wait_for):
    process = launch("sim", "policy:=false", "control_mode:=fast")
    wait_for(lambda: not process.running, START_TIMEOUT, "the launch to end")
    assert ends(process) == 1
    assert "bringup failed: 'bridge_node' did not configure" in process.output
    assert "parameter 'control_mode' is 'fast'; it must be one of 'blocking', 'streaming'" in process.output


@pytest.mark.slow
def test_teleoperation_runs_until_ctrl_c(launch, active, interrupted, tmp_path):
    process = launch("teleop", "device:=none", f"output:={tmp_path}")
    active(process, "recorder_node")
    assert interrupted(process) == 0


@pytest.mark.slow
@pytest.mark.parametrize("robot", ["franka", "widowx"])
def test_robot_launch_file_moves_the_emulated_robot(
    robot, launch, start_process, active, listen, spin_until, interrupted
):
    environment = robot_interfaces.environment()
    overrides = {"sim_node": {"expert.role": "act", "expert.target": "red", "autostart": True}}
    driver, *_ = bringup(f"{robot}_sim", overrides, policy=False, manager=False)
    start_process(f"module:{node_module(driver.executable)}", *argv(driver)[3:], **environment)
    safe = listen(SafetyState, "safety/state", LATCHED)
    process = launch(robot, "policy:=false", "use_sim_time:=true", f"config:={robot}_sim", "scale:=1.0", **environment)
    active(process, "bridge_node")
    spin_until(lambda: SafetyState.EXECUTING in [m.state for m in safe], START_TIMEOUT, "the arm to move")
    assert interrupted(process) == 0


@pytest.mark.slow
def test_generic_launch_file_moves_an_arm_by_yaml_alone(
    launch, start_process, active, listen, spin_until, interrupted, tmp_path
):
    """The simulated Panda as an unknown arm: its topics and workspace come from a user's YAML."""
    overrides = {"sim_node": {"expert.role": "act", "expert.target": "red", "autostart": True}}
    arm, *_ = bringup("sim", overrides, policy=False, manager=False)
    start_process(f"module:{node_module(arm.executable)}", *argv(arm)[3:])
    mine = {
        "base_frame": "panda_link0", "end_effector_frame": "panda_hand_tcp", "servo.node": "", "enabled": True,
        "command.topic": "robot/target_pose", "state.pose_topic": "robot/ee_pose", "hand.kind": "topic",
        "hand.name": "gripper/command", "hand.state_topic": "gripper/state", "hand.joints": ["gripper"],
        "hand.opened": 1.0, "workspace.low": [0.25, -0.32, 0.0], "workspace.high": [0.75, 0.32, 0.5],
        "watchdog.state": 3.0, "watchdog.observation": 5.0, "watchdog.action": 3.0, "watchdog.future": 0.5,
    }  # fmt: skip
    config = tmp_path / "my_arm.yaml"
    config.write_text(yaml.safe_dump({"/**/bridge_node": {"ros__parameters": mine}}))
    safe = listen(SafetyState, "safety/state", LATCHED)
    process = launch("generic", "policy:=false", "use_sim_time:=true", f"config:={config}", "scale:=1.0")
    active(process, "bridge_node")
    spin_until(lambda: sum(m.state == SafetyState.EXECUTING for m in safe) > 2, START_TIMEOUT, "the arm to move")
    assert interrupted(process) == 0
