"""The bridge and a robot's driver: service calls and their answers, gripper goals, stop guard, MoveIt Servo."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import robot_interfaces
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from openvla_msgs.msg import ActionChunk, SafetyState
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from openvla_ros.geometry import Pose
from openvla_ros.nodes.common import action_messages, conversions
from openvla_ros.nodes.common.qos import LATCHED, STATE, STREAM

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).resolve().parents[3] / "config"
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


def test_a_missing_message_package_is_named_with_its_remedy(bridge, wait_for):
    if robot_interfaces.installed():
        pytest.skip("the robots' interfaces are installed here")
    for robot, package in (("franka", "franka_msgs"), ("widowx", "interbotix_xs_msgs")):
        process = bridge(robot, {})
        wait_for(lambda p=process: not p.running, 60, "the bridge to refuse")
        assert f"but {package} does not import" in process.output and "build github.com/" in process.output


@pytest.mark.slow  # builds the interfaces where they are not built yet
@pytest.mark.parametrize(
    ("how", "timeout", "why"),
    [
        ("", 2.0, "service get_robot_info is not available: is xs_sdk running"),
        ("dark", 15.0, "2000], not (200, 200, 200, 200, 200, 200): the motors did not take Profile_Velocity = 200 ms"),
        ("velocity", 15.0, "get_robot_info reports mode = ['velocity'], not position: is xs_sdk running"),
    ],
)
def test_a_missing_or_misconfigured_driver_is_refused(bridge, start_process, ros_domain, wait_for, how, timeout, why):
    environment = robot_interfaces.environment()
    if how:
        start_process("python", SERVICES, "xs_sdk", how, **environment)
    process = bridge("widowx", environment, call_timeout=timeout)
    wait_for(lambda: not process.running, 60, "the bridge to refuse")
    assert why in process.output


GOAL = """
from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.message_types import load
from openvla_ros.robots.grippers import GripperConfig, GripperDriver
((_, goal),) = GripperDriver(GripperConfig("{kind}", "gripper_cmd", "js", ("f1", "f2"), 0.0, 0.08)).command(1.0)
print(conversions.filled(load(goal.kind).Goal, goal.fields))
"""


@pytest.mark.slow  # as above
def test_gripper_goals_match_their_action_types(ros_domain):
    environment = {**os.environ, **robot_interfaces.environment(), "ROS_PYTHON_CHECK_FIELDS": "1"}

    def goal(kind):
        code = [sys.executable, "-c", GOAL.format(kind=kind)]
        done = subprocess.run(code, env=environment, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
        return done.stdout

    assert "name=['f1'], position=[0.04], velocity=[], effort=[20.0]" in goal("parallel")
    assert "GripperCommand(position=0.04, max_effort=20.0)" in goal("command")
    assert "Move_Goal(width=0.08, speed=0.1)" in goal("franka")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP], ids=lambda number: number.name)
def test_the_stop_guard_ends_a_push_without_the_bridge(
    bridge, start_process, ros_node, listen, spin_until, wait_for, meet, how
):
    environment = robot_interfaces.environment()
    arm = start_process("python", SERVICES, "xs_sdk", **environment)
    process = bridge("widowx", environment, call_timeout=30.0, enabled=True, **{"watchdog.state": 2.0})
    safe = listen(SafetyState, "safety/state", LATCHED)
    chunks = ros_node.create_publisher(ActionChunk, "policy/action_chunk", STATE)
    spin_until(lambda: safe and safe[-1].state == SafetyState.READY, 60.0, "the bridge to be READY")
    spin_until(lambda: chunks.get_subscription_count() > 0, 30.0, "the bridge to subscribe")
    meet("bridge_node")
    (guard,) = Path(f"/proc/{process.popen.pid}/task/{process.popen.pid}/children").read_text().split()
    at = ros_node.get_clock().now()
    chunks.publish(
        action_messages.chunk_message(
            [(0.0,) * 7], frame="wx250s/base_link", at_ns=at.nanoseconds, observation=at.to_msg(), sequence=1,
            source="policy", instruction="", period=0.2,
        )
    )  # fmt: skip
    wait_for(lambda: "gripper -250" in arm.output, 20, "the gripper to close")
    os.kill(process.popen.pid, how)
    wait_for(lambda: "gripper -100" in arm.output, 30, "its effort to end")
    assert arm.output.split("gripper -250")[1].count("gripper") == 1
    why = "hangs" if how == signal.SIGSTOP else "is gone"
    assert f"the bridge {why}: gripper is sent -100" in process.output
    assert "mode single gripper pwm" in arm.output and "mode group" not in arm.output
    os.kill(process.popen.pid, signal.SIGKILL)
    wait_for(lambda: not alive(guard), 10, "the stop guard to end")


def alive(pid):
    """Whether a process runs; an ended one may be a zombie until its parent waits for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_moveit_servo_is_unpaused_and_paused_at_rest(
    bridge, start_process, ros_node, listen, spin_until, call, wait_for, meet
):
    environment = robot_interfaces.environment()
    servo = start_process("python", SERVICES, "servo", **environment)
    parameters = {"watchdog.state": 2.0, "hand.kind": "none"}
    bridge("generic", environment, call_timeout=15.0, enabled=True, **parameters)
    safe = listen(SafetyState, "safety/state", LATCHED)
    targets = listen(PoseStamped, "servo_node/pose_target_cmds", 100)
    chunks = ros_node.create_publisher(ActionChunk, "policy/action_chunk", STATE)
    poses = ros_node.create_publisher(PoseStamped, "ee_pose", STREAM)

    def ready():
        at = ros_node.get_clock().now().nanoseconds
        poses.publish(conversions.pose_message(Pose.of((0.4, 0.0, 0.3), (1.0, 0.0, 0.0, 0.0)), "base_link", at))
        return safe and safe[-1].state == SafetyState.READY

    spin_until(ready, 60.0, "the bridge to be READY")
    assert servo.output.split("\n")[:2] == ["switch_command_type 2", "pause_servo False"]
    meet("bridge_node")
    spin_until(lambda: ready() and chunks.get_subscription_count(), 30.0, "the bridge to subscribe")
    at = ros_node.get_clock().now().nanoseconds
    chunks.publish(
        action_messages.chunk_message(
            [(0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)] * 4, frame="base_link", at_ns=at, sequence=1, source="policy",
            observation=conversions.time_message(at), instruction="go", period=0.5,
        )
    )  # fmt: skip
    spin_until(lambda: ready() is not None and len(targets) > 10, 30.0, "the arm to move")
    deactivate = Transition(id=Transition.TRANSITION_DEACTIVATE)
    assert call(ChangeState, "bridge_node/change_state", transition=deactivate).success
    wait_for(lambda: "pause_servo True" in servo.output, 30, "Servo to be paused")
    step, ago = map(float, re.search(r"pause_servo True: last step ([\d.]+) mm, ([\d.]+) s ago", servo.output).groups())
    assert step < 0.3, "it was paused in the middle of braking"  # at the limit of 0.15 m/s a step is 3 mm
    assert ago > 0.15, "it was paused before its commands had timed out"


@pytest.mark.slow
def test_a_gripper_goal_delays_only_the_next_gripper_goal(
    bridge, start_process, ros_node, listen, spin_until, call, meet
):
    environment = robot_interfaces.environment()
    gripper = start_process("python", SERVICES, "gripper", "homing", **environment)
    parameters = {
        "hand.timeout": 1.0, "franka.robot_state_topic": "''", "control_mode": "streaming", "gripper.interval": 0.0,
        "watchdog.state": 2.0, "enabled": True,
    }  # fmt: skip
    process = bridge("franka", environment, call_timeout=15.0, **parameters)
    safe = listen(SafetyState, "safety/state", LATCHED)
    targets = listen(PoseStamped, "target_pose", STATE)
    published = {
        "pose": listen(PoseStamped, "robot/ee_pose", STATE),
        "target": listen(PoseStamped, "robot/target_pose", STATE),
        "hand": listen(JointState, "gripper/state", STATE),
    }
    fingers = ros_node.create_publisher(JointState, "franka_gripper/joint_states", STREAM)
    poses = ros_node.create_publisher(PoseStamped, "franka_robot_state_broadcaster/current_pose", STREAM)
    chunks = ros_node.create_publisher(ActionChunk, "policy/action_chunk", STATE)

    def reporting(condition, frame="base"):
        def spin():
            at = ros_node.get_clock().now().nanoseconds
            poses.publish(conversions.pose_message(Pose.of((0.4, 0.0, 0.3), (1.0, 0.0, 0.0, 0.0)), frame, at))
            names = ("fr3_finger_joint1", "fr3_finger_joint2")
            fingers.publish(conversions.joint_message(names, [0.0195, 0.0195], [], at))
            return condition()

        return spin

    def act(sequence, forward, opening):
        at = ros_node.get_clock().now()
        chunks.publish(
            action_messages.chunk_message(
                [(forward, 0.0, 0.0, 0.0, 0.0, 0.0, opening)], frame="base", at_ns=at.nanoseconds,
                observation=at.to_msg(), sequence=sequence, source="policy", instruction="", period=0.2,
            )
        )  # fmt: skip

    meet("bridge_node")
    wrong = "its poses are in frame 'world', not in base_frame 'base'"
    spin_until(reporting(lambda: wrong in process.output, "world"), 60.0, "poses of another frame to be refused")
    spin_until(reporting(lambda: safe, "world"), 20.0, "safety/state")
    assert safe[-1].state == SafetyState.HOLD
    spin_until(
        reporting(lambda: safe[-1].state == SafetyState.READY and chunks.get_subscription_count()), 60.0,
        "the bridge to be READY and to subscribe",
    )  # fmt: skip
    act(0, 0.0, 0.0)
    spin_until(
        reporting(lambda: "franka_gripper/grasp refused its goal" in process.output), 20.0, "a gripper that is homing"
    )
    act(1, 0.03, 0.0)  # the same opening again: the first goal was refused
    spin_until(reporting(lambda: targets and targets[-1].pose.position.x > 0.425), 20.0, "the arm to move")
    spin_until(reporting(lambda: "grasp accepted" in gripper.output), 20.0, "the gripper to accept its goal")
    spin_until(reporting(lambda: "grasp stops" in gripper.output), 20.0, "the goal to be cancelled")
    assert "franka_gripper/grasp took longer than 1 s: cancelled" in process.output
    act(2, 0.0, 1.0)
    spin_until(reporting(lambda: "move accepted" in gripper.output), 20.0, "the gripper to open")
    act(3, 0.0, 0.0)
    spin_until(reporting(lambda: gripper.output.count("grasp accepted") == 2), 20.0, "the gripper to close again")
    said = [line for line in gripper.output.split("\n") if line in ("move accepted", "move stops", "grasp accepted")]
    assert said == ["grasp accepted", "move accepted", "move stops", "grasp accepted"]
    # A pending goal is dropped by an emergency stop: a gripper that opens would drop what it holds.
    act(4, 0.0, 1.0)
    call(Trigger, "bridge_node/e_stop")
    spin_until(reporting(lambda: gripper.output.count("grasp stops") == 2), 20.0, "the goal to end")
    end = time.monotonic() + 1.0
    spin_until(reporting(lambda: time.monotonic() > end))
    assert gripper.output.count("move accepted") == 1 and safe[-1].state == SafetyState.ESTOP
    # Whatever the robot's topics are called: recorder, teleoperation and live view use the stack's names.
    spin_until(reporting(lambda: all(published.values())), 20.0, "all three topics")
    assert published["pose"][-1].header.frame_id == "base"
    assert published["target"][-1].pose.position.x == pytest.approx(targets[-1].pose.position.x)
    assert published["hand"][-1].position[0] == pytest.approx(0.5)


@pytest.mark.slow
def test_a_gripper_that_refuses_goals_does_not_block_the_arm(bridge, start_process, ros_node, listen, spin_until, meet):
    """The motion waits for the gripper (gripper.first) for a limited time; the next action repeats the command."""
    environment = robot_interfaces.environment()
    gripper = start_process("python", SERVICES, "gripper", "broken", **environment)
    parameters = {
        "franka.robot_state_topic": "''", "gripper.first": True, "watchdog.state": 5.0, "watchdog.action": 5.0,
        "enabled": True,
    }  # fmt: skip
    bridge("franka", environment, call_timeout=15.0, **parameters)
    safe = listen(SafetyState, "safety/state", LATCHED)
    pose = [Pose.of((0.4, 0.0, 0.3), (1.0, 0.0, 0.0, 0.0))]

    def follow(message):
        pose[0] = conversions.read_pose(message)[0]

    ros_node.create_subscription(PoseStamped, "target_pose", follow, STATE)
    fingers = ros_node.create_publisher(JointState, "franka_gripper/joint_states", STREAM)
    poses = ros_node.create_publisher(PoseStamped, "franka_robot_state_broadcaster/current_pose", STREAM)
    chunks = ros_node.create_publisher(ActionChunk, "policy/action_chunk", STATE)

    def report():
        at = ros_node.get_clock().now().nanoseconds
        poses.publish(conversions.pose_message(pose[0], "base", at))
        names = ("fr3_finger_joint1", "fr3_finger_joint2")
        fingers.publish(conversions.joint_message(names, [0.039, 0.039], [], at))

    ros_node.create_timer(0.02, report)
    spin_until(lambda: safe and safe[-1].state == SafetyState.READY, 60.0, "the bridge to be READY")
    meet("bridge_node")
    for number in (1, 2):
        at = ros_node.get_clock().now()
        chunks.publish(
            action_messages.chunk_message(
                [(0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)], frame="base", at_ns=at.nanoseconds, observation=at.to_msg(),
                sequence=number, source="policy", instruction="", period=0.2,
            )
        )  # fmt: skip
        spin_until(lambda n=number: pose[0].position[0] > 0.4 + 0.015 * n, 20.0, "the arm to move")
        spin_until(lambda n=number: safe[-1].executed_sequence == n, 20.0, "the action's end")
        assert gripper.output.count("refused") == number, gripper.output
