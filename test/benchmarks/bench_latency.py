"""`make bench`: latency from the camera's stamp to the robot command, without inference.

Three processes over the real transport: this one is camera and robot; the policy node has its whole path (image
conversion, inference thread, message) around a policy that returns immediately; the bridge runs in blocking control.
Each round waits for READY, publishes one image with the current stamp and measures the time until the first target
arrives. All run as in a bringup, without the field checks of the tests. Between two rounds the same image passes
through two plain rclpy nodes, which only relay it: the share of the transport and of the machine's load. Prints p50,
p90 and p99 of both paths and the median of each hop, and writes outputs/bench/latency.json.
"""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ["ROS_PYTHON_CHECK_FIELDS"] = ""  # test/conftest.py sets it; message classes read it when imported

from geometry_msgs.msg import PoseStamped
from openvla_msgs.msg import ActionChunk, SafetyState
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image

from openvla_ros.geometry import Pose
from openvla_ros.nodes.common import conversions, image_messages
from openvla_ros.nodes.common.qos import COMMAND, LATCHED, STATE, STREAM

ROOT = Path(__file__).parents[2]
ROUNDS = 100 if os.environ.get("QUICK") else 400
SIZES = ((224, 224), (480, 640))  # (height, width) [px] of a policy's input and of a camera
POLICY = """
import numpy as np
from openvla_ros.nodes.policy import policy_node
from openvla_policy.contract.action import ActionChunk

class ConstantPolicy:
    name, checkpoint, statistics, unnorm_key = "constant", "", "", ""
    step = 0.001
    def load(self): return self
    def close(self): pass
    def reset(self): pass
    def predict(self, observation, instruction):
        assert observation.image.ndim == 3
        self.step = -self.step
        return ActionChunk(actions=np.array([[0, self.step, 0, 0, 0, 0, 1.0]]), frame="panda_link0", period=0.02)

policy_node.make_backend = lambda _: ConstantPolicy()
policy_node.main()
"""
PLAIN = """
import sys, rclpy
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Image
from std_msgs.msg import Header

rclpy.init()
node = rclpy.create_node(sys.argv[1])
if sys.argv[1] == "first":
    publisher = node.create_publisher(Header, "plain/header", 10)
    node.create_subscription(Image, "plain/image", lambda m: publisher.publish(m.header), 5)
else:
    publisher = node.create_publisher(PoseStamped, "plain/pose", 10)
    node.create_subscription(Header, "plain/header", lambda m: publisher.publish(PoseStamped(header=m)), 10)
rclpy.spin(node)
"""


@dataclass(frozen=True)
class Hops:
    """Durations of one round [s]; all processes stamp with the clock of the machine.

    Attributes:
        picture: From the image's stamp to the callback of the policy node.
        policy: In the policy node, until the chunk's stamp.
        chunk: Until the callback of the bridge, which is the stamp of the first target.
        command: Gate, motion and message in the bridge, until the target arrives here.
    """

    picture: float
    policy: float
    chunk: float
    command: float

    @property
    def total(self) -> float:
        return self.picture + self.policy + self.chunk + self.command

    @classmethod
    def from_stamps(cls, picture_ns: int, chunk: Any, target: Any, arrived_ns: int) -> Hops:
        """Compute the durations from the stamps of the messages."""
        sent_ns, target_ns = conversions.stamp_ns(chunk.header.stamp), conversions.stamp_ns(target.header.stamp)
        policy = float(chunk.latency_total)
        picture = (sent_ns - picture_ns) * 1e-9 - policy
        return cls(picture, policy, (target_ns - sent_ns) * 1e-9, (arrived_ns - target_ns) * 1e-9)


@pytest.mark.timeout(1200)
def test_camera_to_command(start_node: Any, start_process: Any, ros_node: Any, tmp_path: Path) -> None:
    pose, states = [Pose.of((0.5, 0.0, 0.2), (1.0, 0.0, 0.0, 0.0))], []
    arrived: list[tuple[Any, int]] = []
    chunks: list[bytes] = []
    executor = SingleThreadedExecutor(context=ros_node.context)
    executor.add_node(ros_node)

    def on_target(message: Any) -> None:
        arrived.append((message, time.time_ns()))
        pose[0] = conversions.read_pose(message)[0]

    ros_node.create_subscription(PoseStamped, "robot/target_pose", on_target, COMMAND)
    ros_node.create_subscription(SafetyState, "safety/state", states.append, LATCHED)
    # Raw: a chunk is parsed after its round.
    ros_node.create_subscription(ActionChunk, "policy/action_chunk", chunks.append, STATE, raw=True)
    camera = ros_node.create_publisher(Image, "camera/image_raw", STREAM)
    arm = ros_node.create_publisher(PoseStamped, "robot/ee_pose", STREAM)
    ros_node.create_timer(0.02, lambda: arm.publish(conversions.pose_message(pose[0], "panda_link0", time.time_ns())))
    passed: list[int] = []
    ros_node.create_subscription(PoseStamped, "plain/pose", lambda _: passed.append(time.time_ns()), COMMAND)
    plain_camera = ros_node.create_publisher(Image, "plain/image", STREAM)
    program, plain = tmp_path / "policy.py", tmp_path / "plain.py"
    program.write_text(POLICY)
    plain.write_text(PLAIN)
    for name in ("first", "second"):
        start_process("python", str(plain), name)
    parameters = ["-p", "autostart:=true"]
    start_node("bridge_node", "--ros-args", *parameters, "-p", "enabled:=true", "-p", "gripper.interval:=0.0")
    start_process("python", str(program), "--ros-args", *parameters, "-p", "instruction:=swing", "-p", "warm_up:=false")

    def spin(seconds: float, done: Any) -> bool:
        end = time.monotonic() + seconds
        while not (finished := bool(done())) and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.01)
        return finished

    def ready_ns() -> int:
        """Return since when the bridge waits for an image; 0 while it does not."""
        newest = states[-1] if states else None
        return conversions.stamp_ns(newest.ready_since) if newest and newest.state == SafetyState.READY else 0

    answered = [0]  # stamp of the newest image with an answer

    def round_trip(picture: np.ndarray, timeout: float) -> Hops | None:
        """Publish an image and wait for the first target after it; None when none arrives."""
        if not spin(timeout, lambda: ready_ns() > answered[0]):
            answered[0] = 0
            return None
        spin(0.03, lambda: False)  # messages of the motion before are still in transit
        arrived.clear()
        chunks.clear()
        at = max(time.time_ns(), ready_ns())
        camera.publish(image_messages.image_message(picture, "camera", at))
        if not spin(timeout, lambda: bool(arrived and chunks)):
            answered[0] = 0
            return None
        answered[0], chunk = at, deserialize_message(chunks[0], ActionChunk)
        if conversions.stamp_ns(chunk.observation_stamp) != at:
            return None  # the answer to an earlier image, whose round timed out
        return Hops.from_stamps(at, chunk, *arrived[0])

    def plain_trip(picture: np.ndarray, timeout: float) -> float | None:
        """Return the time through the two plain nodes [s]; None when nothing arrives."""
        spin(0.03, lambda: False)
        passed.clear()
        at = time.time_ns()
        plain_camera.publish(image_messages.image_message(picture, "camera", at))
        return (passed[0] - at) * 1e-9 if spin(timeout, lambda: passed) else None

    pictures = {f"{width}x{height}": np.zeros((height, width, 3), np.uint8) for height, width in SIZES}
    first = next(iter(pictures.values()))
    assert spin(60.0, lambda: round_trip(first, 0.5) is not None), "no target within 60 s"
    assert spin(60.0, lambda: plain_trip(first, 0.5) is not None), "nothing through the plain nodes within 60 s"
    rows = []
    for name, picture in pictures.items():
        rounds = [(round_trip(picture, 2.0), plain_trip(picture, 2.0)) for _ in range(ROUNDS)]
        taken, through = ([one for one in side if one is not None] for side in zip(*rounds, strict=True))
        print(f"\n{name}: {len(taken)} of {ROUNDS} images answered, {len(through)} through the plain nodes")
        if taken and through:
            rows.append(_row(name, taken, through))
    executor.shutdown()
    real_time = os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)  # inherited: `chrt -r 10 make bench`
    machine = {"cores": os.cpu_count(), "architecture": platform.machine(), "load": os.getloadavg()}
    result = {"machine": machine, "real_time": real_time, "rows": rows}
    output = ROOT / "outputs" / "bench"
    output.mkdir(parents=True, exist_ok=True)
    (output / "latency.json").write_text(json.dumps(result, indent=2) + "\n")


def _row(name: str, taken: list[Hops], through: list[float]) -> dict[str, Any]:
    """Print and return percentiles of both paths [ms] and the medians of the hops [ms]."""
    ours, plain = (
        {f"p{p}_ms": 1e3 * float(np.percentile(times, p)) for p in (50, 90, 99)}
        for times in ([h.total for h in taken], through)
    )
    hops = {hop: 1e3 * float(np.median([getattr(h, hop) for h in taken])) for hop in Hops.__dataclass_fields__}
    print(f"  camera to command, without inference: {_listed(ours)}")
    print("  medians of the hops: " + ", ".join(f"{hop} {ms:.1f} ms" for hop, ms in hops.items()))
    ratios = ", ".join(f"{ours[p] / plain[p]:.1f}" for p in ours)
    print(f"  two plain rclpy nodes: {_listed(plain)}; camera to command takes {ratios} times as long")
    return {"picture": name, "rounds": len(taken), **ours, "hops_p50_ms": hops, "plain": plain}


def _listed(percentiles: dict[str, float]) -> str:
    return ", ".join(f"{name.removesuffix('_ms')} {ms:.1f} ms" for name, ms in percentiles.items())
