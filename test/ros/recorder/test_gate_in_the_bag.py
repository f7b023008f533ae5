"""Refusals, clips and resets of the emergency stop are on /diagnostics, and in the recorded bag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from openvla_msgs.msg import ActionChunk, RecorderStatus, SafetyState
from openvla_msgs.srv import ResetEStop, StartEpisode, StopEpisode
from rclpy.serialization import deserialize_message
from rosbags.highlevel import AnyReader
from std_msgs.msg import Bool

from openvla_ros.geometry import Pose
from openvla_ros.nodes.common import action_messages, conversions
from openvla_ros.nodes.common.qos import LATCHED, STATE, STREAM

pytestmark = pytest.mark.ros
HERE = Pose.of((0.5, 0.0, 0.3), (1.0, 0.0, 0.0, 0.0))


def test_refusals_clips_and_resets_are_diagnosed_and_recorded(
    start_node: Any, ros_node: Any, spin_until: Any, listen: Any, call: Any, meet: Any, tmp_path: Path
) -> None:
    start_node(
        "bridge_node", "--ros-args", *["-p", "autostart:=true", "-p", "enabled:=true", "-p", "watchdog.state:=10.0"]
    )
    recording = {"autostart": "true", "output": tmp_path, "required_topics": '["robot/ee_pose"]', "min_free_gib": "0.0"}
    start_node("recorder_node", "--ros-args", *[x for k, v in recording.items() for x in ("-p", f"{k}:={v}")])
    states = listen(SafetyState, "safety/state", LATCHED)
    recorder = listen(RecorderStatus, "recorder/status", LATCHED)
    health: list[DiagnosticArray] = listen(DiagnosticArray, "/diagnostics", 20)
    robot = ros_node.create_publisher(PoseStamped, "robot/ee_pose", STREAM)
    chunks = ros_node.create_publisher(ActionChunk, "policy/action_chunk", STATE)
    e_stop = ros_node.create_publisher(Bool, "e_stop", STATE)

    def now() -> int:
        return int(ros_node.get_clock().now().nanoseconds)

    ros_node.create_timer(0.02, lambda: robot.publish(conversions.pose_message(HERE, "panda_link0", now())))
    spin_until(lambda: states and states[-1].state == SafetyState.READY, 120.0, "READY")
    # Two of the bridge's subscriptions match this e_stop publisher, and one of the recorder's.
    subscriptions = ((chunks, 2), (e_stop, 3))
    spin_until(lambda: all(p.get_subscription_count() == n for p, n in subscriptions), 60.0, "bridge and recorder")
    meet("bridge_node")
    meet("recorder_node")
    expected = {"/safety/state", "/diagnostics"}

    def recorded() -> bool:
        counts = dict(zip(recorder[-1].topics, recorder[-1].received, strict=True)) if recorder else {}
        return all(counts.get(topic) for topic in expected)

    spin_until(recorded, 60.0, "the recorder to receive the bridge's topics")
    begun = call(StartEpisode, "start_episode", instruction="lift the red cube")
    assert begun.success, begun.message

    def send(sequence: int, x: float, frame: str) -> None:
        chunks.publish(
            action_messages.chunk_message(
                [(x, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)], frame=frame, at_ns=now(),
                observation=conversions.time_message(now()),
                sequence=sequence, source="policy", instruction="lift the red cube", period=0.2,
            )
        )  # fmt: skip

    def reported(**wanted: str) -> bool:
        """Whether the bridge's newest diagnostics have these values."""
        said = [s for array in health for s in array.status if s.name == "/bridge_node"]
        return bool(said) and wanted.items() <= {v.key: v.value for v in said[-1].values}.items()

    send(1, 0.01, "nowhere")
    spin_until(lambda: states[-1].refused == ["frame"], 20.0, "the refusal")
    spin_until(lambda: reported(refused="1", refused_since_activation="frame 1"), 20.0, "the refusal on /diagnostics")
    spin_until(lambda: states[-1].state == SafetyState.READY, 20.0, "READY")
    send(2, 1.0, "panda_link0")
    spin_until(lambda: "max_translation" in states[-1].clipped, 20.0, "the clip")
    spin_until(lambda: reported(clipped_since_activation="max_translation 1"), 20.0, "the clip on /diagnostics")
    e_stop.publish(Bool(data=True))
    e_stop.publish(Bool(data=False))
    spin_until(lambda: "waiting for a reset" in states[-1].reason, 20.0, "the emergency stop")
    assert call(ResetEStop, "bridge_node/reset_e_stop", operator_name="Ada").success
    spin_until(lambda: states[-1].e_stop_reset_by == "Ada", 20.0, "the reset")
    at = len(health)
    spin_until(lambda: any(s.name == "/bridge_node" for a in health[at:] for s in a.status), 20.0, "diagnostics of it")
    ended = call(StopEpisode, "stop_episode", outcome=StopEpisode.Request.FAILURE)
    assert ended.success, ended.message

    with AnyReader([Path(ended.path)]) as reader:
        kept = [c for c in reader.connections if c.topic.lstrip("/") in ("safety/state", "e_stop", "diagnostics")]
        raw = [(c.topic.lstrip("/"), bytes(data)) for c, _, data in reader.messages(kept)]
    said = [deserialize_message(data, SafetyState) for topic, data in raw if topic == "safety/state"]
    assert any(s.refused == ["frame"] and s.reason.startswith("refused: frame 'nowhere'") for s in said)
    assert any("max_translation" in s.clipped for s in said) and said[-1].refused_count == 1
    assert any(s.state == SafetyState.ESTOP for s in said) and said[-1].e_stop_reset_by == "Ada"
    arrays = [deserialize_message(data, DiagnosticArray) for topic, data in raw if topic == "diagnostics"]
    newest = [status for array in arrays for status in array.status if status.name == "/bridge_node"][-1]
    values = {value.key: value.value for value in newest.values}
    assert values["refused_since_activation"] == "frame 1" and "max_translation 1" in values["clipped_since_activation"]
    assert values["emergency_stop_reset"].startswith("by Ada at ")
    assert [deserialize_message(data, Bool).data for topic, data in raw if topic == "e_stop"] == [True, False]
