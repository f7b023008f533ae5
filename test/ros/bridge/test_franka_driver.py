"""The Franka bridge with the simulated Panda under the franka_ros2 emulator: real processes and interfaces."""

from __future__ import annotations

import pytest
import robot_interfaces
from geometry_msgs.msg import PoseStamped
from openvla_msgs.msg import SafetyState, SceneScore
from openvla_msgs.srv import ResetScene
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from openvla_ros.bringup.process_table import argv, bringup, node_module
from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.qos import LATCHED, SENSOR, STATE

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.fixture
def start(start_process, ros_domain):
    """Give `start(robot, mode)`: the simulator as a driver emulator and its bridge, the scripted expert in command."""
    environment = robot_interfaces.environment()

    def start(robot, mode, bridge=None, **sim):
        overrides = {
            "sim_node": {
                "expert.role": "act",
                "expert.control": mode,
                "real_time_factor": 3.0,
                "autostart": True,
                **sim,
            },
            "bridge_node": {"control_mode": mode, "autostart": True, "call_timeout": 60.0, **(bridge or {})},
        }
        return {
            s.name: start_process(f"module:{node_module(s.executable)}", *argv(s)[3:], **environment)
            for s in bringup(robot, overrides, policy=False, manager=False)
        }

    return start


def lift(call, spin_until, scores, seed, target):
    answer = call(ResetScene, "sim/reset", seed=seed, target=target)
    assert answer.success, answer.message
    spin_until(lambda: scores and scores[-1].seed == seed and not scores[-1].done, 20.0, "the new scene's score")
    spin_until(lambda: scores[-1].done, 120.0, f"the {target} cube to be lifted")
    assert [n for n, up in zip(scores[-1].objects, scores[-1].lifted, strict=True) if up] == [target]


OTHER = {
    "command.topic": "cartesian_impedance_example_controller/equilibrium_pose",
    "hand.kind": "command", "hand.name": "franka_gripper/gripper_action",
}  # fmt: skip


@pytest.mark.parametrize(("mode", "bridge"), [("blocking", {}), ("streaming", {}), ("blocking", OTHER)])
def test_the_bridge_does_the_task_without_a_reflex(start, listen, call, spin_until, mode, bridge):
    processes = start("franka_sim", mode, bridge)
    scores, safe = listen(SceneScore, "sim/score", LATCHED), listen(SafetyState, "safety/state", LATCHED)
    ready = (SafetyState.READY, SafetyState.EXECUTING)
    spin_until(lambda: scores and safe and safe[-1].state in ready, 120.0, "the bridge to be READY")
    for seed, target in ((1, "green"), (2, "blue")):
        lift(call, spin_until, scores, seed, target)
    assert "reflex" not in processes["sim_node"].output, processes["sim_node"].output
    assert not [m.reason for m in safe if "mode" in m.reason]
    assert "was not sent" not in processes["bridge_node"].output


def test_a_jump_triggers_a_reflex_until_recovery(start, ros_node, listen, call, spin_until, meet):
    processes = start("franka_sim", "blocking", **{"expert.role": "off"})
    safe = listen(SafetyState, "safety/state", LATCHED)
    poses = listen(PoseStamped, "franka_robot_state_broadcaster/current_pose", SENSOR)
    fingers = listen(JointState, "franka_gripper/joint_states", SENSOR)
    spin_until(
        lambda: safe and safe[-1].state == SafetyState.READY and poses and fingers, 120.0, "the bridge to be READY"
    )
    grace = 1_500_000_000  # the emulator tolerates jumps for a while after a reset
    spin_until(lambda: conversions.stamp_ns(poses[-1].header.stamp) > grace, 30.0, "the scene to be an old one")
    publisher = ros_node.create_publisher(PoseStamped, "target_pose", STATE)
    spin_until(lambda: publisher.get_subscription_count() > 0, 30.0, "the controller")
    meet("sim_node")
    jump = poses[-1]
    assert jump.header.frame_id == "base"
    jump.pose.position.x += 0.1
    publisher.publish(jump)
    silence = "no message on franka_robot_state_broadcaster/robot_state for 1 s: after a reflex find the cause, then"
    spin_until(lambda: silence in safe[-1].reason, 20.0, "the gate to say what the silence may be")
    assert safe[-1].state == SafetyState.HOLD and "recover_robot" in safe[-1].reason
    before = len(poses), len(fingers)
    spin_until(lambda: len(fingers) > before[1] + 10, 20.0, "the gripper, a separate device, to continue")
    assert len(poses) == before[0], "the state broadcaster is not active"
    answer = call(Trigger, "bridge_node/recover_robot")
    assert answer.success and "set_hardware_component_state" in answer.message, answer.message
    spin_until(lambda: safe[-1].reason == "not enabled", 20.0, "the fault to be gone")
    assert processes["sim_node"].output.count("reflex 1") == 1
