"""Reading bags as episodes, and deriving their steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bag_factory import PERIOD, START, BagMaker, Demo, fill, random_demo, write_demo
from hypothesis import given, strategies as st
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer

from openvla_training.bags.actions import NOOP_NORM, StepOptions, make_steps, moving
from openvla_training.bags.alignment import nearest
from openvla_training.bags.episodes import BadBag, Topics, find_bags
from openvla_training.bags.reading import read_frames, read_recordings
from openvla_training.rotations import pose_differences, quaternions_to_matrices, slerp, to_base, to_end_effector

CHUNKS = ("policy/action_chunk", "expert/action_chunk")


def demo(steps: int = 6, seed: int = 0, **changes: object) -> Demo:
    return random_demo(np.random.default_rng(seed), steps, **changes)


def steps_of(path: Path, actions: str = "policy/action_chunk", **options: object):
    topics = () if actions == "achieved" else CHUNKS
    (recording,) = read_recordings(path, topics)
    settings = {"drop_noops": False} | options
    return make_steps(recording, StepOptions(actions=actions, **settings))  # type: ignore[arg-type]


def test_recording_has_every_stream_on_the_stamp_clock(tmp_path: Path) -> None:
    given_demo = demo()
    write_demo(tmp_path / "bag", given_demo)
    (recording,) = read_recordings(tmp_path / "bag", CHUNKS)
    assert recording.instruction == "lift the red cube" and recording.outcome == "success"
    assert recording.score == 1.0
    assert recording.image_stamps.tolist() == given_demo.stamps
    np.testing.assert_array_equal(recording.ee_pose.values, given_demo.poses)
    np.testing.assert_array_equal(recording.gripper.values[:, 0], given_demo.openings)
    np.testing.assert_array_equal([chunk.actions[0] for chunk in recording.chunks[CHUNKS[0]]], given_demo.actions)
    frames = list(read_frames(recording, [0, 2, 2, 5]))
    np.testing.assert_array_equal(frames, given_demo.frames[[0, 2, 2, 5]])


@pytest.mark.parametrize("namespace", ["", "/", "/lab/arm2"])
def test_topics_match_under_any_namespace(tmp_path: Path, namespace: str) -> None:
    write_demo(tmp_path / "bag", demo(namespace=namespace.rstrip("/")))
    assert len(steps_of(tmp_path / "bag").frames) == 6


def test_ambiguous_topic_needs_its_full_name(tmp_path: Path) -> None:
    maker = BagMaker(tmp_path / "bag", "/left")
    fill(maker, demo())
    maker.namespace = "/right"
    maker.connections.clear()
    maker.image(START, np.zeros((4, 4, 3), np.uint8))
    maker.writer.close()
    with pytest.raises(BadBag, match="/left/camera/image_raw, /right/camera/image_raw"):
        read_recordings(tmp_path / "bag", CHUNKS)
    (recording,) = read_recordings(tmp_path / "bag", CHUNKS, Topics(image="/left/camera/image_raw"))
    assert len(recording.image_stamps) == 6


def test_one_bag_can_hold_several_episodes(tmp_path: Path) -> None:
    first, second = demo(4, 1), demo(5, 2, start=START + 60 * 10**9, outcome="failure", instruction="other")
    maker = BagMaker(tmp_path / "bag")
    ids = [fill(maker, first), fill(maker, second)]
    maker.writer.close()
    recordings = read_recordings(tmp_path / "bag", CHUNKS)
    assert [r.episode_id for r in recordings] == ids
    assert [r.outcome for r in recordings] == ["success", "failure"]
    assert [r.instruction for r in recordings] == ["lift the red cube", "other"]
    np.testing.assert_array_equal(list(read_frames(recordings[1], [0, 4])), second.frames[[0, 4]])


def test_a_bag_without_episode_messages_is_one_episode(tmp_path: Path) -> None:
    write_demo(tmp_path / "bag", demo(skip_topics=("episode",)))
    (recording,) = read_recordings(tmp_path / "bag", CHUNKS)
    assert recording.outcome == "unknown" and recording.instruction == "lift the red cube"
    assert recording.episode_id.startswith("bag-")


def test_episode_without_end_is_unfinished(tmp_path: Path) -> None:
    write_demo(tmp_path / "bag", demo(outcome=None))
    (recording,) = read_recordings(tmp_path / "bag", CHUNKS)
    assert recording.outcome == "unfinished" and len(recording.image_stamps) == 6


def test_sqlite_bag_gives_the_same_steps_as_mcap(tmp_path: Path) -> None:
    write_demo(tmp_path / "mcap", demo())
    writer = Writer(tmp_path / "sqlite", version=9, storage_plugin=StoragePlugin.SQLITE3)
    with writer, AnyReader([tmp_path / "mcap"]) as reader:
        made = {c.id: writer.add_connection(c.topic, c.msgtype, typestore=reader.typestore) for c in reader.connections}
        for connection, log_time, raw in reader.messages():
            writer.write(made[connection.id], log_time, raw)
    one, two = steps_of(tmp_path / "mcap"), steps_of(tmp_path / "sqlite")
    np.testing.assert_array_equal(one.actions, two.actions)
    np.testing.assert_array_equal(one.states, two.states)


def test_labels_come_from_the_named_topic_for_the_same_frame(tmp_path: Path) -> None:
    given_demo = demo()
    write_demo(tmp_path / "bag", given_demo)
    steps = steps_of(tmp_path / "bag", "expert/action_chunk")
    np.testing.assert_array_equal(steps.actions, given_demo.labels)
    np.testing.assert_array_equal(steps.frames, range(6))
    # States lie at every tenth of the pose samples: those of the frames' own stamps.
    np.testing.assert_array_equal(steps.states[:, :7], given_demo.poses[::10])
    np.testing.assert_array_equal(steps.states[:, 7], given_demo.openings[::10])
    assert steps.instructions == ["lift the red cube"] * 6


def test_recorder_instruction_has_priority_over_chunks(tmp_path: Path) -> None:
    maker = BagMaker(tmp_path / "bag")
    chunk = maker.chunk
    maker.chunk = lambda topic, stamp, rows, text, period: chunk(topic, stamp, rows, "lift red", period)  # type: ignore[method-assign]
    fill(maker, demo(instruction="raise the red cube"))
    maker.writer.close()
    assert steps_of(tmp_path / "bag").instructions == ["raise the red cube"] * 6


def test_only_executed_chunks_become_steps(tmp_path: Path) -> None:
    write_demo(tmp_path / "bag", demo(executed=[True, False, True, True, False, True]))
    steps = steps_of(tmp_path / "bag")
    assert steps.frames.tolist() == [0, 2, 3, 5] and steps.left_out == {"not executed": 2}


def test_last_chunk_counts_unless_it_was_refused(tmp_path: Path) -> None:
    maker = BagMaker(tmp_path / "bag")
    given_demo = demo(executed=[True] * 5 + [False])
    fill(maker, given_demo)
    maker.writer.close()
    assert steps_of(tmp_path / "bag").frames.tolist() == [0, 1, 2, 3, 4]
    write_demo(tmp_path / "other", demo(skip_topics=("safety/state",)))
    assert steps_of(tmp_path / "other").frames.tolist() == list(range(6))


def bad(tmp_path: Path, given_demo: Demo, **options: object) -> str:
    """The reason for which a demo does not convert."""
    write_demo(tmp_path / "bag", given_demo)
    with pytest.raises(BadBag) as caught:
        steps_of(tmp_path / "bag", **options)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("topic", ["camera/image_raw", "robot/ee_pose", "gripper/state", "policy/action_chunk"])
def test_missing_topic_is_reported_with_existing_ones(tmp_path: Path, topic: str) -> None:
    reason = bad(tmp_path, demo(skip_topics=(topic,)))
    assert f"topic {topic} is missing" in reason and "/safety/state" in reason


def test_pose_that_is_not_finite_is_a_bad_bag(tmp_path: Path) -> None:
    poses = demo().poses.copy()
    poses[7, 2] = np.nan
    assert "not a finite number at message 7" in bad(tmp_path, demo(poses=poses))


def test_late_states_are_a_bad_bag(tmp_path: Path) -> None:
    reason = bad(tmp_path, demo(state_delay=500_000_000))
    assert "no state in time" in reason and "allowed 0.1 s" in reason


def test_missing_instruction_is_a_bad_bag(tmp_path: Path) -> None:
    assert "no instruction" in bad(tmp_path, demo(instruction="", skip_topics=("episode", "instruction")))


def test_wrong_rate_is_a_bad_bag(tmp_path: Path) -> None:
    assert "0.200 s, --rate 10.0 means 0.100 s" in bad(tmp_path, demo(), rate=10.0)


def test_time_going_backwards_is_a_bad_bag(tmp_path: Path) -> None:
    maker = BagMaker(tmp_path / "bag")
    fill(maker, demo())
    maker.image(START, np.zeros((32, 32, 3), np.uint8), delay=6 * PERIOD)
    maker.writer.close()
    with pytest.raises(BadBag, match=r"image_raw: time goes back by 1.000 s at message 6"):
        read_recordings(tmp_path / "bag", CHUNKS)


def test_images_of_changing_size_are_a_bad_bag(tmp_path: Path) -> None:
    maker = BagMaker(tmp_path / "bag")
    fill(maker, demo())
    maker.image(START + 6 * PERIOD, np.zeros((4, 4, 3), np.uint8))
    maker.writer.close()
    (recording,) = read_recordings(tmp_path / "bag", CHUNKS)
    with pytest.raises(BadBag, match=r"image 6 is \(4, 4, 3\), those before are \(32, 32, 3\)"):
        list(read_frames(recording, [5, 6]))


def test_truncated_bag_error_names_the_recovery_command(tmp_path: Path) -> None:
    write_demo(tmp_path / "bag", demo())
    file = tmp_path / "bag" / "bag.mcap"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(BadBag, match="openvla-recover"):
        read_recordings(tmp_path / "bag", CHUNKS)


def test_find_bags_skips_recordings_in_progress(tmp_path: Path) -> None:
    write_demo(tmp_path / "session" / "b", demo())
    write_demo(tmp_path / "session" / "a", demo())
    maker = BagMaker(tmp_path / "session" / "open")
    found = find_bags([tmp_path, tmp_path / "session" / "a"])
    assert [path.name for path in found] == ["a", "b"]
    maker.writer.discard()
    with pytest.raises(FileNotFoundError, match="absent"):
        find_bags([tmp_path / "absent"])


def test_achieved_actions_connect_consecutive_poses(tmp_path: Path) -> None:
    given_demo = demo(8)
    write_demo(tmp_path / "bag", given_demo)
    steps = steps_of(tmp_path / "bag", "achieved", rate=5.0)
    assert steps.frames.tolist() == list(range(7))
    poses, openings = given_demo.poses[::10], given_demo.openings[::10]
    np.testing.assert_allclose(steps.states[:, :3] + steps.actions[:, :3], poses[1:, :3], atol=1e-12)
    turned = fixed_xyz(steps.actions[:, 3:6]) @ quaternions_to_matrices(poses[:-1, 3:])
    np.testing.assert_allclose(turned, quaternions_to_matrices(poses[1:, 3:]), atol=1e-9)
    np.testing.assert_array_equal(steps.actions[:, 6], openings[1:])


def test_achieved_uses_recorded_gripper_commands(tmp_path: Path) -> None:
    maker = BagMaker(tmp_path / "bag")
    given_demo = demo(8)
    fill(maker, given_demo)
    for index in (2, 5):
        command = maker.make("std_msgs/msg/Float64", data=float(index == 5))
        maker.put("gripper/command", given_demo.stamps[index] - 30_000_000, command)
    maker.writer.close()
    gripper = steps_of(tmp_path / "bag", "achieved", rate=5.0).actions[:, 6]
    np.testing.assert_array_equal(gripper[1:], [0, 0, 0, 1, 1, 1])
    assert gripper[0] == given_demo.openings[10]


def test_achieved_leaves_out_steps_across_video_gaps(tmp_path: Path) -> None:
    maker = BagMaker(tmp_path / "bag")
    given_demo = demo(20)
    # The camera drops frames 7 and 8.
    image = maker.image
    maker.image = lambda stamp, frame, **k: None if stamp in given_demo.stamps[7:9] else image(stamp, frame, **k)  # type: ignore[method-assign]
    fill(maker, given_demo)
    maker.writer.close()
    steps = steps_of(tmp_path / "bag", "achieved", rate=5.0)
    assert steps.left_out == {"at a gap in the video": 3}
    # Frame numbers count what the bag holds: 0..5 before the gap, 7.. after it.
    assert steps.frames.tolist() == [0, 1, 2, 3, 4, 5, *range(7, 17)]


def fixed_xyz(angles: np.ndarray) -> np.ndarray:
    """R = Rz Ry Rx, written out from quaternions of the single turns."""
    total = np.tile(np.eye(3), (len(angles), 1, 1))
    for axis in range(3):
        quaternion = np.zeros((len(angles), 4))
        quaternion[:, axis], quaternion[:, 3] = np.sin(angles[:, axis] / 2), np.cos(angles[:, axis] / 2)
        total = quaternions_to_matrices(quaternion) @ total
    return total


@given(st.integers(0, 2**32 - 1))
def test_pose_differences_compose_to_the_poses(seed: int) -> None:
    rng = np.random.default_rng(seed)
    poses = rng.normal(size=(5, 7))
    deltas = pose_differences(poses)
    turned = fixed_xyz(deltas[:, 3:]) @ quaternions_to_matrices(poses[:-1, 3:])
    np.testing.assert_allclose(turned, quaternions_to_matrices(poses[1:, 3:]), atol=1e-6)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30), st.lists(st.integers(-50, 1050), max_size=30))
def test_nearest_has_the_smallest_distance(stamps: list[int], at: list[int]) -> None:
    ordered = np.array(sorted(stamps))
    chosen = nearest(ordered, np.array(at, np.int64))
    for time, index in zip(at, chosen, strict=True):
        assert abs(ordered[index] - time) == np.abs(ordered - time).min()


def test_noop_has_no_motion_and_an_unchanged_gripper() -> None:
    rows = np.zeros((6, 7))
    rows[:, 6] = [1, 1, 1, 0, 0, 0]
    rows[1, 0] = 0.01
    rows[5, 5] = 0.01
    #              first   moves  noop   closes  noop   turns
    assert moving(rows).tolist() == [False, True, False, True, False, True]
    assert NOOP_NORM == 1e-4  # the reference's


def test_end_effector_frame_expresses_the_same_motion(tmp_path: Path) -> None:
    given_demo = demo(8)
    write_demo(tmp_path / "bag", given_demo)
    base = steps_of(tmp_path / "bag", "achieved", rate=5.0)
    own = steps_of(tmp_path / "bag", "achieved", rate=5.0, action_frame="end_effector")
    attitude = quaternions_to_matrices(base.states[:, 3:7])
    np.testing.assert_allclose(np.einsum("nij,nj->ni", attitude, own.actions[:, :3]), base.actions[:, :3], atol=1e-9)
    turns = attitude @ fixed_xyz(own.actions[:, 3:6]) @ np.swapaxes(attitude, 1, 2)
    np.testing.assert_allclose(turns, fixed_xyz(base.actions[:, 3:6]), atol=1e-9)
    np.testing.assert_allclose(to_base(own.actions[:, :6], attitude), base.actions[:, :6], atol=1e-9)


def test_recorded_commands_are_transformed_to_the_named_frame(tmp_path: Path) -> None:
    maker = BagMaker(tmp_path / "bag")
    given_demo = demo()
    header = maker.header
    fill(maker, given_demo)
    maker.writer.close()
    steps = steps_of(tmp_path / "bag", action_frame="end_effector")
    attitude = quaternions_to_matrices(given_demo.poses[::10, 3:])
    expected = to_end_effector(given_demo.actions[:, :6], attitude)
    np.testing.assert_allclose(steps.actions[:, :6], expected)
    # Chunks in the end effector's frame, and a dataset in the base's.
    other = BagMaker(tmp_path / "other")
    pose = other.pose
    other.header = lambda stamp, frame="panda_hand": header(stamp, frame)  # type: ignore[method-assign]

    def base_pose(stamp: int, values: np.ndarray) -> None:
        other.header = lambda stamp, frame="panda_link0": header(stamp, frame)  # type: ignore[method-assign]
        pose(stamp, values)

    other.pose = base_pose  # type: ignore[method-assign]
    fill(other, given_demo)
    other.writer.close()
    with pytest.raises(BadBag, match="'panda_hand', poses in 'panda_link0'.*--ee-frame panda_hand"):
        steps_of(tmp_path / "other")
    steps = steps_of(tmp_path / "other", ee_frame="panda_hand")
    np.testing.assert_allclose(steps.actions[:, :6], to_base(given_demo.actions[:, :6], attitude))


def test_interpolated_states_lie_between_samples(tmp_path: Path) -> None:
    given_demo = demo(6, state_delay=8_000_000)  # samples lie 8 ms after the frames, 20 ms apart
    write_demo(tmp_path / "bag", given_demo)
    steps = steps_of(tmp_path / "bag", alignment="interpolate")
    poses = given_demo.poses
    for index in range(1, 6):
        before, after = poses[10 * index - 1], poses[10 * index]
        np.testing.assert_allclose(steps.states[index, :3], before[:3] + 0.6 * (after[:3] - before[:3]), atol=1e-12)
        opening = given_demo.openings[10 * index - 1 : 10 * index + 1]
        assert steps.states[index, 7] == pytest.approx(opening[0] + 0.6 * (opening[1] - opening[0]))
    np.testing.assert_allclose(np.linalg.norm(steps.states[:, 3:7], axis=1), 1.0)
    assert steps.skews["ee_pose"].max() == pytest.approx(0.008)


def test_slerp_turns_evenly_along_the_shorter_arc() -> None:
    def about_z(angle: float) -> np.ndarray:
        return np.array([[0, 0, np.sin(angle / 2), np.cos(angle / 2)]])

    np.testing.assert_allclose(slerp(about_z(0.0), -about_z(1.0), np.array([0.25])), about_z(0.25), atol=1e-12)
    np.testing.assert_allclose(slerp(about_z(0.3), about_z(0.3), np.array([0.5])), about_z(0.3), atol=1e-12)


def test_further_cameras_are_aligned_within_the_skew(tmp_path: Path) -> None:
    maker = BagMaker(tmp_path / "bag")
    given_demo = demo()
    fill(maker, given_demo)
    wrist = np.random.default_rng(5).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)
    for stamp, frame in zip(given_demo.stamps, wrist, strict=True):
        maker.image(stamp + 30_000_000, frame, topic="wrist_camera/image_raw")
    maker.writer.close()
    topics = Topics(cameras=(("wrist_image", "wrist_camera/image_raw"),))
    (recording,) = read_recordings(tmp_path / "bag", CHUNKS, topics)
    steps = make_steps(recording, StepOptions(drop_noops=False))
    assert steps.camera_frames["wrist_image"].tolist() == list(range(6))
    np.testing.assert_array_equal(list(read_frames(recording, range(6), "wrist_image")), wrist)
    assert steps.skews["wrist_image"].max() == pytest.approx(0.03)
    with pytest.raises(BadBag, match=r"6 no wrist_image in time \(up to 0.030 s"):
        make_steps(recording, StepOptions(max_skew=0.02))
    with pytest.raises(BadBag, match="topic side/image_raw is missing"):
        read_recordings(tmp_path / "bag", CHUNKS, Topics(cameras=(("side", "side/image_raw"),)))


def test_chunks_of_several_actions_become_a_step_each(tmp_path: Path) -> None:
    maker = BagMaker(tmp_path / "bag")
    given_demo = demo(9, skip_topics=("policy/action_chunk", "expert/action_chunk", "safety/state"))
    fill(maker, given_demo)
    rows = np.arange(9 * 7).reshape(9, 7) * 1e-3
    # At frames 0 and 4 a chunk of five; computed at once. The second one comes before the first one's fifth action.
    for first in (0, 4):
        maker.chunk("policy/action_chunk", given_demo.stamps[first] - 50_000_000 + 1_000_000, rows[first : first + 5],
                    "x", PERIOD * 1e-9, observed=given_demo.stamps[first])  # fmt: skip
    maker.writer.close()
    (recording,) = read_recordings(tmp_path / "bag", CHUNKS[:1])
    steps = make_steps(recording, StepOptions(drop_noops=False))
    np.testing.assert_array_equal(steps.frames, range(9))
    np.testing.assert_array_equal(steps.actions, rows)


def test_zero_start_is_left_out_except_a_closing_gripper(tmp_path: Path) -> None:
    rows = demo().actions
    rows[:2] = [0, 0, 0, 0, 0, 0, 1]
    rows[2, 6] = 1
    write_demo(tmp_path / "bag", demo(actions=rows))
    steps = steps_of(tmp_path / "bag", drop_noops=False)
    assert steps.frames.tolist() == [2, 3, 4, 5] and steps.left_out == {"all zero at the start": 2}
    assert len(steps_of(tmp_path / "bag", drop_noops=False, drop_first_zero=False).frames) == 6
    rows[2, 6] = 0  # the second transition is the last before the gripper closes: it stays
    write_demo(tmp_path / "other", demo(actions=rows))
    assert steps_of(tmp_path / "other", drop_noops=False).frames.tolist() == [1, 2, 3, 4, 5]


def test_topic_of_a_wrong_type_is_a_bad_bag(tmp_path: Path) -> None:
    maker = BagMaker(tmp_path / "bag")
    fill(maker, demo(skip_topics=("robot/ee_pose",)))
    maker.text("robot/ee_pose", START, "no pose")
    maker.writer.close()
    with pytest.raises(BadBag, match="robot/ee_pose is std_msgs/msg/String; expected geometry_msgs/msg/PoseStamped"):
        read_recordings(tmp_path / "bag", CHUNKS)


def test_quaternion_of_length_zero_is_a_bad_bag(tmp_path: Path) -> None:
    poses = demo().poses.copy()
    poses[3, 3:] = 0
    assert "quaternion of length zero" in bad(tmp_path, demo(poses=poses))


def test_action_that_is_not_finite_is_a_bad_bag(tmp_path: Path) -> None:
    rows = demo().actions
    rows[4, 2] = np.nan
    assert "an action that is not finite" in bad(tmp_path, demo(actions=rows))


def test_padded_bgr_images_are_read_correctly(tmp_path: Path) -> None:
    """A plain reshape would shear the image and swap red and blue."""
    maker = BagMaker(tmp_path / "bag")
    given_demo = demo(skip_topics=("camera/image_raw",))
    fill(maker, given_demo)
    for stamp, frame in zip(given_demo.stamps, given_demo.frames, strict=True):
        rows = np.pad(frame[..., ::-1].reshape(32, -1), ((0, 0), (0, 8)))
        message = maker.make(
            "sensor_msgs/msg/Image", header=maker.header(stamp), height=32, width=32, encoding="bgr8", step=104,
            data=rows.reshape(-1),
        )  # fmt: skip
        maker.put("camera/image_raw", stamp, message)
    maker.writer.close()
    (recording,) = read_recordings(tmp_path / "bag", CHUNKS)
    np.testing.assert_array_equal(list(read_frames(recording, range(6))), given_demo.frames)
