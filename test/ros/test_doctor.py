"""openvla-doctor on the real simulator stack: nothing to mend, and then one thing after the other."""

from __future__ import annotations

import json
import signal

import pytest
from lifecycle_msgs.srv import GetState
from openvla_msgs.msg import PolicyStatus
from openvla_msgs.srv import ResetEStop, SetInstruction
from std_srvs.srv import Trigger

from openvla_ros.nodes import doctor
from openvla_ros.nodes.qos import LATCHED

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]


@pytest.fixture
def ask(ros_domain, capsys):
    """Run the doctor as a command; the exit status and the rows by name."""

    def ask(*arguments):
        capsys.readouterr()
        status = doctor.main(["--json", "--listen", "1.2", "--wait", "20", *arguments])
        rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
        assert status == any(row["status"] == "bad" for row in rows.values())
        return status, rows

    return ask


def test_a_stack_that_runs_and_what_may_be_wrong_with_it(
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
    seen = {name for name, row in rows.items() if row["status"] == "ok"}
    assert seen >= {
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

    # The camera (and with it the whole simulated robot) is gone.
    running["lifecycle_manager"].stop()
    running["sim_node"].popen.send_signal(signal.SIGKILL)
    running["sim_node"].popen.wait(10)
    assert call(GetState, "bridge_node/get_state").current_state.label == "active"
    code, rows = ask("--wait", "1")
    assert code == 1 and rows["camera rate"]["status"] == rows["nodes"]["status"] == "bad"
    assert "start the camera's driver" in rows["camera rate"]["remedy"]
    assert "sim_node absent" in rows["nodes"]["said"]


def test_nothing_runs(ask, ros_domain, monkeypatch):
    code, rows = ask("--no-policy", "--wait", "0.5")
    assert code == 1 and "checkpoint" not in rows
    assert rows["nodes"]["remedy"].endswith("missing: sim_node, bridge_node")
    assert rows["robot state"]["status"] == rows["controllers"]["status"] == "skip"
