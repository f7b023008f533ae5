"""What goes wrong between real processes, and that the arm's target stands still within the limits each time.

Simulator, bridge and a source of actions are processes of their own; a fault is a signal to one of them, or a switch of
the simulator. The test listens to the targets and to safety/state, and measures from the fault to the last target.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from openvla_msgs.msg import SafetyState
from openvla_msgs.srv import ResetEStop
from std_msgs.msg import Bool

from openvla_ros.nodes import messages
from openvla_ros.nodes.qos import COMMAND, LATCHED, STATE

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]
ACTION, OBSERVATION, STATE_AGE, STOP = 0.6, 1.2, 0.5, 0.15  # [s] the limits of these tests
SLACK = 0.5  # [s] what a busy machine may add: transport, scheduling, the test's own spinning
SOURCE = """
import signal, time
import rclpy
from openvla_msgs.msg import ActionChunk
from openvla_ros.nodes import messages
from openvla_ros.nodes.qos import STATE, STREAM

rclpy.init()
node = rclpy.create_node("source")
newest = [None]
chunks = node.create_publisher(ActionChunk, "policy/action_chunk", STATE)
count = 0
frozen = False

def freeze(*_):
    global frozen
    frozen = True

signal.signal(signal.SIGUSR1, freeze)

def see(message):
    if not frozen:
        newest[0] = message.header.stamp

node.create_subscription(messages.Image, "camera/image_raw", see, STREAM)

def send():
    global count
    if newest[0] is None:
        return
    count += 1
    way = 0.004 if (count // 40) % 2 else -0.004
    chunks.publish(messages.chunk_message(
        [(0.0, way, 0.0, 0.0, 0.0, 0.0, 1.0)], frame="panda_link0", at_ns=time.time_ns(), observation=newest[0],
        sequence=count, source="policy", instruction="swing", period=0.1))

node.create_timer(0.1, send)
rclpy.spin(node)
"""


class Stack:
    """Simulator on the wall's clock, bridge in streaming control, and a source that swings the arm to and fro."""

    def __init__(
        self, start_process: Any, start_node: Any, node: Any, spin_until: Callable[..., Any], tmp: Any
    ) -> None:
        self.spin_until, self.node = spin_until, node
        self.targets: list[float] = []
        self.states: list[SafetyState] = []
        node.create_subscription(messages.PoseStamped, "robot/target_pose", self._on_target, COMMAND)
        node.create_subscription(SafetyState, "safety/state", self.states.append, LATCHED)
        self.e_stop = node.create_publisher(Bool, "e_stop", STATE)
        program = tmp / "source.py"
        program.write_text(SOURCE)
        self.sim = start_node("sim_node", *arguments(publish_clock=False, autostart=True, **{"camera.rate": 5.0}))
        self.bridge = start_node("bridge_node", *arguments(
            autostart=True, enabled=True, control_mode="streaming", sources='["policy"]', source="policy",
            **{"watchdog.action": ACTION, "watchdog.observation": OBSERVATION, "watchdog.state": STATE_AGE,
               "watchdog.future": 0.2, "stop.time": STOP, "stop.factor": 4.0, "limit.acceleration": 10.0,
               "limit.jerk": 600.0, "limit.turn_acceleration": 40.0, "limit.turn_jerk": 2000.0},
        ))  # fmt: skip
        self.source = start_process("python", str(program))

    def _on_target(self, _: Any) -> None:
        self.targets.append(time.monotonic())

    def moving(self) -> None:
        """Wait until the arm is in full swing."""
        since = time.monotonic()
        self.spin_until(lambda: sum(t > since for t in self.targets) > 25, 60.0, f"motion; last: {self.states[-1:]}")

    def is_in(self, state: int) -> bool:
        return bool(self.states) and self.states[-1].state == state

    def stands(self, fault: float, limit: float, reason: str) -> None:
        """The gate holds for `reason`, and the last target came within `limit` and the stop time of the fault."""
        self.spin_until(lambda: self.is_in(SafetyState.HOLD), limit + 5.0, f"HOLD; last: {self.states[-1:]}")
        assert self.states[-1].reason.startswith(reason), self.states[-1].reason
        self.quiet()
        assert self.targets[-1] - fault <= limit + STOP + SLACK

    def quiet(self) -> None:
        """No target comes any more."""
        end = time.monotonic() + STOP + SLACK
        self.spin_until(lambda: time.monotonic() > end)
        count, end = len(self.targets), time.monotonic() + 0.4
        self.spin_until(lambda: time.monotonic() > end)
        assert len(self.targets) == count, "targets are still sent"


def arguments(**parameters: object) -> list[str]:
    given = {name: str(v).lower() if isinstance(v, bool) else v for name, v in parameters.items()}
    return ["--ros-args", *[x for name, v in given.items() for x in ("-p", f"{name}:={v}")]]


def signalled(process: Any, number: int) -> float:
    os.kill(process.popen.pid, number)
    return time.monotonic()


@pytest.fixture
def stack(start_process: Any, start_node: Any, ros_node: Any, spin_until: Any, tmp_path: Any) -> Stack:
    made = Stack(start_process, start_node, ros_node, spin_until, tmp_path)
    made.moving()
    return made


def test_faults_that_pass_one_after_the_other(stack: Stack, call: Any) -> None:
    """Each stops the arm within its limit, is named, and lets the arm go on once it is over."""
    # An emergency stop: at once, and latched.
    fault = time.monotonic()
    stack.e_stop.publish(Bool(data=True))
    stack.spin_until(lambda: stack.is_in(SafetyState.ESTOP), 5.0, "ESTOP")
    stack.quiet()
    assert stack.targets[-1] - fault <= STOP + SLACK
    stack.e_stop.publish(Bool(data=False))
    assert call(ResetEStop, "bridge_node/reset_e_stop", operator_name="test").success
    stack.moving()
    # The robot says nothing any more (nor does its camera).
    stack.stands(signalled(stack.sim, signal.SIGSTOP), STATE_AGE, "no fresh robot state")
    signalled(stack.sim, signal.SIGCONT)
    stack.moving()
    # The network is gone: nobody is heard, neither robot nor policy. (It comes back with what was sent meanwhile.)
    fault = signalled(stack.source, signal.SIGSTOP)
    signalled(stack.sim, signal.SIGSTOP)
    stack.stands(fault, min(STATE_AGE, ACTION), "no fresh robot state")
    signalled(stack.sim, signal.SIGCONT)
    signalled(stack.source, signal.SIGCONT)
    stack.moving()
    # The policy's process dies.
    stack.stands(signalled(stack.source, signal.SIGKILL), ACTION, "no fresh action")


def test_a_frozen_camera(stack: Stack) -> None:
    """The camera's driver hands out its last picture for ever, and the policy answers it: the image's stamp tells."""
    stack.stands(signalled(stack.source, signal.SIGUSR1), OBSERVATION + 0.2, "no fresh observation")
