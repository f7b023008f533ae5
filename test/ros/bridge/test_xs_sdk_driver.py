"""The WidowX bridge with the simulated arm under the xs_sdk emulator: real processes and interfaces."""

from __future__ import annotations

from pathlib import Path

import pytest
import robot_interfaces
from openvla_msgs.msg import SafetyState, SceneScore
from openvla_msgs.srv import ResetScene
from sensor_msgs.msg import JointState

from openvla_ros.bringup.process_table import argv, bringup, node_module
from openvla_ros.nodes.common.qos import LATCHED, SENSOR

pytestmark = [pytest.mark.ros, pytest.mark.slow]


SERVO = str(Path(robot_interfaces.__file__).with_name("servo_stand_in.py"))


@pytest.mark.parametrize(("mode", "config"), [("blocking", ""), ("streaming", ""), ("blocking", "widowx_servo")])
def test_the_bridge_does_the_task(start_process, ros_domain, listen, call, spin_until, mode, config):
    environment = robot_interfaces.environment()
    if config:
        servo = start_process("python", SERVO, "--ros-args", "-p", "use_sim_time:=true", **environment)
    overrides = {
        "sim_node": {"expert.role": "act", "expert.control": mode, "real_time_factor": 3.0, "autostart": True},
        "bridge_node": {"control_mode": mode, "autostart": True},
    }
    processes = {
        s.name: start_process(f"module:{node_module(s.executable)}", *argv(s)[3:], **environment)
        for s in bringup("widowx_sim", overrides, policy=False, manager=False, config=config)
    }
    scores, safe = listen(SceneScore, "sim/score", LATCHED), listen(SafetyState, "safety/state", LATCHED)
    joints = listen(JointState, "joint_states", SENSOR)
    ready = (SafetyState.READY, SafetyState.EXECUTING)
    spin_until(lambda: scores and joints and safe and safe[-1].state in ready, 120.0, "the bridge to be READY")
    for seed, target in ((1, "green"), (2, "blue")):
        answer = call(ResetScene, "sim/reset", seed=seed, target=target)
        assert answer.success, answer.message
        spin_until(
            lambda s=seed: scores and scores[-1].seed == s and not scores[-1].done, 20.0, "the new scene's score"
        )
        spin_until(lambda: scores[-1].done, 120.0, f"the {target} cube to be lifted")
        assert [n for n, up in zip(scores[-1].objects, scores[-1].lifted, strict=True) if up] == [target]
    assert list(joints[-1].name[-2:]) == ["left_finger", "right_finger"]
    assert "refused" not in processes["sim_node"].output
    assert "sags" not in processes["sim_node"].output  # the arm's torque was never off
    if config:
        assert servo.output.split() == ["pause_servo", "False"], servo.output
        assert "servo_joint_bound" not in {name for m in safe for name in m.clipped}
    assert "reach" not in {name for m in safe for name in m.clipped}
