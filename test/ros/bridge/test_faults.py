"""Faults between real processes: the arm's target comes to rest within the limits each time.

Simulator, camera driver, arm driver, policy, bridge and a witness of the targets are processes of their own; the policy
is the real one, on a small random checkpoint. A fault is a signal to one of them, or a pulled cable. Measured is the
time from the fault to the last target; each test prints what it measured.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cable
import pytest
from openvla_msgs.msg import SafetyState
from openvla_msgs.srv import ResetEStop
from std_msgs.msg import Bool
from witness import Seen

from openvla_ros.bringup.process_table import node_module
from openvla_ros.nodes.common.qos import STATE

pytestmark = pytest.mark.ros
ACTION, OBSERVATION, STATE_AGE, STILL, STOP = 1.0, 1.5, 0.5, 1.0, 0.15  # [s] the limits of these tests
PERIOD = 0.2  # [s] of the policy's predictions
SLACK = 0.5  # [s] that a busy machine may add: transport, scheduling
BRIDGE = {
    "autostart": True, "enabled": True, "sources": '["policy"]', "source": "policy",
    "watchdog.action": ACTION, "watchdog.observation": OBSERVATION, "watchdog.state": STATE_AGE, "watchdog.future": 0.2,
    "stop.time": STOP, "stop.factor": 4.0, "limit.acceleration": 10.0, "limit.jerk": 600.0,
    "limit.turn_acceleration": 40.0, "limit.turn_jerk": 2000.0,
    "scale": 0.1,  # a random policy keeps moving in one direction: slowly, to stay within the limits
}  # fmt: skip
POLICY = {
    "autostart": True, "instruction": "lift the red cube", "rate": 1.0 / PERIOD, "period": PERIOD, "threads": 1,
    "image.timeout": 60.0, "image.max_still": STILL, "image.max_age": 2 * OBSERVATION, "server.retry": PERIOD,
}  # fmt: skip


class Stack:
    """Simulator on the wall's clock, bridge, policy, and a witness beside the bridge."""

    def __init__(self, start: Callable[..., Any], wait_for: Callable[..., Any], root: Path, tmp: Path) -> None:
        """start: `start_process` of test/conftest.py."""
        self._start, self._wait_for, self._helpers = start, wait_for, root / "test" / "helpers"
        self._witness_file = tmp / "witness.jsonl"
        self._seen = Seen(self._witness_file)
        self._prefix: Mapping[str, Sequence[str]] = {}
        self._environment: Mapping[str, str] = {}
        self.times: list[str] = []

    def over(self, made: cable.Cable) -> None:
        """Run the bridge on one computer, and the rest on the other."""
        self._prefix = {end: made.at(end) for end in (cable.ROBOT, cable.REST)}
        self._environment = cable.ENVIRONMENT

    def node(self, name: str, end: str, parameters: Mapping[str, object], *remappings: str) -> Any:
        given = {key: str(v).lower() if isinstance(v, bool) else v for key, v in parameters.items()}
        words = [x for key, v in given.items() for x in ("-p", f"{key}:={v}")]
        words += [x for remapping in remappings for x in ("-r", remapping)]
        return self._run(end, "-m", node_module(name), "--ros-args", *words)

    def helper(self, name: str, end: str, *arguments: str) -> Any:
        return self._run(end, str(self._helpers / f"{name}.py"), *arguments)

    def witness(self) -> None:
        self.helper("witness", cable.ROBOT, str(self._witness_file))

    def _run(self, end: str, *words: str) -> Any:
        command, *arguments = [*self._prefix.get(end, ()), "python", *words]
        return self._start(command, *arguments, **self._environment)

    # ---- what the witness saw --------------------------------------------------------------------

    def wait(self, condition: Callable[[Seen], Any], timeout: float, what: str) -> None:
        def look() -> Any:
            self._seen.update()
            return condition(self._seen)

        try:
            self._wait_for(look, timeout, what)
        except pytest.fail.Exception as failed:
            pytest.fail(f"{failed}; the gate last said {self._seen.gate[-1:]}, the policy {self._seen.policy[-1:]}")

    def moving(self) -> None:
        """Wait until the arm moves, and the witness receives all its topics."""
        since = time.monotonic()
        self.wait(
            lambda seen: seen.gate and seen.policy and sum(at > since for at in seen.targets) > 25, 90.0, "motion"
        )

    def stands(self, name: str, fault: float, limit: float, reason: str, state: int = SafetyState.HOLD) -> None:
        """The gate stops for `reason`, and the last target came within `limit` and the stop time of the fault."""

        def named(said: Mapping[str, Any]) -> bool:
            return said["at"] > fault and said["state"] == state and said["reason"].startswith(reason)

        self.wait(lambda seen: named(seen.gate[-1]), limit + 10.0, f"'{reason}' after {name}")
        held, said = time.monotonic(), next(filter(named, self._seen.gate))["at"]
        self.wait(lambda _: time.monotonic() > held + STOP + SLACK, 5.0, "the stop")
        count = len(self._seen.targets)
        self.wait(lambda _: time.monotonic() > held + STOP + SLACK + 0.4, 5.0, "later targets")
        assert len(self._seen.targets) == count, f"{name}: targets are still sent"
        took = self._seen.targets[-1] - fault
        self.times.append(
            f"{name}: last target {took:.2f} s after it, the gate's word {said - fault:.2f} s; "
            f"limit {limit:g} s + {STOP:g} s to stop"
        )
        assert took <= limit + STOP + SLACK, self.times[-1]

    def policy_said(self, reason: str, since: float) -> bool:
        return any(said["reason"].startswith(reason) for said in self._seen.policy if said["at"] > since)


@pytest.fixture
def stack(
    start_process: Any, wait_for: Any, root: Path, tmp_path: Path, ros_domain: int, capsys: pytest.CaptureFixture[str]
) -> Iterator[Stack]:
    made = Stack(start_process, wait_for, root, tmp_path)
    yield made
    with capsys.disabled():
        print("", *made.times, sep="\n  ")


def signalled(number: int, *processes: Any) -> float:
    """Send a signal; when that was done [s, monotonic]."""
    for process in processes:
        os.kill(process.popen.pid, number)
    return time.monotonic()


def test_each_fault_stops_the_arm_until_it_is_over(
    stack: Stack, tiny_checkpoint: Path, ros_node: Any, wait_for: Any, call: Any, meet: Any
) -> None:
    sim = stack.node("sim_node", cable.REST, {"publish_clock": False, "autostart": True, "camera.rate": 10.0})
    camera = stack.helper("relay", cable.REST, "sensor_msgs/msg/Image", "camera/image_raw", "driver/image_raw")
    arm = stack.helper("relay", cable.REST, "geometry_msgs/msg/PoseStamped", "robot/ee_pose", "driver/ee_pose")
    chunks = stack.helper("relay", cable.REST, "openvla_msgs/msg/ActionChunk", "policy/action_chunk", "relayed/chunk")
    stack.node(
        "bridge_node", cable.ROBOT, BRIDGE | {"control_mode": "streaming"},
        "robot/ee_pose:=driver/ee_pose", "policy/action_chunk:=relayed/chunk",
    )  # fmt: skip
    remapped = {"checkpoint": tiny_checkpoint, "image.topic": "driver/image_raw"}
    policy = stack.node("policy_node", cable.REST, POLICY | remapped)
    stack.witness()
    e_stop = ros_node.create_publisher(Bool, "e_stop", STATE)
    stack.moving()

    wait_for(e_stop.get_subscription_count, 20.0, "the bridge to subscribe to e_stop")
    meet("bridge_node")
    fault = time.monotonic()
    e_stop.publish(Bool(data=True))
    stack.stands("emergency stop", fault, 0.0, "emergency stop", SafetyState.ESTOP)
    e_stop.publish(Bool(data=False))
    stack.wait(lambda seen: "waiting for a reset" in seen.gate[-1]["reason"], 10.0, "the release")
    assert call(ResetEStop, "bridge_node/reset_e_stop", operator_name="test").success
    stack.moving()

    fault = signalled(signal.SIGUSR1, camera)
    stack.stands("camera repeats its last image", fault, ACTION, "no fresh action")
    assert stack.policy_said("no new image on /driver/image_raw", fault)
    signalled(signal.SIGHUP, camera)
    stack.moving()
    # Only the image itself shows that it is old.
    fault = signalled(signal.SIGUSR2, camera)
    stack.stands("camera stamps its last image again", fault, STILL + PERIOD + ACTION, "no fresh action")
    assert stack.policy_said("prediction failed: the camera is frozen", fault)
    signalled(signal.SIGHUP, camera)
    stack.moving()
    stack.stands("camera is silent", signalled(signal.SIGSTOP, camera), ACTION, "no fresh action")
    signalled(signal.SIGCONT, camera)
    stack.moving()
    # A policy that keeps answering an old observation.
    stack.stands("policy repeats itself", signalled(signal.SIGUSR1, chunks), OBSERVATION, "no fresh observation")
    signalled(signal.SIGHUP, chunks)
    stack.moving()

    fault = signalled(signal.SIGUSR1, arm)
    stack.stands("robot state repeats its last pose", fault, STATE_AGE, "no fresh robot state")
    signalled(signal.SIGHUP, arm)
    stack.moving()
    # All other processes are suspended, and resume with their queued messages.
    fault = signalled(signal.SIGSTOP, policy, camera, arm, sim)
    stack.stands("all other processes are suspended", fault, min(STATE_AGE, ACTION), "no fresh robot state")
    signalled(signal.SIGCONT, sim, arm, camera, policy)
    stack.moving()

    stack.stands("policy's process killed", signalled(signal.SIGKILL, policy), ACTION, "no fresh action")


@pytest.mark.skipif(not cable.allowed(), reason="needs the right to make network namespaces (root)")
def test_a_pulled_network_cable_stops_the_arm(stack: Stack, tiny_checkpoint: Path) -> None:
    laid = cable.Cable.lay()
    try:
        stack.over(laid)
        stack.node("sim_node", cable.REST, {"publish_clock": False, "autostart": True, "camera.rate": 10.0})
        stack.node("bridge_node", cable.ROBOT, BRIDGE)
        policy = stack.node("policy_node", cable.REST, POLICY | {"image.max_still": 0.0, "checkpoint": tiny_checkpoint})
        stack.witness()
        stack.moving()
        fault = time.monotonic()
        laid.pull()
        stack.stands("network cable pulled", fault, STATE_AGE, "no fresh robot state")
        laid.plug()
        stack.moving()
        # The present action is executed to its end, and no other follows.
        fault = signalled(signal.SIGKILL, policy)
        stack.stands("policy's process killed", fault, PERIOD, "holding: no action", SafetyState.READY)
    finally:
        laid.remove()
