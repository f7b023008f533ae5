"""The policy node as a real process: what stops configure, and the closed loop with simulator and bridge."""

from __future__ import annotations

import re
import signal
import time

import pytest
from action_msgs.msg import GoalStatus
from openvla_msgs.action import RunInstruction
from openvla_msgs.msg import ActionChunk, PolicyStatus, SafetyState
from openvla_msgs.srv import ResetEStop, SetInstruction
from rclpy.action import ActionClient
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.qos import LATCHED, STATE, STREAM

pytestmark = pytest.mark.ros
Outcome = RunInstruction.Result


def errors(output: str) -> list[str]:
    return [line.split("]: ", 1)[1] for line in output.splitlines() if "[ERROR]" in line or "Traceback" in line]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"checkpoint": "/nowhere/at/all"}, "checkpoint folder '/nowhere/at/all' does not exist"),
        ({"unnorm_key": "bridge_orig", "image.topic": "another/camera"},
         "unnorm_key 'bridge_orig' is unknown; this checkpoint has: sim"),
        ({"image.timeout": 6.0}, r"no publisher of sensor_msgs/msg/Image on '/camera/image_raw' \(waited 6(.0)? s\); "
                                 r"published topics of this type: /another/camera; .*'image.topic'"),
        ({"image.timeout": 6.0, "image.topic": "words"},
         "'/words' carries std_msgs/msg/String, not sensor_msgs/msg/Image"),
        ({"unorm_key": "sim"}, "unknown parameter 'unorm_key' for node 'policy_node'; did you mean unnorm_key"),
        ({"rate": 500.0}, "parameter 'rate' is 500.0; it must be 0.1 … 200 Hz"),
        ({"precision": "int3"}, "parameter 'precision' is 'int3'; it must be one of 'fp32', 'bf16'"),
        ({"rate": "fast"}, "parameter 'rate' is 'fast'; it must be a number"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_stops_with_one_clear_line(
    parameters, message, start_node, ros_node, tiny_checkpoint, wait_for
):
    ros_node.create_publisher(Image, "/another/camera", STREAM)
    ros_node.create_publisher(String, "/words", STATE)
    given = {"checkpoint": tiny_checkpoint, "autostart": "true", "warm_up": "false"} | parameters
    pairs = [x for name, value in given.items() for x in ("-p", f"{name}:={value}")]
    process = start_node("policy_node", "--ros-args", *pairs)
    wait_for(lambda: not process.running, 180.0, "the node to give up")
    assert process.popen.returncode == 1
    lines = errors(process.output)
    assert len(lines) == 1 and re.search(message, lines[0]), process.output
    assert "Traceback" not in process.output


class Client:
    """Runs instructions and keeps their feedback."""

    def __init__(self, node, spin_until):
        self.node, self.spin_until = node, spin_until
        self.feedback: list[RunInstruction.Feedback] = []
        self.client = ActionClient(node, RunInstruction, "run_instruction")

    def send(self, **goal):
        self.spin_until(self.client.server_is_ready, 120.0, "the action server")
        self.feedback.clear()
        future = self.client.send_goal_async(
            RunInstruction.Goal(**goal), feedback_callback=lambda m: self.feedback.append(m.feedback)
        )
        self.spin_until(future.done, 20.0, "the goal's answer")
        return future.result()

    def result(self, handle, timeout=60.0):
        future = handle.get_result_async()
        self.spin_until(future.done, timeout, "the goal's result")
        return future.result()


@pytest.fixture
def stack(start_stack, tiny_checkpoint, listen, spin_until, ros_node):
    """A function that starts simulator, bridge and policy, and waits until the policy waits for an instruction."""

    def start(mode="blocking", **policy):
        overrides = {
            "sim_node": {"real_time_factor": 2.0, "camera.rate": 5.0},
            "bridge_node": {"control_mode": mode, "watchdog.action": 0.5 if mode == "streaming" else 3.0},
            "policy_node": {"checkpoint": str(tiny_checkpoint), "threads": 1, **policy},
        }
        processes = start_stack(overrides)
        processes["status"] = status = listen(PolicyStatus, "policy/status", LATCHED)
        processes["safety"] = safe = listen(SafetyState, "safety/state", LATCHED)
        processes["chunks"] = listen(ActionChunk, "policy/action_chunk", STATE)
        spin_until(lambda: status and status[-1].reason.startswith("no instruction"), 180.0, "the policy")
        spin_until(lambda: safe and safe[-1].state == SafetyState.READY, 90.0, "the bridge")
        return processes

    return start


def test_runs_end_by_steps_cancellation_and_time(stack, call, ros_node, spin_until, meet):
    running = stack()
    chunks, status, safe = running["chunks"], running["status"], running["safety"]
    assert chunks == [], "without an instruction nothing moves"
    client = Client(ros_node, spin_until)
    meet("policy_node")  # or the first feedback, or the first actions, may be lost
    assert not client.send(instruction="  ", max_steps=1).accepted

    done = client.result(client.send(instruction="lift the red cube", max_steps=4))
    assert done.status == GoalStatus.STATUS_SUCCEEDED and done.result.outcome == Outcome.COMPLETED_STEPS
    assert done.result.steps == 4
    # The result is a service's answer, feedback and actions are topics: their order is not defined.
    spin_until(lambda: len(client.feedback) >= 4 and len(chunks) >= 4, 20.0, "the feedback and actions of four steps")
    assert [f.step for f in client.feedback] == [1, 2, 3, 4]
    assert client.feedback[-1].rate > 0 and client.feedback[-1].latency > 0
    answered = [conversions.stamp_ns(c.observation_stamp) for c in chunks]
    assert answered == sorted(set(answered)), "one prediction for each action, on a newer image each"
    chunk = chunks[-1]
    assert (chunk.source, chunk.header.frame_id, chunk.statistics_name) == ("policy", "panda_link0", "sim")
    assert chunk.instruction == "lift the red cube" and chunk.statistics_hash and len(chunk.actions) == 1
    assert 0 < chunk.latency_inference < chunk.latency_total
    assert all(not s.refused for s in safe)

    ended = client.result(client.send(instruction="lift the red cube", max_steps=0, timeout=1.0))
    assert ended.result.outcome == Outcome.TIMEOUT and 1.0 <= ended.result.duration < 3.0

    handle = client.send(instruction="lift the blue cube")
    assert not client.send(instruction="lift the red cube").accepted, "one at a time"
    cancel = handle.cancel_goal_async()
    spin_until(cancel.done, 20.0, "the cancel's answer")
    began = time.monotonic()
    cancelled = client.result(handle)
    assert cancelled.status == GoalStatus.STATUS_CANCELED and cancelled.result.outcome == Outcome.CANCELLED
    assert time.monotonic() - began < 3.0

    response = call(SetInstruction, "set_instruction", instruction="lift  the green cube ")
    assert response.success and response.message == "following 'lift the green cube'"
    spin_until(lambda: status[-1].instruction == "lift the green cube" and status[-1].step >= 2, 20.0, "steps")
    spin_until(lambda: chunks[-1].instruction == "lift the green cube", 20.0, "their actions")
    assert call(SetInstruction, "set_instruction", instruction="").message == "no instruction: the robot holds"
    spin_until(lambda: status[-1].reason.startswith("no instruction"), 20.0, "the policy to stop")

    running["policy_node"].popen.send_signal(signal.SIGKILL)
    spin_until(lambda: not running["lifecycle_manager"].running, 60.0, "the manager to give up")
    assert running["lifecycle_manager"].popen.returncode == 1
    assert "bringup failed: 'policy_node' is lost" in running["lifecycle_manager"].output
    spin_until(lambda: safe[-1].state == SafetyState.INACTIVE, 20.0, "the bridge to be taken down")


def test_streaming_stops_at_once_and_holds_without_policy(stack, call, spin_until, ros_node, meet):
    running = stack("streaming", **{"image.transport": "compressed", "rate": 5.0})
    safe, chunks = running["safety"], running["chunks"]
    client = Client(ros_node, spin_until)

    # Cancelled: the bridge brakes on the word, long before the watchdog would notice that no action comes.
    handle = client.send(instruction="lift the blue cube")
    spin_until(lambda: len(chunks) > 3 and safe[-1].state == SafetyState.EXECUTING, 30.0, "motion")
    spin_until(handle.cancel_goal_async().done, 20.0, "the cancel's answer")
    assert client.result(handle).result.outcome == Outcome.CANCELLED
    held = spin_until(lambda: next((s for s in safe if s.reason == "policy asked to stop"), None), 20.0, "the stop")
    assert held.state == SafetyState.HOLD and held.refused == ["stop"]
    # (How long it takes is test_faults' matter, where nothing else runs: here the simulator's clock comes in leaps.)
    stood = spin_until(lambda: next((s for s in safe[safe.index(held) :] if not s.stopping), None), 20.0, "standing")
    braking = safe[safe.index(held) : safe.index(stood)]
    assert {s.reason for s in braking} == {"policy asked to stop"}, "and no watchdog had to"

    # Another sentence on the topic ends the run, and is followed from the next step on.
    instruction = ros_node.create_publisher(String, "instruction", LATCHED)
    spin_until(instruction.get_subscription_count, 20.0, "the policy to listen")
    meet("policy_node")
    handle = client.send(instruction="lift the blue cube")
    spin_until(lambda: chunks[-1].instruction == "lift the blue cube", 20.0, "steps")
    before = len(chunks)
    instruction.publish(String(data="lift the red cube"))
    ended = client.result(handle).result
    assert ended.outcome == Outcome.CANCELLED and ended.reason.startswith("another instruction was given")
    spin_until(lambda: chunks[-1].instruction == "lift the red cube", 20.0, "the next step")
    assert {c.instruction for c in chunks[before:]} <= {"lift the blue cube", "lift the red cube"}
    assert chunks.index(next(c for c in chunks[before:] if c.instruction == "lift the red cube")) - before <= 2

    # An emergency stop ends a run with its reason.
    handle = client.send(instruction="lift the green cube")
    spin_until(lambda: chunks[-1].instruction == "lift the green cube", 20.0, "steps")
    call(Trigger, "bridge_node/e_stop")
    ended = client.result(handle).result
    assert ended.outcome == Outcome.FAULT and ended.reason.startswith("emergency stop")
    assert call(ResetEStop, "bridge_node/reset_e_stop", operator_name="the test").success

    call(SetInstruction, "set_instruction", instruction="lift the red cube")
    spin_until(lambda: len(chunks) > 5 and safe[-1].state == SafetyState.EXECUTING, 30.0, "motion")
    running["policy_node"].popen.send_signal(signal.SIGKILL)
    spin_until(lambda: safe[-1].state == SafetyState.HOLD, 20.0, "HOLD")
    assert safe[-1].reason.startswith("no fresh action: ")


def test_sigterm_ends_every_process_without_errors(stack, call, spin_until, wait_for):
    running = stack()
    call(SetInstruction, "set_instruction", instruction="lift the red cube")
    spin_until(lambda: running["chunks"], 30.0, "an action")
    for name in ("policy_node", "bridge_node", "sim_node"):
        running[name].popen.send_signal(signal.SIGTERM)
    for name in ("policy_node", "bridge_node", "sim_node"):
        wait_for(lambda n=name: not running[n].running, 30.0, f"{name} to end")
        assert running[name].popen.returncode == 0 and "Traceback" not in running[name].output, running[name].output


def test_a_run_without_executed_actions_says_why(start_node, ros_node, listen, spin_until, call, tiny_checkpoint, meet):
    """A bridge made up by the test: READY, but under teleoperation's command; then one that refuses all actions."""
    cameras, bridge = (ros_node.create_publisher(*topic) for topic in (
        (Image, "camera/image_raw", STREAM), (SafetyState, "safety/state", LATCHED),
    ))  # fmt: skip
    status = listen(PolicyStatus, "policy/status", LATCHED)
    chunks = listen(ActionChunk, "policy/action_chunk", STATE)

    def say(**fields):
        ready = SafetyState(state=SafetyState.READY, control_mode="blocking", **fields)
        ready.ready_since = ros_node.get_clock().now().to_msg()
        bridge.publish(ready)

    def look():
        image = Image(height=48, width=64, encoding="rgb8", step=64 * 3, data=bytes(48 * 64 * 3))
        image.header.stamp = ros_node.get_clock().now().to_msg()
        cameras.publish(image)

    ros_node.create_timer(0.1, look)
    given = {"checkpoint": tiny_checkpoint, "autostart": "true", "stall_timeout": 1.5, "threads": 1}
    pairs = [x for name, value in given.items() for x in ("-p", f"{name}:={value}")]
    process = start_node("policy_node", "--ros-args", *pairs)
    say(source=ActionChunk.SOURCE_TELEOP)
    client = Client(ros_node, spin_until)
    spin_until(lambda: status and status[-1].state == "waiting", 120.0, "the policy")
    spin_until(bridge.get_subscription_count, 20.0, "the policy to listen to the bridge")
    meet("policy_node")

    handle = client.send(instruction="lift the red cube")
    spin_until(lambda: status[-1].reason.startswith("'teleop' is in command of the bridge"), 20.0, "the reason at once")
    ended = client.result(handle).result
    assert ended.outcome == Outcome.FAULT and ended.reason.startswith("no action was executed for 2 s: 'teleop' is in ")
    assert "ros2 service call /bridge_node/switch_source openvla_msgs/srv/SwitchSource" in ended.reason
    assert not chunks, "nothing is sent that would be refused"

    say(source=ActionChunk.SOURCE_POLICY, reason="refused: frame 'panda_link0' is unknown")
    ended = client.result(client.send(instruction="lift the red cube")).result
    spin_until(lambda: chunks, 20.0, "the action that was refused")
    assert ended.reason.endswith(": the bridge says: refused: frame 'panda_link0' is unknown"), ended.reason

    count = len(chunks)
    say(source=ActionChunk.SOURCE_POLICY)
    call(SetInstruction, "set_instruction", instruction="lift the red cube")
    spin_until(lambda: len(chunks) == count + 2, 20.0, "one action, and one more since the bridge did not receive it")
    first, second = (conversions.stamp_ns(c.observation_stamp) for c in chunks[count:])
    assert second - first > 1e9, "not before it is clear, and on a fresh image"
    assert process.output.count("the bridge did not receive the last action") == 1
