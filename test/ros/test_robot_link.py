"""What a bridge does before its robot moves: calls in their order, answers judged, missing things named."""

from __future__ import annotations

from pathlib import Path

import pytest
import robot_interfaces
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from openvla_msgs.msg import ActionChunk, SafetyState

from openvla_ros.nodes import messages
from openvla_ros.nodes.qos import LATCHED, STATE, STREAM
from openvla_ros.robots.target_pose import Pose

pytestmark = [pytest.mark.ros, pytest.mark.timeout(240)]

CONFIG = Path(__file__).resolve().parents[2] / "config"
SERVICES = str(Path(robot_interfaces.__file__).with_name("robot_services.py"))


@pytest.fixture
def bridge(start_node):
    """Give `bridge(robot, **parameters)`: the bridge with config/robots/<robot>.yaml, configured and activated."""

    def start(robot, environment, **parameters):
        arguments = ["--ros-args", "--params-file", str(CONFIG / "robots" / f"{robot}.yaml")]
        for name, value in {"autostart": True, "call_timeout": 2.0, **parameters}.items():
            arguments += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
        return start_node("bridge_node", *arguments, **environment)

    return start


def test_a_missing_message_package_is_named_with_its_cure(bridge, wait_for):
    if robot_interfaces.installed():
        pytest.skip("the robots' interfaces are installed here")
    for robot, package in (("franka", "franka_msgs"), ("widowx", "interbotix_xs_msgs")):
        process = bridge(robot, {})
        wait_for(lambda p=process: not p.running, 30, "the bridge to refuse")
        assert f"but {package} does not import" in process.output and "build github.com/" in process.output


@pytest.mark.slow  # builds the interfaces where they are not built yet
def test_a_driver_that_is_not_there_or_takes_no_profile_is_refused(bridge, start_process, ros_domain, wait_for):
    environment = robot_interfaces.environment()
    process = bridge("widowx", environment)
    wait_for(lambda: not process.running, 30, "the bridge to refuse")
    assert "service set_operating_modes is not there: is xs_sdk running" in process.output
    start_process("python", SERVICES, "xs_sdk", **environment)
    process = bridge("widowx", environment, call_timeout=15.0)
    wait_for(lambda: not process.running, 60, "the bridge to refuse")
    assert "2000], not 200: the motors did not take Profile_Velocity = 200 ms" in process.output


@pytest.mark.slow
def test_moveit_servo_is_started_in_its_order_and_paused_at_the_end(
    bridge, start_process, ros_node, listen, spin_until, call, wait_for
):
    environment = robot_interfaces.environment()
    servo = start_process("python", SERVICES, "servo", **environment)
    parameters = {"watchdog.state": 2.0, "hand.kind": "none"}
    bridge("generic", environment, call_timeout=15.0, enabled=True, **parameters)
    safe = listen(SafetyState, "safety/state", LATCHED)
    poses = ros_node.create_publisher(messages.PoseStamped, "ee_pose", STREAM)

    def ready():
        at = ros_node.get_clock().now().nanoseconds
        poses.publish(messages.pose_message(Pose.of((0.4, 0.0, 0.3), (1.0, 0.0, 0.0, 0.0)), "base_link", at))
        return safe and safe[-1].state == SafetyState.READY

    spin_until(ready, 30.0, "the bridge to be READY")
    assert servo.output.split("\n")[:2] == ["switch_command_type 2", "pause_servo False"]
    deactivate = Transition(id=Transition.TRANSITION_DEACTIVATE)
    assert call(ChangeState, "bridge_node/change_state", transition=deactivate).success
    wait_for(lambda: "pause_servo True" in servo.output, 15, "Servo to be paused")


@pytest.mark.slow
def test_a_hand_that_never_comes_to_an_end_does_not_keep_the_arm_and_is_cancelled(
    bridge, start_process, ros_node, listen, spin_until, wait_for
):
    environment = robot_interfaces.environment()
    hand = start_process("python", SERVICES, "hand", **environment)
    parameters = {"hand.timeout": 1.0, "franka.robot_state_topic": "''", "control_mode": "streaming"}
    process = bridge("franka", environment, call_timeout=15.0, enabled=True, **parameters, **{"watchdog.state": 2.0})
    safe = listen(SafetyState, "safety/state", LATCHED)
    targets = listen(messages.PoseStamped, "target_pose", STATE)
    poses = ros_node.create_publisher(messages.PoseStamped, "franka_robot_state_broadcaster/current_pose", STREAM)
    chunks = ros_node.create_publisher(ActionChunk, "policy/action_chunk", STATE)

    def spoken(condition):
        def spin():
            at = ros_node.get_clock().now().nanoseconds
            poses.publish(messages.pose_message(Pose.of((0.4, 0.0, 0.3), (1.0, 0.0, 0.0, 0.0)), "fr3_link0", at))
            return condition()

        return spin

    spin_until(spoken(lambda: safe and safe[-1].state == SafetyState.READY), 60.0, "the bridge to be READY")
    at = ros_node.get_clock().now()
    chunks.publish(
        messages.chunk_message(
            [(0.03, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)], frame="fr3_link0", at_ns=at.nanoseconds, observation=at.to_msg(),
            sequence=1, source="policy", instruction="", period=0.2,
        )
    )  # fmt: skip
    spin_until(spoken(lambda: targets and targets[-1].pose.position.x > 0.425), 10.0, "the arm to go its way")
    wait_for(lambda: "grasp accepted" in hand.output, 5, "the hand to take its goal")
    spin_until(spoken(lambda: "cancelled" in hand.output), 10.0, "the hand to be cancelled")
    assert "franka_gripper/grasp took longer than 1 s: cancelled" in process.output
