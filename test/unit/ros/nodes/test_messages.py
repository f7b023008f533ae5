"""Outgoing messages with rclpy's field checks on: right types and lengths, or a refusal that names the field."""

from __future__ import annotations

import ast
import math
import os

import numpy as np
import pytest
from openvla_msgs.msg import SafetyState

from openvla_ros.geometry import Pose
from openvla_ros.nodes.common import action_messages, conversions, image_messages
from openvla_ros.robots.adapter import Opening, PoseTarget
from openvla_ros.safety.gate import Gate, State

POSE = Pose.of((0.5, 0.1, 0.2), (1.0, 0.0, 0.0, 0.0))
BAD = [math.nan, math.inf, -math.inf]


@pytest.fixture(autouse=True)
def field_checks():
    assert os.environ.get("ROS_PYTHON_CHECK_FIELDS") == "1", "without them wrong types pass unnoticed"


def test_numpy_scalars_and_integers_become_floats():
    message = action_messages.delta_message(np.array([1, 2, 3, 4, 5, 6, 1], np.float32))
    assert action_messages.read_delta(message) == (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0)
    assert all(type(v) is float for v in action_messages.read_delta(message))
    joints = conversions.joint_message(("a", "b"), np.zeros(2, np.float32), np.ones(2, np.int64), 5)
    assert list(joints.position) == [0.0, 0.0] and list(joints.velocity) == [1.0, 1.0]


@pytest.mark.parametrize("bad", BAD)
def test_values_that_are_not_finite_become_no_messages(bad):
    with pytest.raises(ValueError, match="action is"):
        action_messages.delta_message([0, 0, 0, 0, bad, 0, 0])
    with pytest.raises(ValueError, match="gripper opening"):
        conversions.opening_message(bad)
    with pytest.raises(ValueError, match="position is"):
        conversions.pose_message(Pose((bad, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)), "base", 0)
    with pytest.raises(ValueError, match="period is"):
        action_messages.chunk_message([[0] * 7], frame="b", at_ns=0, observation=conversions.time_message(0),
                               sequence=0, source="policy", instruction="", period=bad)  # fmt: skip


def test_wrong_lengths_are_refused():
    with pytest.raises(ValueError, match="action has 6 values, not 7"):
        action_messages.delta_message([0.0] * 6)
    with pytest.raises(ValueError, match="joint position has 1 values, not 2"):
        conversions.joint_message(("a", "b"), [0.0], [], 0)
    with pytest.raises(ValueError, match="camera matrix has 8 values"):
        image_messages.camera_info_message(np.zeros(8), 4, 4, "c", 0)
    with pytest.raises(ValueError, match="at least one action"):
        action_messages.chunk_message([], frame="b", at_ns=0,
                observation=conversions.time_message(0), sequence=0,
                               source="policy", instruction="", period=0.2)  # fmt: skip


def test_stamps_round_trip_to_the_nanosecond():
    for stamp in (0, 1, 999_999_999, 1_795_345_957_184_315_750):
        assert conversions.stamp_ns(conversions.time_message(stamp)) == stamp
    with pytest.raises(ValueError, match="negative"):
        conversions.time_message(-1)


def test_a_pose_round_trips():
    pose, stamp = conversions.read_pose(conversions.pose_message(POSE, "base", 77))
    assert pose == POSE and stamp == 77
    broken = conversions.pose_message(POSE, "base", 77)
    broken.pose.orientation.x = 0.0
    with pytest.raises(ValueError, match="not a pose"):
        conversions.read_pose(broken)


def test_a_chunk_round_trips():
    rows = np.arange(14, dtype=np.float32).reshape(2, 7) / 16
    message = action_messages.chunk_message(
        rows, frame="panda_link0", at_ns=9,
                observation=conversions.time_message(5), sequence=np.int64(3), source="policy",
        instruction="lift", period=np.float32(0.25), statistics=("sim", "abc"), latencies={"total": np.float64(0.5)},
    )  # fmt: skip
    chunk = action_messages.read_chunk(message)
    assert chunk.actions == tuple(map(tuple, rows.tolist()))
    assert (chunk.stamp_ns, chunk.observation_ns, chunk.sequence, chunk.period) == (9, 5, 3, 0.25)
    assert (message.latency_total, message.latency_inference, message.statistics_hash) == (0.5, 0.0, "abc")


def test_commands_become_the_messages_of_their_topics():
    target = conversions.command_message(PoseTarget(POSE, "base", 3))
    assert isinstance(target, conversions.MESSAGE_OF[PoseTarget]) and target.header.frame_id == "base"
    assert conversions.command_message(Opening(1)).data == 1.0
    with pytest.raises(ValueError, match="opening 1.5 is not 0 … 1"):
        conversions.command_message(Opening(1.5))
    with pytest.raises(TypeError, match="no message for a str"):
        conversions.command_message("move")


def test_an_image_message_has_the_pixels():
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    message = image_messages.image_message(picture, "camera", 1)
    assert (message.height, message.width, message.step, message.encoding) == (4, 6, 18, "rgb8")
    assert bytes(message.data) == picture.tobytes()
    for wrong in (picture[..., 0], picture.astype(np.float32), np.zeros((4, 6, 4), np.uint8)):
        with pytest.raises(ValueError, match="an image is uint8"):
            image_messages.image_message(wrong, "camera", 1)


def test_gate_states_match_the_message():
    for state in State:
        assert getattr(SafetyState, state.name) == state
    message = action_messages.safety_message(Gate(state=State.EXECUTING, clipped=("box_z",)), "blocking", "base", 4)
    assert message.executing and message.clipped == ["box_z"] and message.state == SafetyState.EXECUTING


@pytest.mark.parametrize("bad", BAD)
def test_commands_of_malformed_values_are_refused(bad):
    message = conversions.command_message(PoseTarget(Pose((np.float32(0.5), 1, 0.2), (1, 0, 0, 0)), "base", 5))
    assert [type(v) for v in (message.pose.position.x, message.pose.position.y)] == [float, float]
    assert conversions.command_message(Opening(np.float32(1))).data == 1.0
    for pose in (
        Pose((bad, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)),
        Pose((0.0, 0.0, 0.0), (bad, 0.0, 0.0, 1.0)),
        Pose((0.0, 0.0), (0.0, 0.0, 0.0, 1.0)),  # type: ignore[arg-type]
        Pose((0.0, 0.0, 0.0), (0.0, 0.0, 1.0)),  # type: ignore[arg-type]
        Pose((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.5)),
    ):
        with pytest.raises(ValueError, match="position|quaternion"):
            conversions.command_message(PoseTarget(pose, "base", 5))
    for opening in (bad, -0.1, 1.1):
        with pytest.raises(ValueError, match="gripper opening"):
            conversions.command_message(Opening(opening))
    with pytest.raises(TypeError, match="no message for a str"):
        conversions.command_message("go")  # type: ignore[arg-type]


def test_only_the_message_modules_build_commands(root):
    """Commands and goals are built in `nodes.common`'s message modules, which convert and check every number."""
    commands = ("PoseStamped", "TwistStamped", "Twist", "Point", "Vector3", "Quaternion", "Float64", "JointState")
    nodes = root / "src" / "openvla_ros" / "openvla_ros" / "nodes"
    built_in = {
        path.relative_to(nodes).as_posix()
        for path in nodes.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and (call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")) in commands
    }
    assert built_in == {"common/conversions.py", "common/action_messages.py"}
