"""`make bench`: from the camera's stamp to the command for the robot, with everything but the inference.

Three processes and the real transport: this one is camera and robot (an image, then the first target that follows from
it), the policy node with its whole path (image conversion, worker thread, message) around a policy that answers at
once, and the bridge in blocking control. Each round waits for READY, publishes one picture stamped now, and takes the
time until the target arrives. All run as in a bringup, without the field checks of the tests. Prints p50 and p99 and
each hop's median, and writes outputs/bench/latency.json.
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

os.environ["ROS_PYTHON_CHECK_FIELDS"] = ""  # test/conftest.py sets them; message classes look once, when imported

from openvla_msgs.msg import ActionChunk, SafetyState
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message

from openvla_ros.nodes import messages
from openvla_ros.nodes.qos import COMMAND, LATCHED, STATE, STREAM
from openvla_ros.robots.target_pose import Pose

ROOT = Path(__file__).parents[2]
ROUNDS = 100 if os.environ.get("QUICK") else 400
SIZES = ((224, 224), (480, 640))  # height, width of the pictures: what a policy takes, and what a camera sends
POLICY = """
import numpy as np
from openvla_ros.nodes import policy_node
from openvla_policy.contract.action import ActionChunk

class AtOnce:
    name, checkpoint, statistics, unnorm_key = "constant", "", "", ""
    way = 0.001
    def load(self): return self
    def close(self): pass
    def reset(self): pass
    def predict(self, observation, instruction):
        assert observation.image.ndim == 3
        self.way = -self.way
        return ActionChunk(actions=np.array([[0, self.way, 0, 0, 0, 0, 1.0]]), frame="panda_link0", period=0.02)

policy_node.make_backend = lambda value: AtOnce()
policy_node.main()
"""


@dataclass(frozen=True)
class Hops:
    """Where one round's time went [s]; every process stamps with the machine's one clock."""

    picture: float  # from its stamp to the policy node's callback
    policy: float  # in the policy node, to the chunk's stamp
    chunk: float  # to the bridge's callback, whose moment is the first target's stamp
    command: float  # gate, motion and message in the bridge, to the target's arrival here

    @property
    def total(self) -> float:
        return self.picture + self.policy + self.chunk + self.command

    @classmethod
    def of(cls, picture_ns: int, chunk: Any, target: Any, arrived_ns: int) -> Hops:
        """From the stamps that the messages carry."""
        sent_ns, target_ns = messages.stamp_ns(chunk.header.stamp), messages.stamp_ns(target.header.stamp)
        policy = float(chunk.latency_total)
        picture = (sent_ns - picture_ns) * 1e-9 - policy
        return cls(picture, policy, (target_ns - sent_ns) * 1e-9, (arrived_ns - target_ns) * 1e-9)


@pytest.mark.timeout(300)
def test_camera_to_command(start_node: Any, start_process: Any, ros_node: Any, tmp_path: Path) -> None:
    pose, states = [Pose.of((0.5, 0.0, 0.2), (1.0, 0.0, 0.0, 0.0))], []
    arrived: list[tuple[Any, int]] = []
    chunks: list[bytes] = []
    executor = SingleThreadedExecutor(context=ros_node.context)
    executor.add_node(ros_node)

    def on_target(message: Any) -> None:
        arrived.append((message, time.time_ns()))
        pose[0] = messages.read_pose(message)[0]

    ros_node.create_subscription(messages.PoseStamped, "robot/target_pose", on_target, COMMAND)
    ros_node.create_subscription(SafetyState, "safety/state", states.append, LATCHED)
    ros_node.create_subscription(ActionChunk, "policy/action_chunk", chunks.append, STATE, raw=True)  # read afterwards
    camera = ros_node.create_publisher(messages.Image, "camera/image_raw", STREAM)
    arm = ros_node.create_publisher(messages.PoseStamped, "robot/ee_pose", STREAM)
    ros_node.create_timer(0.02, lambda: arm.publish(messages.pose_message(pose[0], "panda_link0", time.time_ns())))
    program = tmp_path / "policy.py"
    program.write_text(POLICY)
    parameters = ["-p", "autostart:=true"]
    start_node("bridge_node", "--ros-args", *parameters, "-p", "enabled:=true", "-p", "gripper.interval:=0.0")
    start_process("python", str(program), "--ros-args", *parameters, "-p", "instruction:=swing", "-p", "warm_up:=false")

    def spin(seconds: float, done: Any) -> bool:
        end = time.monotonic() + seconds
        while not (over := bool(done())) and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.01)
        return over

    def ready_ns() -> int:
        """Since when the bridge waits for a picture; 0 while it does not."""
        newest = states[-1] if states else None
        return messages.stamp_ns(newest.ready_since) if newest and newest.state == SafetyState.READY else 0

    asked = [0]  # stamp of the newest picture that was answered

    def round_trip(picture: np.ndarray, patience: float) -> Hops | None:
        """From the picture's stamp to the arrival of the first target after it; None when nothing moved."""
        if not spin(patience, lambda: ready_ns() > asked[0]):
            asked[0] = 0
            return None
        spin(0.03, lambda: False)  # what the motion before left under way
        arrived.clear()
        chunks.clear()
        at = max(time.time_ns(), ready_ns())
        camera.publish(messages.image_message(picture, "camera", at))
        if not spin(patience, lambda: bool(arrived and chunks)):
            asked[0] = 0
            return None
        asked[0], chunk = at, deserialize_message(chunks[0], ActionChunk)
        assert messages.stamp_ns(chunk.observation_stamp) == at, "the chunk answers another picture"
        return Hops.of(at, chunk, *arrived[0])

    pictures = {f"{width}x{height}": np.zeros((height, width, 3), np.uint8) for height, width in SIZES}
    first = next(iter(pictures.values()))
    assert spin(60.0, lambda: round_trip(first, 0.5) is not None), "nothing moved within a minute"
    rows = []
    for name, picture in pictures.items():
        taken = [hops for _ in range(ROUNDS) if (hops := round_trip(picture, 2.0)) is not None]
        assert len(taken) > 0.9 * ROUNDS, f"only {len(taken)} of {ROUNDS} pictures of {name} were answered"
        rows.append(_row(name, taken))
    executor.shutdown()
    real_time = os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)  # inherited: `chrt -r 10 make bench`
    machine = {"cores": os.cpu_count(), "architecture": platform.machine(), "load": os.getloadavg()}
    result = {"machine": machine, "real_time": real_time, "rows": rows}
    output = ROOT / "outputs" / "bench"
    output.mkdir(parents=True, exist_ok=True)
    (output / "latency.json").write_text(json.dumps(result, indent=2) + "\n")


def _row(name: str, taken: list[Hops]) -> dict[str, Any]:
    """Percentiles of the whole way and medians of its hops [ms], printed."""
    p50, p90, p99 = (1e3 * float(np.percentile([h.total for h in taken], p)) for p in (50, 90, 99))
    hops = {hop: 1e3 * float(np.median([getattr(h, hop) for h in taken])) for hop in Hops.__dataclass_fields__}
    print(f"\ncamera to command, without inference, {len(taken)} pictures of {name}: ", end="")
    print(f"p50 {p50:.1f} ms, p90 {p90:.1f} ms, p99 {p99:.1f} ms; medians of the hops: ", end="")
    print(", ".join(f"{hop} {ms:.1f}" for hop, ms in hops.items()))
    assert 0.0 < p50 < 1000.0
    return {"picture": name, "rounds": len(taken), "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "hops_p50_ms": hops}
