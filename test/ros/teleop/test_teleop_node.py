"""The real teleop_node drives the real simulator and bridge: by Joy messages, and by keys typed into a terminal."""

from __future__ import annotations

import math
import re
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from gamepad import LB, RB, Pad, Y
from geometry_msgs.msg import PoseStamped, Twist
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from openvla_msgs.msg import ActionChunk, SafetyState
from sensor_msgs.msg import CameraInfo, JointState, Joy
from std_msgs.msg import Bool
from terminal import Terminal

from openvla_ros.bringup.process_table import TELEOP as NODE, ProcessSpec, argv, node_module, teleoperation
from openvla_ros.nodes.common.qos import LATCHED, SENSOR, STATE

pytestmark = pytest.mark.ros
SMALL = {"sim_node": {"camera.width": 64, "camera.height": 64}}
BACK = 6
FORWARD, UP, RIGHT = {1: 1.0}, {4: 1.0}, {0: -1.0}
PATIENT = {"device_timeout": 1.5}  # [s] the device is this process: one that is held up for a moment is not silent
RELEASED = "the deadman is not held"  # the node has all it needs, and received that nothing is held


class Told:
    """What teleop_node says of itself on /diagnostics, once a second."""

    def __init__(self, listen: Any, spin_until: Any) -> None:
        self._said = listen(DiagnosticArray, "/diagnostics", STATE)
        self._spin_until = spin_until

    def says(self, words: str, timeout: float = 60.0) -> None:
        """Wait until it says `words`, from now on."""
        self._said.clear()

        def reported() -> bool:
            return any(words in s.message for m in self._said for s in m.status if s.name == f"/{NODE}")

        self._spin_until(reported, timeout, f"{NODE} to report {words!r}")

    def spin(self, seconds: float) -> None:
        """Give what must not happen the time to happen."""
        end = time.monotonic() + seconds
        self._spin_until(lambda: time.monotonic() > end, seconds + 5.0)


class Bench(Told):
    """Messages of the stack, newest last, and ways to wait for them."""

    def __init__(self, listen: Any, spin_until: Any) -> None:
        super().__init__(listen, spin_until)
        self.poses = listen(PoseStamped, "robot/ee_pose", SENSOR)
        self.grippers = listen(JointState, "gripper/state", SENSOR)
        self.chunks = listen(ActionChunk, "policy/action_chunk", STATE)
        self.safety = listen(SafetyState, "safety/state", LATCHED)

    def until(self, condition: Callable[[], Any], timeout: float, what: str) -> None:
        self._spin_until(condition, timeout, what)

    def position(self) -> np.ndarray:
        p = self.poses[-1].pose.position
        return np.array([p.x, p.y, p.z])

    def ready(self) -> None:
        self.until(lambda: self.safety and self.safety[-1].state == SafetyState.READY, 60.0, "the bridge to be READY")
        self.until(lambda: self.poses and self.grippers, 30.0, "the robot's state")

    def stays(self, seconds: float = 1.5) -> None:
        """Wait until the gate holds and the arm stands; from then on no action comes and the arm does not move."""
        self.until(lambda: self.safety[-1].state == SafetyState.HOLD and not self.safety[-1].stopping, 20.0, "HOLD")
        assert "no fresh action" in self.safety[-1].reason
        self.until(lambda: np.ptp(self._newest(10), axis=0).max() < 0.0005, 20.0, "the arm to stand")
        count, rest = len(self.chunks), self.position()
        self.spin(seconds)
        assert len(self.chunks) == count and np.linalg.norm(self.position() - rest) < 0.004

    def _newest(self, number: int) -> np.ndarray:
        return np.array([(m.pose.position.x, m.pose.position.y, m.pose.position.z) for m in self.poses[-number:]])


@pytest.fixture
def start(start_process: Any, ros_domain: int) -> Callable[..., dict[str, Any]]:
    """Give `start(device, teleop={…}, overrides={…})`: simulator, bridge and teleop_node, without the recorder."""

    def start(device: str, **options: Any) -> dict[str, Any]:
        overrides = {**SMALL, **options.pop("overrides", {})}
        teleop = {**PATIENT, **options.pop("teleop", {})}
        specs = teleoperation(device, overrides=overrides, teleop=teleop, **options)
        specs = [s for s in specs if s.name != "recorder_node"]
        names = [s.name for s in specs[:-1]]
        specs[-1].parameters["managed_nodes"] = names  # type: ignore[index]
        return {s.name: start_process(f"module:{node_module(s.executable)}", *argv(s)[3:]) for s in specs}

    return start


@pytest.fixture
def bench(listen: Any, spin_until: Any) -> Bench:
    return Bench(listen, spin_until)


def test_the_arm_follows_the_sticks_and_stops_when_released(start, bench, listen, ros_node) -> None:
    pad, stops = Pad(ros_node), listen(Bool, "e_stop", STATE)
    processes = start("gamepad", teleop={"instruction": "lift the red cube"})
    bench.ready()
    bench.says(RELEASED)

    pad.hold(axes=FORWARD)  # the stick alone moves nothing
    bench.spin(1.0)
    assert not bench.chunks

    pad.hold(LB)
    bench.until(lambda: len(bench.chunks) >= 3, 20.0, "actions of zeros: deadman held, sticks centred")
    assert all(not _delta(c)[:6].any() for c in bench.chunks)
    begin = bench.position()
    pad.hold(LB, axes=FORWARD)
    bench.until(lambda: bench.position()[0] > begin[0] + 0.05, 20.0, "the arm to move forward")
    moved = bench.position() - begin
    assert abs(moved[1]) < 0.01 and abs(moved[2]) < 0.01
    chunk = bench.chunks[-1]
    assert (chunk.source, chunk.instruction, chunk.header.frame_id) == ("teleop", "lift the red cube", "panda_link0")
    assert chunk.observation_stamp != type(chunk.observation_stamp)() and math.isclose(chunk.period, 0.1)
    np.testing.assert_allclose(_delta(chunk), [0.01, 0, 0, 0, 0, 0, 1.0], atol=1e-9)

    pad.hold(axes=FORWARD)  # the deadman is let go, the stick is not
    bench.says(RELEASED)
    bench.stays()

    begin = bench.position()
    pad.hold(LB, axes=UP)
    bench.until(lambda: bench.position()[2] > begin[2] + 0.02, 20.0, "the arm to rise")
    pad.speaking = False  # the receiver falls out; the last message had the deadman held
    bench.says("the device is silent")
    bench.stays()
    count = len(bench.chunks)
    pad.speaking = True
    bench.says("release the deadman once")  # it comes back with the deadman held: not enough
    assert len(bench.chunks) == count
    pad.hold()
    bench.says(RELEASED)

    pad.hold(LB)
    bench.until(lambda: len(bench.chunks) > count, 20.0, "the deadman to be felt")
    pad.hold(LB, RB)
    bench.until(lambda: bench.grippers[-1].position[0] < 0.3, 20.0, "the gripper to close")
    assert _delta(bench.chunks[-1])[6] == 0.0
    pad.hold(BACK)
    bench.until(lambda: bench.safety[-1].state == SafetyState.ESTOP, 20.0, "the emergency stop")
    bench.until(lambda: stops and all(m.data for m in stops), 20.0, "the button's message")
    assert processes["teleop_node"].running


def test_blocking_control_gets_one_action_for_each_ready(start, bench, ros_node, meet) -> None:
    pad = Pad(ros_node)
    bridge = {"control_mode": "blocking", "watchdog.action": 3.0}
    start("gamepad", overrides={"bridge_node": bridge})
    bench.ready()
    bench.says(RELEASED)
    meet(NODE)  # or the first actions, which are counted, may be lost
    pad.hold(LB)
    bench.until(lambda: bench.chunks, 20.0, "an action of zeros")
    begin = bench.position()
    pad.hold(LB, axes=RIGHT)
    bench.until(lambda: bench.position()[1] < begin[1] - 0.03, 40.0, "the arm to move right")
    pad.hold()
    bench.says(RELEASED)
    last = bench.chunks[-1].sequence
    bench.until(lambda: bench.safety[-1].executed_sequence == last, 20.0, "the last action's end")
    assert last == bench.chunks[-1].sequence == len(bench.chunks) - 1
    assert not any(s.refused for s in bench.safety)
    assert len({(c.observation_stamp.sec, c.observation_stamp.nanosec) for c in bench.chunks}) == len(bench.chunks)


def test_keys_of_a_terminal_move_the_arm(start, bench, ros_domain, tmp_path: Path) -> None:
    start("none")
    bench.ready()
    spec = next(s for s in teleoperation("keyboard", teleop={"autostart": True}) if s.name == NODE)
    terminal = Terminal("exec " + shlex.join([sys.executable, *argv(spec)[1:]]), tmp_path, (40, 110))
    try:
        bench.until(lambda: "no key is held" in terminal.output, 60.0, "the dashboard")
        assert "EMERGENCY STOP" in terminal.output and "open or close gripper" in terminal.output
        begin, due = bench.position(), time.monotonic()

        def holding(key: str, condition: Callable[[], Any]) -> Callable[[], bool]:
            def typed() -> bool:
                nonlocal due
                if time.monotonic() >= due:
                    terminal.type(key)  # as a held key repeats
                    due = time.monotonic() + 0.05
                return bool(condition())

            return typed

        bench.until(holding("r", lambda: bench.position()[2] > begin[2] + 0.04), 30.0, "the arm to rise")
        assert re.search(r"moving.*z \+10 mm", terminal.output)
        bench.stays(1.0)
        # (Held, too: a simulator that is slow has no period for an action in the time that one press counts for.)
        bench.until(holding(" ", lambda: bench.grippers[-1].position[0] < 0.3), 20.0, "the gripper to close")
        terminal.type("\r")
        bench.until(lambda: "no recorder on" in terminal.output, 20.0, "the answer to starting an episode")
        assert terminal.interrupt(30.0) == 0
    finally:
        print(terminal.tail())
        terminal.close()


def test_guiding_publishes_nothing_and_needs_no_device(start_process, ros_node, spin_until, ros_domain) -> None:
    spec = next(s for s in teleoperation("guide", teleop={"autostart": True, "use_sim_time": False}) if s.name == NODE)
    process = start_process(f"module:{node_module(spec.executable)}", *argv(spec)[3:])
    pad = Pad(ros_node)
    spin_until(lambda: ros_node.count_subscribers("joy"), 60.0, "teleop_node")
    assert ros_node.count_publishers("policy/action_chunk") == 0

    def answered() -> bool:
        pad.hold(
            *((Y,) if int(2 * time.monotonic()) % 2 else ())
        )  # pressed again until the node is active and receives it
        return "no recorder on" in process.output

    spin_until(answered, 30.0, "the answer to Y")


def _delta(chunk: ActionChunk) -> np.ndarray:
    (a,) = chunk.actions
    return np.array([a.translation.x, a.translation.y, a.translation.z, a.rotation.x, a.rotation.y, a.rotation.z,
                     a.gripper])  # fmt: skip


class Stage(Told):
    """The topics of a robot and a bridge, without either: enough for teleop_node to speak."""

    def __init__(self, node: Any, listen: Any, spin_until: Any) -> None:
        super().__init__(listen, spin_until)
        self.node = node
        self.chunks = listen(ActionChunk, "policy/action_chunk", STATE)
        publisher = node.create_publisher
        self._safety = publisher(SafetyState, "safety/state", LATCHED)
        self.safety = SafetyState(state=SafetyState.READY, control_mode="streaming")
        self._info = publisher(CameraInfo, "camera/camera_info", 10)
        self._grip, self._pose = publisher(JointState, "gripper/state", 10), publisher(PoseStamped, "robot/ee_pose", 10)
        self.leader, self._twist = publisher(PoseStamped, "leader/pose", 10), publisher(Twist, "spacenav/twist", 10)
        self._joy = publisher(Joy, "joy", 10)
        self.leader_pose, self.twist = PoseStamped(), Twist()
        self.leader_pose.pose.orientation.w = 1.0
        self.held = self.stop = False
        self.moving = True  # the device that says motions speaks; the buttons always do
        node.create_timer(0.04, self._repeat)

    def _repeat(self) -> None:
        now = self.node.get_clock().now().to_msg()
        self._safety.publish(self.safety)
        info, pose = CameraInfo(), PoseStamped()
        info.header.stamp = pose.header.stamp = now
        pose.pose.orientation.x, pose.pose.orientation.w = 1.0, 0.0  # the gripper points down: turned by 180° about x
        self._info.publish(info)
        self._grip.publish(JointState(name=["gripper"], position=[0.0]))
        self._pose.publish(pose)
        if self.moving:
            self.leader.publish(self.leader_pose)
            self._twist.publish(self.twist)
        self._joy.publish(Joy(axes=[], buttons=[int(self.held), int(self.stop)]))


@pytest.fixture
def stage(start_process: Any, ros_node: Any, listen: Any, spin_until: Any, ros_domain: int) -> Callable[..., Stage]:
    def start(**parameters: object) -> Stage:
        given = {"autostart": True, "observation.topic": "camera/camera_info", "observation.transport": "info",
                 **PATIENT, "joy.deadman": 0, "joy.dead_zone": 0.0, "joy.curve": 1.0, **parameters}  # fmt: skip
        start_process(f"module:{node_module(NODE)}", *argv(ProcessSpec(NODE, NODE, (), given))[3:])
        made = Stage(ros_node, listen, spin_until)
        made.says(RELEASED)
        return made

    return start


def test_a_leaders_motion_under_the_clutch_adds_up(stage, spin_until) -> None:
    bench = stage(device="leader", **{"speed.linear": 0.4, "leader.scale": 0.5})
    bench.leader_pose.pose.position.x = 3.0  # no jump when the clutch engages
    bench.spin(0.3)
    assert not bench.chunks
    bench.held = True
    spin_until(lambda: len(bench.chunks) >= 3, 20.0, "actions")
    for _ in range(20):
        bench.leader_pose.pose.position.x += 0.005
        bench.leader_pose.pose.position.z -= 0.0025
        bench.spin(0.05)
    spin_until(lambda: sum(_delta(c)[0] for c in bench.chunks) > 0.05 - 1e-9, 20.0, "all of the motion")
    count = len(bench.chunks)
    spin_until(lambda: len(bench.chunks) > count + 2, 20.0, "actions after the motion")
    total = sum(_delta(c)[:6] for c in bench.chunks)
    np.testing.assert_allclose(total, [0.05, 0, -0.025, 0, 0, 0], atol=1e-6)
    assert all(_delta(c)[6] == 0.0 for c in bench.chunks)  # the gripper stays closed, as it was
    count = len(bench.chunks)
    bench.leader_pose.pose.position.x += 1.0  # lost tracking
    bench.says("release the deadman once")
    bench.spin(0.3)  # for those sent before
    count_before = len(bench.chunks)
    bench.spin(0.8)
    assert len(bench.chunks) == count_before and not any(_delta(c)[:6].any() for c in bench.chunks[count:])


def test_a_twist_moves_along_the_end_effectors_axes(stage, spin_until) -> None:
    bench = stage(device="twist", frame="end_effector", **{"speed.linear": 0.1})
    bench.twist.linear.z, bench.twist.angular.x, bench.twist.linear.y = 1.0, math.nan, 0.0
    bench.held = True
    bench.spin(0.5)
    assert not bench.chunks  # a reading that is no number is not followed, nor half of it
    bench.held, bench.twist.angular.x = False, 0.0
    bench.says(RELEASED)
    bench.held = True
    spin_until(lambda: len(bench.chunks) >= 3, 20.0, "actions")
    np.testing.assert_allclose(_delta(bench.chunks[-1])[:3], [0, 0, -0.01], atol=1e-9)  # the gripper's z points down


def test_a_lost_action_is_sent_again(stage, spin_until, ros_node) -> None:
    bench = stage(device="twist")
    bench.safety.ready_since = ros_node.get_clock().now().to_msg()
    bench.safety.control_mode = "blocking"
    bench.held = True
    spin_until(lambda: bench.chunks, 10.0, "an action")
    bench.spin(0.8)
    assert len(bench.chunks) == 1, "one for each READY"
    spin_until(lambda: len(bench.chunks) == 2, 10.0, "the action again: the first one was not executed")
    bench.safety.ready_since = ros_node.get_clock().now().to_msg()
    spin_until(lambda: len(bench.chunks) == 3, 1.5, "an action for the new READY, at once")


def test_the_emergency_stop_works_in_an_inactive_node(stage, spin_until, listen, call) -> None:
    bench = stage(device="leader", **{"joy.e_stop": 1})
    stops = listen(Bool, "e_stop", STATE)
    bench.moving = False
    bench.says("silent")
    assert not stops
    bench.stop = True
    spin_until(lambda: len(stops) >= 3, 20.0, "the stop, repeated while no bridge answers")
    bench.safety.state = SafetyState.ESTOP
    bench.spin(1.0)
    published = len(stops)
    bench.spin(1.0)
    assert len(stops) == published, "answered"
    bench.stop = False
    deactivate = Transition(id=Transition.TRANSITION_DEACTIVATE)
    assert call(ChangeState, "teleop_node/change_state", transition=deactivate).success
    bench.spin(0.5)  # the button is seen to be let go
    bench.stop = True
    spin_until(lambda: len(stops) > published, 20.0, "the stop of an inactive node")
    assert all(m.data for m in stops)
