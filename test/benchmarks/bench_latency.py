"""`make bench`: from the camera's stamp to the command for the robot, with everything but the inference.

Three processes and the real transport: this one is camera and robot (an image, then the first target that follows from
it), the policy node with its whole path (image conversion, worker thread, message) around a policy that answers at
once, and the bridge in blocking control. Each round waits for READY, publishes one picture stamped now, and takes the
time until the target arrives. Prints p50 and p99, and writes outputs/bench/latency.json.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openvla_msgs.msg import SafetyState

from openvla_ros.nodes import messages
from openvla_ros.nodes.qos import COMMAND, LATCHED, STREAM
from openvla_ros.robots.target_pose import Pose

ROOT = Path(__file__).parents[2]
ROUNDS = 100 if os.environ.get("QUICK") else 400
SIZE = (224, 224)  # of the picture: what the policy takes; a larger one adds its transport (docs/reference/safety.md)
POLICY = """
import numpy as np
from openvla_ros.nodes import policy_node
from openvla_policy.contract.action import ActionChunk

class AtOnce:
    name, checkpoint, statistics, unnorm_key = "constant", "", "", ""
    way = 0.001
    def load(self): return self
    def reset(self): pass
    def predict(self, observation, instruction):
        assert observation.image.ndim == 3
        self.way = -self.way
        return ActionChunk(actions=np.array([[0, self.way, 0, 0, 0, 0, 1.0]]), frame="panda_link0", period=0.02)

policy_node.make_backend = lambda value: AtOnce()
policy_node.main()
"""


@pytest.mark.timeout(300)
def test_camera_to_command(start_node: Any, start_process: Any, ros_node: Any, tmp_path: Path) -> None:
    from rclpy.executors import SingleThreadedExecutor

    pose, states, arrived = [Pose.of((0.5, 0.0, 0.2), (1.0, 0.0, 0.0, 0.0))], [], []
    executor = SingleThreadedExecutor(context=ros_node.context)
    executor.add_node(ros_node)

    def on_target(message: Any) -> None:
        arrived.append(time.time_ns())
        pose[0] = messages.read_pose(message)[0]

    ros_node.create_subscription(messages.PoseStamped, "robot/target_pose", on_target, COMMAND)
    ros_node.create_subscription(SafetyState, "safety/state", states.append, LATCHED)
    camera = ros_node.create_publisher(messages.Image, "camera/image_raw", STREAM)
    arm = ros_node.create_publisher(messages.PoseStamped, "robot/ee_pose", STREAM)
    ros_node.create_timer(0.02, lambda: arm.publish(messages.pose_message(pose[0], "panda_link0", time.time_ns())))
    program = tmp_path / "policy.py"
    program.write_text(POLICY)
    parameters = ["-p", "autostart:=true"]
    start_node("bridge_node", "--ros-args", *parameters, "-p", "enabled:=true", "-p", "gripper.interval:=0.0")
    start_process("python", str(program), "--ros-args", *parameters, "-p", "instruction:=swing", "-p", "warm_up:=false")
    picture = np.zeros((*SIZE, 3), np.uint8)

    def spin(seconds: float, done: Any) -> bool:
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.01)
        return bool(done())

    def round_trip(patience: float) -> float | None:
        """[s] from the picture's stamp to the arrival of the first target after it; None when nothing moved."""
        if not spin(patience, lambda: bool(states) and states[-1].state == SafetyState.READY):
            return None
        spin(0.03, lambda: False)  # what the motion before left under way
        ready = max((messages.stamp_ns(s.ready_since) for s in states), default=0)
        arrived.clear()
        at = max(time.time_ns(), ready)
        camera.publish(messages.image_message(picture, "camera", at))
        return (arrived[0] - at) * 1e-9 if spin(patience, lambda: bool(arrived)) else None

    assert spin(60.0, lambda: round_trip(0.5) is not None), "nothing moved within a minute"
    taken = [t for _ in range(ROUNDS) if (t := round_trip(2.0)) is not None]
    executor.shutdown()
    assert len(taken) > 0.9 * ROUNDS, f"only {len(taken)} of {ROUNDS} pictures were answered"
    p50, p90, p99 = (1e3 * float(np.percentile(taken, p)) for p in (50, 90, 99))
    result = {"rounds": len(taken), "picture": list(SIZE), "p50_ms": p50, "p90_ms": p90, "p99_ms": p99}
    output = ROOT / "outputs" / "bench"
    output.mkdir(parents=True, exist_ok=True)
    (output / "latency.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"\ncamera to command, without inference: p50 {p50:.1f} ms, p90 {p90:.1f} ms, p99 {p99:.1f} ms", end=" ")
    print(f"({len(taken)} pictures of {SIZE[1]}x{SIZE[0]})")
    assert 0.0 < p50 < 1000.0
