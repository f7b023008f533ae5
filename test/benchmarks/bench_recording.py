"""`make bench`: the recorder with raw 640x480 images at 30 Hz and robot states at 100 Hz; losses and CPU time.

Publisher and recorder are processes of their own, with the DDS profile of config/dds. Sent messages are compared with
those in the bag.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openvla_msgs.srv import StartEpisode, StopEpisode
from rich.console import Console
from rich.table import Table
from rosbags.highlevel import AnyReader

SECONDS = 20.0
TICK = os.sysconf("SC_CLK_TCK")

# Publishes for the given seconds, then prints the numbers of messages; with noise, as images of real cameras have it.
PUBLISHER = """
import sys, time, array, json
import numpy as np, rclpy
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Image, JointState
from openvla_ros.nodes.common.qos import STREAM
rclpy.init()
node = rclpy.create_node("bench_publisher")
image = node.create_publisher(Image, "camera/image_raw", STREAM)
pose = node.create_publisher(PoseStamped, "robot/ee_pose", STREAM)
grip = node.create_publisher(JointState, "gripper/state", STREAM)
joints = node.create_publisher(JointState, "joint_states", STREAM)
rng = np.random.default_rng(0)
ramp = np.linspace(0, 200, 640 * 480 * 3).reshape(480, 640, 3)
frames = [array.array("B", (ramp + rng.integers(0, 24, ramp.shape)).astype(np.uint8).tobytes()) for _ in range(8)]
while image.get_subscription_count() < 1 or pose.get_subscription_count() < 1:
    time.sleep(0.05)
print("ready", flush=True)
sys.stdin.readline()
seconds = float(sys.argv[1])
sent = {"camera/image_raw": 0, "robot/ee_pose": 0, "gripper/state": 0, "joint_states": 0}
start = time.monotonic()
late = 0.0
for tick in range(round(seconds * 300)):  # 300 Hz: images every 10th tick, states every 3rd
    due = start + tick / 300
    now = time.monotonic()
    late = max(late, now - due)
    if now < due:
        time.sleep(due - now)
    stamp = node.get_clock().now().to_msg()
    if tick % 10 == 0:
        message = Image(height=480, width=640, encoding="rgb8", step=1920)
        message.header.stamp = stamp
        message.data = frames[tick // 10 % 8]
        image.publish(message); sent["camera/image_raw"] += 1
    if tick % 3 == 0:
        message = PoseStamped(); message.header.stamp = stamp
        pose.publish(message); sent["robot/ee_pose"] += 1
        message = JointState(name=["gripper"], position=[1.0]); message.header.stamp = stamp
        grip.publish(message); sent["gripper/state"] += 1
        message = JointState(name=list("abcdefg"), position=[0.0] * 7, velocity=[0.0] * 7); message.header.stamp = stamp
        joints.publish(message); sent["joint_states"] += 1
print(json.dumps([sent, late]), flush=True)
sys.stdin.readline()
"""


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process so far [s]."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_recording(
    compression: str, tmp_path: Path, ros_domain: int, ros_node: Any, spin_until: Any, start_node: Callable[..., Any],
    root: Path,
) -> None:  # fmt: skip
    os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(root / "config" / "dds" / "fastdds.xml"))
    parameters = (
        "autostart:=true", f"output:={tmp_path}/bags", "min_free_gib:=0.0", f"compression:={compression}",
        "required_topics:=['camera/image_raw']",
    )  # fmt: skip
    recorder = start_node("recorder_node", "--ros-args", *(word for p in parameters for word in ("-p", p)))
    publisher = subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, str(SECONDS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert publisher.stdin is not None and publisher.stdout is not None
    try:
        assert publisher.stdout.readline() == "ready\n"
        start, stop = (
            ros_node.create_client(kind, name)
            for kind, name in ((StartEpisode, "start_episode"), (StopEpisode, "stop_episode"))
        )
        spin_until(start.service_is_ready, 20.0)
        begun = start.call_async(StartEpisode.Request(instruction="bench"))
        spin_until(begun.done, 20.0)
        assert begun.result().success, begun.result().message
        before, began = cpu_seconds(recorder.popen.pid), time.monotonic()
        publisher.stdin.write("\n")
        publisher.stdin.flush()
        sent, late = json.loads(publisher.stdout.readline())
        used, took = cpu_seconds(recorder.popen.pid) - before, time.monotonic() - began
        ended = stop.call_async(StopEpisode.Request(outcome=0, score=1.0))
        spin_until(ended.done, 60.0)
    finally:
        publisher.kill()
        publisher.wait()
    answer = ended.result()
    assert answer.success, answer.message
    bag = Path(answer.path)
    with AnyReader([bag]) as reader:
        written = {c.topic.lstrip("/"): c.msgcount for c in reader.connections}
        stamps = {c.topic.lstrip("/"): [] for c in reader.connections}
        for connection, log, _ in reader.messages():
            stamps[connection.topic.lstrip("/")].append(log)
    size = sum(f.stat().st_size for f in bag.iterdir())
    table = Table(title=f"recorder, compression {compression}, {SECONDS:.0f} s, {os.cpu_count()} cores")
    for column in ("topic", "sent", "in the bag", "lost", "largest pause [ms]"):
        table.add_column(column, justify="left" if column == "topic" else "right")
    for topic, count in sent.items():
        pause = np.diff(stamps[topic]).max() / 1e6
        table.add_row(topic, str(count), str(written[topic]), str(count - written[topic]), f"{pause:.0f}")
    raw = written["camera/image_raw"] * 640 * 480 * 3
    Console().print(
        table,
        f"images {raw / took / 1e6:.1f} MB/s, on disk {size / took / 1e6:.1f} MB/s; recorder "
        f"{100 * used / took:.0f} % of a core; publisher at most {1000 * late:.0f} ms late; {answer.message}",
    )
