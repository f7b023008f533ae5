"""openvla-doctor on a running simulator stack: first without a fault, then with one fault after the other."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import robot_interfaces
from lifecycle_msgs.srv import GetState
from openvla_msgs.msg import PolicyStatus, SafetyState
from openvla_msgs.srv import ResetEStop, SetInstruction
from std_msgs.msg import Float64
from std_srvs.srv import Trigger

from openvla_ros.apps.doctor import cli
from openvla_ros.nodes.common.qos import LATCHED, STATE

pytestmark = pytest.mark.ros


@pytest.fixture
def ask(ros_domain, capsys):
    """Give `ask(*arguments)`: the command's exit status, and its rows by name."""

    def ask(*arguments):
        capsys.readouterr()
        status = cli.main(["--json", "--listen", "1.2", "--wait", "20", *arguments])
        rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
        assert status == any(row["status"] == "bad" for row in rows.values())
        return status, rows

    return ask


def test_running_stack_passes_and_each_fault_is_found(
    start_stack, tiny_checkpoint, ask, call, listen, spin_until, monkeypatch, root
):
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(root / "config" / "dds" / "fastdds.xml"))
    overrides = {"policy_node": {"checkpoint": str(tiny_checkpoint), "threads": 1}}
    running = start_stack(overrides)
    status = listen(PolicyStatus, "policy/status", LATCHED)
    spin_until(lambda: status and status[-1].state == "waiting", 120.0, "the policy")
    call(SetInstruction, "set_instruction", instruction="lift the red cube")
    spin_until(lambda: status[-1].step >= 2, 60.0, "two steps")
    call(SetInstruction, "set_instruction", instruction="")

    code, rows = ask()
    assert code == 0, [row for row in rows.values() if row["status"] == "bad"]
    passed = {name for name, row in rows.items() if row["status"] == "ok"}
    assert passed >= {
        "versions", "ROS domain", "DDS profile", "nodes", "camera rate", "camera stamps", "image transport",
        "robot state", "controllers", "safety gate", "checkpoint", "unnorm_key", "policy memory", "policy rate",
    }, rows  # fmt: skip
    assert "policy_node active" in rows["nodes"]["said"] and str(tiny_checkpoint) in rows["checkpoint"]["said"]
    assert "/robot/ee_pose" in rows["robot state"]["said"] and "/robot/target_pose" in rows["controllers"]["said"]

    call(Trigger, "bridge_node/e_stop")
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE")
    code, rows = ask("--unnorm-key", "bridge_orig")
    wrong = {name: row for name, row in rows.items() if row["status"] == "bad"}
    assert code == 1 and set(wrong) == {"safety gate", "DDS profile", "unnorm_key"}, rows
    assert wrong["safety gate"]["said"].startswith("ESTOP: emergency stop")
    assert "/bridge_node/reset_e_stop" in wrong["safety gate"]["remedy"]
    assert "fastdds.xml" in wrong["DDS profile"]["remedy"]
    assert "bridge_orig" in wrong["unnorm_key"]["said"] and wrong["unnorm_key"]["remedy"].endswith("one of: sim")
    assert call(ResetEStop, "bridge_node/reset_e_stop", operator_name="the test").success

    # Without the simulator there is neither camera nor robot.
    running["lifecycle_manager"].stop()
    running["sim_node"].popen.send_signal(signal.SIGKILL)
    running["sim_node"].popen.wait(10)
    assert call(GetState, "bridge_node/get_state").current_state.label == "active"
    code, rows = ask("--wait", "1")
    assert code == 1 and rows["camera rate"]["status"] == rows["nodes"]["status"] == "bad"
    assert "start the camera's driver" in rows["camera rate"]["remedy"]
    assert "sim_node absent" in rows["nodes"]["said"]


def test_stack_in_a_namespace_passes_with_its_own_clock(start_stack, ask, listen, spin_until):
    start_stack(policy=False, namespace="left")
    safe = listen(SafetyState, "left/safety/state", LATCHED)
    spin_until(lambda: safe and safe[-1].state == SafetyState.READY, 120.0, "the bridge")
    _, rows = ask("--namespace", "left", "--no-policy")
    fine = ("camera rate", "camera stamps", "image transport", "robot state", "controllers", "safety gate")
    assert {rows[name]["status"] for name in fine} == {"ok"}, rows


def test_without_a_stack_its_nodes_are_missing(ask, ros_domain, monkeypatch):
    code, rows = ask("--no-policy", "--wait", "0.5")
    assert code == 1 and "checkpoint" not in rows
    assert rows["nodes"]["remedy"].endswith("missing: sim_node, bridge_node")
    assert rows["robot state"]["status"] == rows["controllers"]["status"] == "skip"


@pytest.mark.slow  # builds the message packages where they are not built yet
def test_subscribed_controller_must_be_active(start_node, start_process, listen, spin_until, wait_for):
    """Controllers are matched by node name: the topic of a shipped Franka, `target_pose`, names no controller."""
    environment = robot_interfaces.environment()
    start_node("bridge_node", "--ros-args", "-p", "autostart:=true", "-r", "robot/target_pose:=target_pose")
    safe = listen(SafetyState, "safety/state", LATCHED)
    listen(Float64, "gripper/command", STATE)
    spin_until(lambda: safe, 60.0, "the bridge")

    def row(state, **environment):
        helper = str(Path(robot_interfaces.__file__).with_name("controllers.py"))
        manager = start_process("python", helper, "/", "crisp", state, "target_pose", **robot_interfaces.environment())
        asked = ("--robot", "generic", "--no-policy", "--json", "--listen", "0.5", "--wait", "3")
        cli = start_process("module:openvla_ros.apps.doctor.cli", *asked, **environment)
        wait_for(lambda: not cli.running, 90.0, "the doctor")
        manager.stop()
        (found,) = [one for one in json.loads(cli.output) if one["name"] == "controllers"]
        return found

    found = row("inactive", **environment)
    assert found["status"] == "bad" and found["remedy"] == "ros2 control set_controller_state crisp active", found
    assert "only crisp subscribes to /target_pose, and is not active" in found["said"]
    found = row("active", **environment)
    assert found["status"] == "ok" and "active: joint_state_broadcaster, crisp" in found["said"], found
    if not robot_interfaces.installed():
        found = row("active")
        assert found["status"] == "skip" and "controller_manager_msgs is not installed" in found["said"], found
