"""The bridge as a real process. The test is the robot: it follows every target at once, unless it stalls."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import robot_interfaces
from geometry_msgs.msg import PoseStamped
from history import whole
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from openvla_msgs.msg import ActionChunk, EndEffectorDelta, SafetyState
from openvla_msgs.srv import ResetEStop, SwitchSource
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool, Float64, String
from std_srvs.srv import SetBool, Trigger

from openvla_ros.geometry import Pose
from openvla_ros.nodes.common import action_messages, conversions
from openvla_ros.nodes.common.qos import COMMAND, LATCHED, STATE, STREAM

pytestmark = pytest.mark.ros
STATICS = str(Path(robot_interfaces.__file__).with_name("static_transforms.py"))
START = Pose.of((0.5, 0.0, 0.2), (1.0, 0.0, 0.0, 0.0))
MS = 1_000_000
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
WAIT = 30.0  # [s] for what takes no time on an idle machine


class Robot:
    """A perfect arm: at 50 Hz it reports to be at its newest target."""

    def __init__(self, node, start=START):
        self.node, self.pose, self.opening, self.stalled = node, start, 1.0, False
        self.targets: list[tuple[float, Pose]] = []
        self.stamps: list[int] = []  # [ns] of the targets: when the bridge sent them
        self.openings: list[float] = []
        self.stuck = False  # the gripper does not follow commands
        self.states: list[SafetyState] = []
        self._sequence = 0
        self._gripper = node.create_publisher(JointState, "gripper/state", STREAM)
        self.chunks = node.create_publisher(ActionChunk, "policy/action_chunk", STATE)
        self.e_stop = node.create_publisher(Bool, "e_stop", STATE)
        # Created last: a bridge that receives it (it must, to be READY) knows the others too. Likewise safety/state.
        self._pose = node.create_publisher(PoseStamped, "robot/ee_pose", STREAM)
        self._to_bridge = (self._pose, self._gripper, self.chunks, self.e_stop)
        self._from_bridge = (
            node.create_subscription(Float64, "gripper/command", self._on_gripper, whole(COMMAND)),
            node.create_subscription(PoseStamped, "robot/target_pose", self._on_target, whole(COMMAND)),
            node.create_subscription(SafetyState, "safety/state", self.states.append, whole(LATCHED)),
        )
        node.create_timer(0.02, self._measure)

    def _on_target(self, message):
        self.pose, stamp = conversions.read_pose(message)
        self.stamps.append(stamp)
        self.targets.append((time.monotonic(), self.pose))

    def _on_gripper(self, message):
        self.openings.append(message.data)
        self.opening = self.opening if self.stuck else message.data

    def _measure(self):
        if not self.stalled:
            now = self.now()
            self._pose.publish(conversions.pose_message(self.pose, "panda_link0", now))
            self._gripper.publish(conversions.gripper_message(self.opening, now))

    def now(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def send(self, *rows, seen: int | None = None, **changes):
        """Publish a chunk that answers an image taken now."""
        now, self._sequence = self.now(), self._sequence + 1
        fields = dict(
            frame="panda_link0", at_ns=now, observation=conversions.time_message(seen or now), sequence=self._sequence,
            source="policy", instruction="test", period=0.2,
        )  # fmt: skip
        self.chunks.publish(action_messages.chunk_message(rows, **(fields | changes)))

    def is_in(self, state) -> bool:
        """Whether the bridge is in this state, with all topics connected."""
        connected = all(p.get_subscription_count() for p in self._to_bridge) and all(
            s.get_publisher_count() for s in self._from_bridge
        )
        return connected and bool(self.states) and self.states[-1].state == state


@pytest.fixture
def robot(ros_node):
    return Robot(ros_node)


@pytest.fixture
def bridge(start_node, robot, spin_until):
    """A function that starts the bridge with parameters and waits until it is ready.

    Its watchdogs are slow except in tests about them: a busy machine is no fault.
    """

    def start(environment=None, **parameters):
        defaults = {"watchdog__state": 5.0, "watchdog__action": 2.0}
        pairs = [
            x for name, value in (defaults | parameters).items() for x in ("-p", f"{name.replace('__', '.')}:={value}")
        ]
        asked = ["--ros-args", "-p", "autostart:=true", "-p", "enabled:=true", *pairs]
        process = start_node("bridge_node", *asked, **(environment or {}))
        spin_until(lambda: robot.is_in(SafetyState.READY), 120.0, "READY")
        return process

    return start


def arrives(robot, spin_until, settle, position):
    """Wait until the target is there (the state may arrive before it), and check that it stays."""
    spin_until(lambda: math.dist(robot.pose.position, position) < 1e-6, WAIT, f"the target {position}")
    settle()
    assert robot.pose.position == pytest.approx(position, abs=1e-6)


def row(x=0.0, y=0.0, z=0.0, roll=0.0, pitch=0.0, yaw=0.0, gripper=1.0):
    return (x, y, z, roll, pitch, yaw, gripper)


def test_an_action_is_executed_smoothly_and_reported(bridge, robot, spin_until, settle):
    bridge()
    ready = robot.states[-1]
    seen = robot.now()
    sent = time.monotonic()
    robot.send(row(x=0.04, yaw=0.2, gripper=0.0), seen=seen)
    spin_until(lambda: robot.is_in(SafetyState.EXECUTING), WAIT, "EXECUTING")
    assert robot.states[-1].executing
    spin_until(lambda: robot.is_in(SafetyState.READY), WAIT, "READY again")
    done = robot.states[-1]
    assert conversions.stamp_ns(done.executed_observation_stamp) == seen and done.executed_sequence == 1
    assert conversions.stamp_ns(done.ready_since) > conversions.stamp_ns(ready.ready_since)
    arrives(robot, spin_until, settle, (0.54, 0.0, 0.2))
    wanted = conversions.Pose.of(
        START.position, (math.cos(0.1), math.sin(0.1), 0.0, 0.0)
    )  # Rz(0.2) after the half turn
    assert abs(sum(a * b for a, b in zip(robot.pose.quaternion, wanted.quaternion, strict=True))) > 1 - 1e-9
    assert robot.openings == [0.0]
    # A jump-free start, a stream at about the restream rate, and no step above the speed limit (0.5 m/s, 2 periods).
    assert robot.targets[0][1].position[0] - 0.5 < 0.01
    steps = [
        math.dist(a.position, b.position) for (_, a), (_, b) in zip(robot.targets, robot.targets[1:], strict=False)
    ]
    assert max(steps) <= 0.5 * 0.04 + 1e-9 and len(robot.targets) >= 6
    assert robot.targets[0][0] - sent < 0.5  # (latency has its benchmark; this machine may be busy)


def test_refused_chunks_move_nothing_and_name_the_check(bridge, robot, spin_until):
    bridge()

    def refused(name):
        count = robot.states[-1].refused_count
        spin_until(lambda: robot.states[-1].refused_count > count, WAIT, f"a refusal for {name}")
        assert list(robot.states[-1].refused) == [name] and robot.states[-1].reason
        assert robot.states[-1].state == SafetyState.READY, "and another chunk is asked for"

    robot.send(row(), frame="camera_optical_frame")
    refused("frame")
    robot.send(row(), source="stranger")
    refused("source")
    robot.send(row(), seen=robot.now() - 10_000 * MS)
    refused("observation_age")
    broken = action_messages.chunk_message(
        [row()], frame="panda_link0", at_ns=robot.now(), observation=conversions.time_message(robot.now()), sequence=9,
        source="policy", instruction="test", period=0.2,
    )  # fmt: skip
    broken.actions = [EndEffectorDelta()]
    broken.actions[0].translation.x = math.nan
    robot.chunks.publish(broken)
    refused("action")
    assert robot.targets == [] and robot.openings == []


def test_limits_clip_and_are_reported(bridge, robot, spin_until, settle):
    bridge(limit__translation=0.03, workspace__high="[0.8, 0.4, 0.21]")
    robot.send(row(z=0.5))
    spin_until(lambda: robot.states[-1].executed_sequence == 1 and robot.is_in(SafetyState.READY), WAIT, "the end")
    arrives(robot, spin_until, settle, (0.5, 0.0, 0.21))
    assert set(robot.states[-1].clipped) == {"max_translation", "box_z"}


def test_an_emergency_stop_latches_until_its_reset(bridge, robot, spin_until, settle, call):
    bridge(limit__speed=0.05)
    robot.send(row(x=0.05))
    spin_until(lambda: len(robot.targets) > 5, WAIT, "motion")
    robot.e_stop.publish(Bool(data=True))
    spin_until(lambda: robot.is_in(SafetyState.ESTOP), WAIT, "ESTOP")
    stopped = conversions.stamp_ns(next(s for s in robot.states if s.state == SafetyState.ESTOP).header.stamp)
    robot.e_stop.publish(Bool(data=False))
    robot.send(row(x=0.05))
    spin_until(lambda: "waiting for a reset" in robot.states[-1].reason, WAIT, "the release")
    spin_until(lambda: not robot.states[-1].stopping, WAIT, "the end of braking")
    settle()
    assert sum(at > stopped for at in robot.stamps) <= 12 and robot.pose.position[0] < 0.54  # braking: 0.25 s at 50 Hz
    end = len(robot.targets)
    settle()
    assert len(robot.targets) == end
    unnamed = call(ResetEStop, "bridge_node/reset_e_stop", operator_name=" ")
    assert not unnamed.success and "operator's name" in unnamed.message and robot.is_in(SafetyState.ESTOP)
    assert call(ResetEStop, "bridge_node/reset_e_stop", operator_name="Ada").success
    spin_until(lambda: robot.is_in(SafetyState.READY), WAIT, "READY after the reset")
    assert robot.states[-1].e_stop_reset_by == "Ada"
    assert abs(conversions.stamp_ns(robot.states[-1].e_stop_reset_stamp) - robot.now()) < 10_000 * MS
    assert call(Trigger, "bridge_node/e_stop").success
    spin_until(lambda: robot.is_in(SafetyState.ESTOP), WAIT, "ESTOP by the service")
    assert call(ResetEStop, "bridge_node/reset_e_stop", operator_name="Ada").success
    spin_until(lambda: robot.is_in(SafetyState.READY), WAIT, "READY again")
    robot.send(row(x=0.01))
    spin_until(lambda: len(robot.targets) > end, WAIT, "motion after the reset")  # (EXECUTING is too short to wait for)


@pytest.mark.parametrize("offered", ["best effort", "latched before the bridge was there"])
def test_an_emergency_stop_is_received_with_any_qos(start_node, robot, ros_node, spin_until, offered):
    button = ros_node.create_publisher(Bool, "e_stop", LATCHED if "latched" in offered else BEST_EFFORT)
    if "latched" in offered:
        button.publish(Bool(data=True))
    start_node("bridge_node", "--ros-args", "-p", "autostart:=true", "-p", "enabled:=true", "-p", "watchdog.state:=5.0")
    if "latched" not in offered:
        spin_until(lambda: robot.is_in(SafetyState.READY), 120.0, "READY")
        # Repeated: best effort is lost while the bridge does not know the button yet.
        ros_node.create_timer(0.1, lambda: button.publish(Bool(data=True)))
    spin_until(lambda: robot.is_in(SafetyState.ESTOP), 120.0, "ESTOP")
    assert robot.states[-1].reason == "emergency stop pressed"


def test_incompatible_endpoints_are_reported_once(start_node, ros_node, wait_for):
    """And no other: e_stop has a subscription for each kind of publisher, of which one matches."""
    made = [
        ros_node.create_publisher(Bool, "e_stop", BEST_EFFORT),
        ros_node.create_publisher(Bool, "e_stop", LATCHED),
        ros_node.create_publisher(String, "policy/stop", BEST_EFFORT),
        ros_node.create_publisher(String, "robot/ee_pose", STREAM),
        ros_node.create_subscription(PoseStamped, "robot/target_pose", lambda _: None, LATCHED),
    ]
    node = start_node("bridge_node", "--ros-args", "-p", "autostart:=true")
    for said in (
        "messages of '/test_node' on /policy/stop are lost: best effort publisher and reliable subscription",
        "messages of '/test_node' on /robot/ee_pose are lost: it is std_msgs/msg/String there, geometry_msgs",
        "messages to '/test_node' on /robot/target_pose are lost: volatile publisher and transient local subscription",
    ):
        wait_for(lambda said=said: said in node.output, WAIT, said)
    made.append(ros_node.create_publisher(String, "policy/stop", STATE))  # this one matches
    made.append(ros_node.create_publisher(Bool, "policy/action_chunk", STATE))  # this one does not
    wait_for(lambda: "/policy/action_chunk are lost" in node.output, WAIT, "an endpoint that appears later")
    assert "e_stop" not in node.output and node.output.count("/robot/ee_pose") == 1


def test_the_e_stop_service_does_not_release_the_button(bridge, robot, spin_until, call):
    bridge()
    robot.e_stop.publish(Bool(data=True))  # once, on change; it stays pressed
    spin_until(lambda: robot.is_in(SafetyState.ESTOP), WAIT, "ESTOP")
    assert call(Trigger, "bridge_node/e_stop").success
    answer = call(ResetEStop, "bridge_node/reset_e_stop", operator_name="Ada")
    assert not answer.success and "still pressed" in answer.message


def set_parameter(call, name, value):
    """The bridge's answer."""
    kind = ParameterType.PARAMETER_BOOL if isinstance(value, bool) else ParameterType.PARAMETER_DOUBLE
    field = {"bool_value": value} if isinstance(value, bool) else {"double_value": value}
    wish = Parameter(name=name, value=ParameterValue(type=kind, **field))
    return call(SetParameters, "bridge_node/set_parameters", parameters=[wish]).results[0]


def test_a_limit_cannot_change_while_configured(bridge, robot, call):
    bridge(scale=1.0)
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
        refused = set_parameter(call, "scale", 0.2)
        assert not refused.successful and "clean it up first" in refused.reason
        assert call(ChangeState, "bridge_node/change_state", transition=Transition(id=transition)).success
    assert set_parameter(call, "scale", 0.2).successful


def test_a_bridge_survives_a_failed_configure(start_node, call, wait_for):
    if robot_interfaces.installed():
        pytest.skip("the robots' interfaces are installed here")
    process = start_node("bridge_node", "--ros-args", "-p", "robot:=franka")
    configure = Transition(id=Transition.TRANSITION_CONFIGURE)
    for _ in range(2):
        assert not call(ChangeState, "bridge_node/change_state", transition=configure).success
        assert set_parameter(call, "enabled", True).successful
    assert process.running, process.output
    assert process.output.count("franka_msgs does not import") == 2 and "Traceback" not in process.output


def test_a_stalled_robot_resumes_from_where_it_is(bridge, robot, spin_until, settle):
    bridge(limit__speed=0.05, watchdog__state=0.5)
    robot.send(row(x=0.05))
    spin_until(lambda: len(robot.targets) > 5, WAIT, "motion")
    robot.stalled = True
    spin_until(lambda: robot.is_in(SafetyState.HOLD), WAIT, "HOLD")
    assert robot.states[-1].reason.startswith("no fresh robot state")
    spin_until(lambda: not robot.states[-1].stopping, WAIT, "the end of braking")
    settle()
    robot.targets.clear()
    robot.pose = Pose.of((0.45, 0.1, 0.25), START.quaternion)  # moved by hand meanwhile
    robot.stalled = False
    spin_until(lambda: robot.is_in(SafetyState.READY), WAIT, "READY")
    assert robot.targets == []
    robot.send(row(x=0.01))
    spin_until(lambda: robot.targets, WAIT, "motion")
    assert math.dist(robot.targets[0][1].position, (0.45, 0.1, 0.25)) < 0.005


def test_nothing_moves_unless_enabled(start_node, robot, spin_until, call, meet):
    arguments = ["autostart:=true", "limit.speed:=0.05", "watchdog.state:=5.0"]
    start_node("bridge_node", "--ros-args", *[x for a in arguments for x in ("-p", a)])
    spin_until(lambda: robot.is_in(SafetyState.HOLD) and robot.states[-1].reason == "not enabled", 120.0, "HOLD")
    meet("bridge_node")
    robot.send(row(x=0.05))
    spin_until(lambda: robot.states[-1].refused_count == 1, WAIT, "a refusal")
    assert robot.targets == []
    assert call(SetBool, "bridge_node/enable", data=True).success
    spin_until(lambda: robot.is_in(SafetyState.READY), WAIT, "READY")
    robot.send(row(x=0.05))
    spin_until(lambda: len(robot.targets) > 3, WAIT, "motion")
    call(SetBool, "bridge_node/enable", data=False)
    spin_until(lambda: robot.is_in(SafetyState.HOLD), WAIT, "HOLD")
    assert robot.states[-1].reason == "not enabled"


def test_streaming_holds_without_new_chunks(bridge, robot, spin_until):
    bridge(control_mode="streaming", watchdog__action=0.4)
    for _ in range(3):
        count, said = len(robot.targets), len(robot.states)
        robot.send(row(x=0.01), row(x=0.01))
        spin_until(lambda n=count: len(robot.targets) > n + 5, WAIT, "motion")
        spin_until(lambda n=said: SafetyState.EXECUTING in [s.state for s in robot.states[n:]], WAIT, "EXECUTING")
    spin_until(lambda: robot.is_in(SafetyState.HOLD), WAIT, "HOLD")
    assert robot.states[-1].reason.startswith("no fresh action")
    count = len(robot.targets)
    robot.send(row(x=0.01))
    spin_until(lambda: len(robot.targets) > count, WAIT, "motion with the next chunk")


def test_another_source_is_refused_until_switched_to(bridge, robot, spin_until, call):
    bridge(sources='["policy", "teleop"]', source="policy")
    robot.send(row(), source="teleop")
    spin_until(lambda: robot.states[-1].refused_count == 1, WAIT, "a refusal")
    assert list(robot.states[-1].refused) == ["source"] and robot.states[-1].source == "policy"
    wrong = call(SwitchSource, "bridge_node/switch_source", source="expert")
    assert not wrong.success and "allowed: policy, teleop" in wrong.message
    assert call(SwitchSource, "bridge_node/switch_source", source="teleop").success
    spin_until(lambda: robot.is_in(SafetyState.READY) and robot.states[-1].source == "teleop", WAIT, "READY for teleop")
    assert robot.targets == []
    robot.send(row(x=0.01), source="teleop")
    spin_until(lambda: robot.targets, WAIT, "motion")


def test_a_joysticks_button_must_be_held(start_node, robot, spin_until, ros_node):
    arguments = ["autostart:=true", "enabled:=true", "enable.mode:=joystick", "enable.topic:=joy", "enable.button:=1"]
    arguments += ["watchdog.state:=5.0"]
    start_node("bridge_node", "--ros-args", *[x for a in arguments for x in ("-p", a)])
    joystick = ros_node.create_publisher(Joy, "joy", STATE)
    spin_until(lambda: robot.is_in(SafetyState.HOLD), 120.0, "HOLD")
    held = ros_node.create_timer(0.1, lambda: joystick.publish(Joy(buttons=[0, 1])))
    spin_until(lambda: robot.is_in(SafetyState.READY), WAIT, "READY")
    robot.send(row(x=0.1))
    spin_until(lambda: len(robot.targets) > 3, WAIT, "motion")
    held.cancel()
    spin_until(lambda: robot.is_in(SafetyState.HOLD), WAIT, "HOLD")
    assert robot.states[-1].reason.startswith("no message of the joystick's button")


def test_deltas_along_a_cameras_axes(bridge, robot, spin_until, settle):
    # A camera that looks along the base's x: its z is forward, its x to the right.
    bridge(camera_frame="camera_optical_frame", camera__quaternion="[-0.5, 0.5, -0.5, 0.5]")
    robot.send(row(z=0.02), frame="camera_optical_frame")
    spin_until(lambda: robot.states[-1].executed_sequence == 1 and robot.is_in(SafetyState.READY), WAIT, "the end")
    arrives(robot, spin_until, settle, (0.52, 0.0, 0.2))


@pytest.mark.slow  # builds the interfaces where they are not built yet
def test_deltas_along_camera_axes_from_tf_static(bridge, robot, start_process, spin_until, settle):
    environment = robot_interfaces.environment()
    # The base stands on the world turned by 90 degrees; the camera, calibrated in the world, looks along the base's x.
    half = math.sqrt(0.5)
    base, camera = f"world panda_link0 0 0 {half} {half}", f"world camera_optical_frame {-half} 0 0 {half}"
    start_process("python", STATICS, base, camera, **environment)
    asked = {"camera_frame": "camera_optical_frame", "camera__transform": "tf_static", "call_timeout": 60.0}
    bridge(environment=environment, **asked)
    robot.send(row(z=0.02), frame="camera_optical_frame")
    spin_until(lambda: robot.states[-1].executed_sequence == 1 and robot.is_in(SafetyState.READY), WAIT, "the end")
    arrives(robot, spin_until, settle, (0.52, 0.0, 0.2))


@pytest.mark.slow
def test_a_camera_unknown_to_tf_static_is_refused(start_node, start_process, wait_for):
    environment = robot_interfaces.environment()
    start_process("python", STATICS, "tool camera 0 0 0 1", **environment)
    asked = ["autostart:=true", "camera_frame:=camera", "camera.transform:=tf_static", "call_timeout:=10.0"]
    process = start_node("bridge_node", "--ros-args", *[x for pair in asked for x in ("-p", pair)], **environment)
    wait_for(lambda: not process.running, 60.0, "the node to give up")
    assert process.popen.returncode == 1
    said = "/tf_static does not connect camera_frame 'camera' with panda_link0 or panda_hand_tcp (received in 10 s: "
    assert f"{said}camera in tool)" in process.output


def test_a_stop_that_takes_too_long_is_refused_at_configure(start_node, ros_node, wait_for):
    process = start_node("bridge_node", "--ros-args", "-p", "autostart:=true", "-p", "stop.time:=0.05")
    wait_for(lambda: not process.running, 60.0, "the node to give up")
    assert process.popen.returncode == 1 and "stop.time is 0.05 s, but" in process.output


def test_deltas_along_the_end_effectors_axes(bridge, robot, spin_until, settle):
    bridge()
    robot.send(row(z=0.02), frame="panda_hand_tcp")  # the gripper points down: its z is the base's -z
    spin_until(lambda: robot.states[-1].executed_sequence == 1 and robot.is_in(SafetyState.READY), WAIT, "the end")
    arrives(robot, spin_until, settle, (0.5, 0.0, 0.18))


@pytest.mark.parametrize("first", [True, False])
def test_gripper_first_closes_before_the_arm_moves(bridge, robot, spin_until, settle, first):
    bridge(gripper__first=str(first).lower(), arrival__gripper_delay=4.0, arrival__time_limit=10.0)
    robot.stuck = True
    robot.send(row(z=0.05, gripper=0.0))
    spin_until(lambda: robot.openings == [0.0], WAIT, "the gripper command")
    settle(1.0)
    assert (robot.pose.position[2] > START.position[2] + 0.01) is not first, "with the gripper still open"
    robot.opening = 0.0
    spin_until(lambda: abs(robot.pose.position[2] - 0.25) < 1e-6, WAIT, "the arm to rise")
    spin_until(lambda: robot.states[-1].executed_sequence == 1 and robot.is_in(SafetyState.READY), WAIT, "the end")
    assert robot.openings == [0.0]
