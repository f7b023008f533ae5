"""The recorder node, in its own process, records what a small publisher sends over ROS 2."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import PoseStamped, TransformStamped
from history import whole
from openvla_msgs.msg import ActionChunk, EndEffectorDelta, RecorderStatus, SafetyState
from openvla_msgs.srv import StartEpisode, StopEpisode
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from openvla_ros.apps.recover import recover
from openvla_ros.nodes.common.message_types import load
from openvla_ros.nodes.common.qos import LATCHED
from openvla_ros.nodes.recorder.parameters import TOPICS
from openvla_training.bags.convert_all import Options, convert_bag
from openvla_training.rlds.images import decode_image

PERIOD = 200_000_000
pytestmark = pytest.mark.ros

STATE = QoSProfile(depth=100)


class Bench:
    """Publishes robot topics, calls the recorder's services, and remembers every message."""

    def __init__(self, domain: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("bench", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.sent: dict[str, list[Any]] = {}
        topics = {
            "camera/image_raw": (Image, STATE),
            "robot/ee_pose": (PoseStamped, STATE),
            "gripper/state": (JointState, STATE),
            "policy/action_chunk": (ActionChunk, STATE),
            "safety/state": (SafetyState, STATE),
            "instruction": (String, LATCHED),
        }
        self.publishers = {name: self.node.create_publisher(kind, name, qos) for name, (kind, qos) in topics.items()}
        self.start = self.node.create_client(StartEpisode, "start_episode")
        self.stop = self.node.create_client(StopEpisode, "stop_episode")

    def until(self, done: Callable[[], bool], what: str, limit: float = 60.0) -> None:
        """Spin until something holds."""
        end = time.monotonic() + limit
        while not done():
            assert time.monotonic() < end, f"waited {limit} s for {what}"
            self.executor.spin_once(timeout_sec=0.05)

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, "the time to pass")

    def call(self, client: Any, request: Any) -> Any:
        self.until(client.service_is_ready, f"service {client.srv_name}")
        future = client.call_async(request)
        self.until(future.done, f"an answer of {client.srv_name}")
        return future.result()

    def begin(self, instruction: str = "lift the red cube") -> Any:
        """Start an episode as soon as the recorder has found the topics."""
        self.until(
            lambda: all(publisher.get_subscription_count() for publisher in self.publishers.values()),
            "the recorder's subscriptions",
        )
        return self.call(self.start, StartEpisode.Request(instruction=instruction))

    def publish(self, topic: str, message: Any) -> None:
        self.sent.setdefault(topic, []).append(message)
        self.publishers[topic].publish(message)

    def step(self, index: int, frame: np.ndarray) -> None:
        """Publish what belongs to one control step."""
        stamp = rclpy.time.Time(nanoseconds=1_000_000_000_000 + index * PERIOD).to_msg()
        image = Image(height=frame.shape[0], width=frame.shape[1], encoding="rgb8", step=3 * frame.shape[1])
        image.header.stamp = stamp
        image.data = frame.tobytes()
        self.publish("camera/image_raw", image)
        pose = PoseStamped()
        pose.header.stamp = stamp
        pose.pose.position.x = 0.01 * index
        self.publish("robot/ee_pose", pose)
        gripper = JointState(name=["gripper"], position=[1.0])
        gripper.header.stamp = stamp
        self.publish("gripper/state", gripper)
        delta = EndEffectorDelta(gripper=1.0)
        delta.translation.x = 0.001 * (index + 1)
        chunk = ActionChunk(observation_stamp=stamp, actions=[delta], period=0.2, source="policy")
        self.publish("policy/action_chunk", chunk)
        self.publish("safety/state", SafetyState(executed_observation_stamp=stamp, control_mode="blocking"))

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def bench(ros_domain: int) -> Iterator[Bench]:
    made = Bench(ros_domain)
    yield made
    made.close()


@pytest.fixture
def recorder(tmp_path: Path, ros_domain: int) -> Iterator[subprocess.Popen[bytes]]:
    """The node in its own process, active, with bags under tmp_path/bags.

    It leaves out /diagnostics, which it says itself once a second: here every message is counted.
    """
    command = [sys.executable, "-m", "openvla_ros.nodes.recorder.recorder_node", "--ros-args"]
    topics = json.dumps([topic for topic in TOPICS if topic != "/diagnostics"])
    parameters = {"autostart": "true", "output": str(tmp_path / "bags"), "min_free_gib": "0.0", "depth": "50"}
    parameters["topics"] = topics
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    process = subprocess.Popen(command, env=os.environ | {"ROS_DOMAIN_ID": str(ros_domain)})
    yield process
    if process.poll() is None:
        process.terminate()
        assert process.wait(20) == 0


def contents(bag: Path) -> dict[str, list[Any]]:
    """The bag's messages by topic, decoded by ROS itself."""
    with AnyReader([bag]) as reader:
        found: dict[str, list[Any]] = {connection.topic.lstrip("/"): [] for connection in reader.connections}
        for connection, _, raw in reader.messages():
            kind = load(connection.msgtype)
            found[connection.topic.lstrip("/")].append(deserialize_message(bytes(raw), kind))
    return found


def accounted(status: RecorderStatus, topic: str) -> int:
    """How many messages of the topic have come or are known to be lost; while idle: since the last episode."""
    if topic not in status.topics:
        return 0
    index = status.topics.index(topic)
    return status.received[index] + status.dropped[index]


def texts(messages: list[String]) -> list[str]:
    return [message.data for message in messages]


def test_published_messages_are_in_the_bag_and_convert(bench: Bench, recorder: Any, tmp_path: Path) -> None:
    statuses: list[RecorderStatus] = []
    bench.node.create_subscription(RecorderStatus, "recorder/status", statuses.append, whole(LATCHED))
    bench.publish("instruction", String(data="lift the blue cube"))
    bench.until(lambda: statuses and accounted(statuses[-1], "/instruction") == 1, "the instruction to be recorded")
    started = bench.begin(instruction="")
    assert started.success, started.message
    # Its start, the sentence, and the parameters of the two nodes, which the recorder asks for.
    bench.until(lambda: statuses[-1].state == "recording" and statuses[-1].messages == 4, "the parameters")
    refused = bench.call(bench.start, StartEpisode.Request(instruction="again"))
    assert not refused.success and started.episode_id in refused.message

    frames = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    for index, frame in enumerate(frames):
        bench.step(index, frame)
        bench.executor.spin_once(timeout_sec=0.01)
    bad = bench.call(bench.stop, StopEpisode.Request(outcome=0, score=1.5))
    assert not bad.success and "1.5" in bad.message
    stopped = bench.call(bench.stop, StopEpisode.Request(outcome=StopEpisode.Request.SUCCESS, score=1.0, note="n"))
    assert stopped.success, stopped.message
    bag = Path(stopped.path)
    assert bag == tmp_path / "bags" / started.episode_id
    assert list(bag.parent.glob(".recording/*")) == []

    found = contents(bag)
    parameters = {
        event["node"]: event["parameters"] for event in map(json.loads, texts(found.pop("episode/parameters")))
    }
    assert parameters["/recorder_node"]["compression"] == "zstd" and not parameters["/bench"]["use_sim_time"]
    events = [json.loads(event.data) for event in found.pop("episode")]
    assert [event["event"] for event in events] == ["start", "stop"]
    assert events[1]["outcome"] == "success" and events[1]["dropped"] == {} == events[1]["gaps"]
    assert events[0]["details"]["software"]["commit"]
    assert found == bench.sent
    assert stopped.messages == sum(map(len, found.values())) + len(parameters) + 2

    converted = convert_bag(bag, Options(image_size=None, image_encoding="png"))
    assert converted.bad is None
    (episode,) = converted.episodes
    assert episode.episode_id == started.episode_id and episode.instructions[0] == "lift the blue cube"
    np.testing.assert_array_equal([decode_image(data) for data in episode.images], frames)
    np.testing.assert_allclose(episode.actions[:, 0], 0.001 * np.arange(1, 21), atol=1e-9)


def test_a_discarded_episode_leaves_no_bag(bench: Bench, recorder: Any, tmp_path: Path) -> None:
    first = bench.begin()
    frame = np.zeros((8, 8, 3), np.uint8)
    bench.step(0, frame)
    discarded = bench.call(bench.stop, StopEpisode.Request(outcome=StopEpisode.Request.DISCARD))
    assert discarded.success and first.episode_id in discarded.message
    second = bench.begin()
    bench.sent.clear()
    bench.step(1, frame)
    kept = bench.call(bench.stop, StopEpisode.Request(outcome=StopEpisode.Request.FAILURE, score=0.5))
    bags = sorted(path.name for path in (tmp_path / "bags").iterdir() if not path.name.startswith("."))
    assert kept.success and bags == [second.episode_id]
    found = contents(Path(kept.path))
    assert found["camera/image_raw"] == bench.sent["camera/image_raw"]


def set_parameter(bench: Bench, name: str, value: ParameterValue) -> None:
    client = bench.node.create_client(SetParameters, "recorder_node/set_parameters")
    answer = bench.call(client, SetParameters.Request(parameters=[Parameter(name=name, value=value)]))
    assert answer.results[0].successful, answer.results[0].reason


def test_static_transforms_parameters_losses_and_counters(bench: Bench, recorder: Any) -> None:
    """What a person looks at, and what a later reader needs: in every bag of the session, not only the first."""
    statuses: list[RecorderStatus] = []
    bench.node.create_subscription(RecorderStatus, "recorder/status", statuses.append, whole(LATCHED))
    # Here without tf2_msgs, which no registry carries: what matters is that each publisher's newest is kept.
    for frame in ("camera", "gripper"):
        statics = bench.node.create_publisher(TransformStamped, "/tf_static", LATCHED)
        bench.publishers[f"static {frame}"] = statics
        statics.publish(TransformStamped(child_frame_id=frame))
    frame = np.zeros((8, 8, 3), np.uint8)
    bench.until(lambda: statuses and accounted(statuses[-1], "/tf_static") == 2, "the static transforms")
    bags = []
    for episode in range(2):
        bench.begin()
        assert statuses[-1].state in ("idle", "recording")
        for index in range(10):
            bench.step(index, frame)
            bench.spin(0.02)
        set_parameter(bench, "target_episodes", ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=50))
        if episode:  # a recorder that does not get round to it, and a queue of 50 messages for each topic
            recorder.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, recorder.pid, os.WSTOPPED)
            for index in range(10, 100):
                bench.step(index, frame)
            recorder.send_signal(signal.SIGCONT)
            bench.until(lambda: accounted(statuses[-1], "/camera/image_raw") == 100, "what was sent meanwhile")
            bench.step(100, frame)
        sent = 101 if episode else 10
        bench.until(lambda s=sent: accounted(statuses[-1], "/camera/image_raw") == s, "the last picture")
        assert statuses[-1].state == "recording" and statuses[-1].target == 50
        stopped = bench.call(bench.stop, StopEpisode.Request(outcome=0, score=1.0))
        bags.append(contents(Path(stopped.path)))
    for bag in bags:
        assert {t.child_frame_id for t in bag["tf_static"]} == {"camera", "gripper"}
        events = [json.loads(text) for text in texts(bag["episode/parameters"])]
        mine = [s["parameters"]["target_episodes"] for s in events if s["node"] == "/recorder_node"]
        assert mine[-1] == 50
    events = [[json.loads(text) for text in texts(bag["episode"])] for bag in bags]
    assert events[0][1]["dropped"] == {}
    assert len(bags[1]["camera/image_raw"]) + events[1][1]["dropped"]["/camera/image_raw"] == 101
    assert "DROPPED" in stopped.message and "of /camera/image_raw" in stopped.message
    bench.until(lambda: statuses[-1].state == "idle" and statuses[-1].success == 2, "the counter")
    last = statuses[-1]
    assert last.reason == stopped.message and last.free_gib > 0 and last.missing == []
    assert last.dropped[last.topics.index("/camera/image_raw")] > 0


def test_marking_publishes_events_and_writes_no_bag(
    bench: Bench, tmp_path: Path, start_node: Callable[..., Any]
) -> None:
    parameters = ("autostart:=true", f"output:={tmp_path}/bags", "min_free_gib:=0.0", "write:=false")
    start_node("recorder_node", "--ros-args", *(word for p in parameters for word in ("-p", p)))
    events: list[String] = []
    bench.node.create_subscription(String, "episode", events.append, whole(LATCHED))
    started = bench.begin("lift the red cube")
    bench.until(lambda: len(events) == 1, "the first event")
    bench.step(0, np.zeros((8, 8, 3), np.uint8))
    assert started.success and started.path == ""
    assert bench.call(bench.stop, StopEpisode.Request(outcome=StopEpisode.Request.DISCARD)).success
    bench.until(lambda: len(events) == 2, "the two events")
    first, second = map(json.loads, texts(events))
    assert (first["event"], first["instruction"]) == ("start", "lift the red cube")
    assert (second["event"], second["outcome"], second["episode_id"]) == ("stop", "discard", started.episode_id)
    assert list((tmp_path / "bags").iterdir()) == []


def test_a_nearly_full_disk_refuses_an_episode(
    bench: Bench, tmp_path: Path, start_node: Callable[..., Any], small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(24)
    parameters = ("autostart:=true", f"output:={disk}/bags", "min_free_gib:=0.01", "compression:=none")
    start_node("recorder_node", "--ros-args", *(word for p in parameters for word in ("-p", p)))
    statuses: list[RecorderStatus] = []
    bench.node.create_subscription(RecorderStatus, "recorder/status", statuses.append, whole(LATCHED))
    started = bench.begin()
    frame = np.zeros((240, 320, 3), np.uint8)
    for index in range(300):  # about 5 MB a second
        bench.step(index, frame)
        bench.spin(0.04)
        if Path(started.path).exists():
            break
    bench.until(lambda: statuses and statuses[-1].state == "idle", "the end of the episode")
    assert statuses[-1].unfinished == 1
    assert "ended early" in statuses[-1].reason and "make room" in statuses[-1].reason
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    assert free > 2**22  # the 10 MiB kept back, less what was written between two looks
    found = contents(Path(started.path))
    assert json.loads(found["episode"][-1].data)["outcome"] == "unfinished"
    assert found["camera/image_raw"] == bench.sent["camera/image_raw"][: len(found["camera/image_raw"])]
    refused = bench.call(bench.start, StartEpisode.Request(instruction="next"))
    assert not refused.success and "make room" in refused.message


def test_a_terminated_recorder_closes_its_episode_as_unfinished(bench: Bench, recorder: Any) -> None:
    started = bench.begin()
    bench.step(0, np.zeros((8, 8, 3), np.uint8))
    # The instruction is answered for by the start; one more call proves that the step has been taken in.
    bench.call(bench.stop, StopEpisode.Request(outcome=9))
    recorder.terminate()
    assert recorder.wait(20) == 0
    assert convert_bag(Path(started.path), Options()).dropped == {started.episode_id: "unfinished"}


def test_a_killed_recorder_leaves_a_bag_that_recovers(bench: Bench, recorder: Any, tmp_path: Path) -> None:
    started = bench.begin()
    frames = np.random.default_rng(0).integers(0, 256, (40, 256, 256, 3), dtype=np.uint8)
    begin = time.monotonic()
    for index, frame in enumerate(frames):
        bench.step(index, frame)
        bench.until(lambda due=begin + 0.075 * (index + 1): time.monotonic() >= due, "the next step")
    recorder.send_signal(signal.SIGKILL)
    recorder.wait(20)
    left = tmp_path / "bags" / ".recording" / started.episode_id
    assert left.is_dir() and not Path(started.path).exists()

    info = recover(left)
    assert info.path == Path(started.path)
    found = contents(info.path)
    sent = bench.sent["camera/image_raw"]
    # At most the last, unfinished chunk is lost: 1 s or 1 MiB of it.
    assert len(found["camera/image_raw"]) >= 40 - 15
    assert found["camera/image_raw"] == sent[: len(found["camera/image_raw"])]
    converted = convert_bag(info.path, Options(keep_failed=True))
    assert converted.bad is None and converted.episodes[0].outcome == "unfinished"
    assert len(converted.episodes[0].images) >= 25


def test_configure_refuses_in_one_line(tmp_path: Path, ros_domain: int) -> None:
    command = [sys.executable, "-m", "openvla_ros.nodes.recorder.recorder_node", "--ros-args"]
    command += ["-p", "autostart:=true", "-p", f"output:={tmp_path}", "-p", "min_free_gib:=900000.0"]
    environment = os.environ | {"ROS_DOMAIN_ID": str(ros_domain)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "min_free_gib" in done.stderr and "make room" in done.stderr


def test_a_filling_disk_ends_the_episode_and_keeps_it(
    bench: Bench, tmp_path: Path, ros_domain: int, start_node: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    """The limit is moved above what is free while an episode runs, as if the disk had filled."""
    recorder = start_node(
        "recorder_node",
        "--ros-args",
        "-p",
        "autostart:=true",
        "-p",
        f"output:={tmp_path}/bags",
        "-p",
        "min_free_gib:=0.0",
    )
    started = bench.begin()
    bench.step(0, np.zeros((8, 8, 3), np.uint8))
    client = bench.node.create_client(SetParameters, "recorder_node/set_parameters")
    value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=900_000.0)
    limit = Parameter(name="min_free_gib", value=value)
    answer = bench.call(client, SetParameters.Request(parameters=[limit]))
    assert answer.results[0].successful, answer.results[0].reason
    bench.until(lambda: Path(started.path).exists(), "the end of the episode")
    wait_for(lambda: "ended early" in recorder.output and "make room" in recorder.output, 10.0, "the reason")
    refused = bench.call(bench.start, StartEpisode.Request(instruction="next"))
    assert not refused.success and "make room" in refused.message
    assert convert_bag(Path(started.path), Options()).dropped == {started.episode_id: "unfinished"}
