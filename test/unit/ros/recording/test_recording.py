"""Life cycle of an episode, the bag on disk, message definitions, and the recovery of unclosed bags."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from bag_factory import SOURCES, BagMaker, definitions, random_demo, write_demo
from mcap.reader import make_reader
from mcap.records import Chunk, Message
from mcap.stream_reader import StreamReader, breakup_chunk
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader

from openvla_ros.apps.recover import main as recover_main, recover
from openvla_ros.recording import bag_writer
from openvla_ros.recording.bag_writer import IN_PROGRESS, BagError, BagWriter
from openvla_ros.recording.episode import EpisodeError, EpisodeMachine, Outcome, start_event, stop_event
from openvla_ros.recording.message_definitions import MessageDefinitions, UnknownType

NOW = datetime(2026, 5, 4, 3, 2, 1, 123456, UTC)


def test_an_episode_goes_idle_recording_idle() -> None:
    machine = EpisodeMachine({"host": "lab"})
    episode = machine.start(" lift it ", "Ann", NOW)
    assert (episode.episode_id, episode.instruction) == ("20260504T030201_123456", "lift it")
    with pytest.raises(EpisodeError, match="20260504T030201_123456 is being recorded"):
        machine.start("again", "", NOW)
    assert machine.check_stop(0, 0.5) is Outcome.SUCCESS
    assert machine.stopped("success") is episode and not machine.recording
    assert machine.counters.success == 1 and machine.counters.failure == 0


def test_episode_ids_stay_distinct_under_a_stopped_clock() -> None:
    machine = EpisodeMachine()
    assert machine.start("x", "", NOW).episode_id == "20260504T030201_123456"
    machine.stopped("success")
    assert machine.start("x", "", NOW).episode_id == "20260504T030201_123457"


def test_an_instruction_is_required_or_taken_from_the_topic() -> None:
    machine = EpisodeMachine()
    with pytest.raises(EpisodeError, match="no instruction"):
        machine.start("  ", "", NOW, "")
    assert machine.start("", "", NOW, "from the topic").instruction == "from the topic"


@pytest.mark.parametrize(
    ("outcome", "score", "named"),
    [(3, 0.5, "outcome 3"), (0, 1.01, "1.01"), (1, float("nan"), "nan"), (0, -0.1, "-0.1")],
)
def test_a_stop_is_checked_before_anything_closes(outcome: int, score: float, named: str) -> None:
    machine = EpisodeMachine()
    with pytest.raises(EpisodeError, match="no episode"):
        machine.check_stop(0, 1.0)
    machine.start("x", "", NOW)
    with pytest.raises(EpisodeError, match=named):
        machine.check_stop(outcome, score)
    assert machine.recording


def test_episode_events_have_what_conversion_needs() -> None:
    episode = EpisodeMachine({"host": "lab"}).start("lift", "note", NOW)
    start = json.loads(start_event(episode))
    assert (start["event"], start["instruction"], start["details"]) == ("start", "lift", {"host": "lab"})
    stop = json.loads(stop_event(episode, "failure", 0.5, "slipped", {"/a": 0, "/b": 2}, {"name": "s"}))
    assert (stop["outcome"], stop["score"], stop["dropped"]) == ("failure", 0.5, {"/b": 2})
    assert stop["episode_id"] == start["episode_id"]


def test_definitions_resolve_nested_types() -> None:
    store = definitions().ensure("openvla_msgs/msg/ActionChunk")
    assert "openvla_msgs/msg/EndEffectorDelta" in store.fielddefs


def test_a_missing_definition_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "lab_msgs" / "msg"
    folder.mkdir(parents=True)
    (folder / "Outer.msg").write_text("lab_msgs/Inner[] parts\n")
    with pytest.raises(UnknownType, match=r"lab_msgs/msg/Inner \(part of lab_msgs/msg/Outer\)"):
        MessageDefinitions([SOURCES, tmp_path]).ensure("lab_msgs/msg/Outer")


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_bag_appears_complete_with_every_message(tmp_path: Path, compression: str) -> None:
    maker = BagMaker(tmp_path / "bag", compression=compression)
    for index in range(300):
        maker.text("instruction", 1000 + index, f"text {index}")
        assert not (tmp_path / "bag").exists()
    info = maker.writer.close({"episode_id": "bag"})
    assert info.path == tmp_path / "bag" and info.messages == 300
    assert info.duration == pytest.approx(299e-9)
    assert not (tmp_path / IN_PROGRESS / "bag").exists()
    with AnyReader([info.path]) as reader:
        got = [(time, reader.deserialize(raw, c.msgtype).data) for c, time, raw in reader.messages()]
    assert got == [(1000 + index, f"text {index}") for index in range(300)]
    metadata = yaml.safe_load((info.path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["custom_data"] == {"episode_id": "bag"} and metadata["storage_identifier"] == "mcap"
    assert metadata["relative_file_paths"] == ["bag.mcap"]


def test_metadata_is_what_ros2_bag_and_foxglove_read(tmp_path: Path) -> None:
    """`ros2 bag info/play` read metadata.yaml, Foxglove the MCAP's profile, schemas and encodings."""
    demo = random_demo(np.random.default_rng(0), 4)
    info = write_demo(tmp_path / "bag", demo)
    with Reader(info.path) as reader:
        assert reader.message_count == info.messages and reader.duration > 0
        topics = {c.topic: (c.msgtype, c.msgcount) for c in reader.connections}
    metadata = yaml.safe_load((info.path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["version"] == 9 and metadata["ros_distro"]
    assert metadata["files"][0]["path"] == "bag.mcap" and metadata["files"][0]["message_count"] == info.messages
    listed = metadata["topics_with_message_count"]
    assert {t["topic_metadata"]["name"]: t["message_count"] for t in listed} == {k: v[1] for k, v in topics.items()}
    for topic in listed:
        about = topic["topic_metadata"]
        assert about["serialization_format"] == "cdr" and about["type_description_hash"].startswith("RIHS01_")
    with (info.path / "bag.mcap").open("rb") as file:
        reader = make_reader(file)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
        assert summary is not None and summary.chunk_indexes and summary.statistics.message_count == info.messages
        assert {s.encoding for s in summary.schemas.values()} == {"ros2msg"}
        assert {c.message_encoding for c in summary.channels.values()} == {"cdr"}
        assert {c.topic: summary.schemas[c.schema_id].name for c in summary.channels.values()} == {
            name: kind for name, (kind, _) in topics.items()
        }


def test_an_existing_bag_is_not_overwritten(tmp_path: Path) -> None:
    write_demo(tmp_path / "bag", random_demo(np.random.default_rng(0), 2))
    with pytest.raises(BagError, match="exists already"):
        BagWriter(tmp_path / "bag", definitions())


def test_a_discarded_bag_is_deleted(tmp_path: Path) -> None:
    maker = BagMaker(tmp_path / "other")
    maker.text("instruction", 1, "x")
    maker.writer.discard()
    assert not (tmp_path / "other").exists() and list((tmp_path / IN_PROGRESS).iterdir()) == []


def test_a_full_queue_drops_messages(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag", definitions(), queue_bytes=1000)
    connection = writer.add_topic("t", "std_msgs/msg/String")
    assert not writer.write(connection, 1, bytes(1001))
    assert writer.write(connection, 2, bytes(900))
    assert writer.close().messages == 1


def test_a_write_error_is_reported_at_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    maker = BagMaker(tmp_path / "bag", compression="none")
    maker.text("instruction", 1, "x")
    wait_written(maker)
    monkeypatch.setattr(bag_writer.Writer, "write", fail)
    maker.put("instruction", 2, maker.make("std_msgs/msg/String", data="y" * 2**21))
    with pytest.raises(BagError, match="writing .* failed.*openvla-recover"):
        maker.writer.close()
    assert not maker.writer.write(maker.connections["instruction"], 3, b"")
    assert not (tmp_path / "bag").exists()


def wait_written(maker: BagMaker) -> None:
    while maker.writer.backlog:
        time.sleep(0.001)


def unclosed(folder: Path, compression: str, messages: int = 400) -> Path:
    """Write a bag of 10 kB messages that is never closed; returns its file."""
    maker = BagMaker(folder / "bag", compression=compression)
    rng = np.random.default_rng(0)
    for index in range(messages):
        maker.text("instruction", 1000 + index, f"{index:06d}" + rng.bytes(5000).hex())
    wait_written(maker)
    time.sleep(1.5 * bag_writer.CHUNK_PERIOD)  # the last chunk reaches the file
    return folder / IN_PROGRESS / "bag" / "bag.mcap"


def recovered_numbers(bag: Path) -> list[int]:
    with AnyReader([bag]) as reader:
        return [int(reader.deserialize(raw, c.msgtype).data[:6]) for c, _, raw in reader.messages()]


def chunk_ends(data: bytes) -> list[tuple[int, int]]:
    """For every chunk of an MCAP file: where it ends, and how many messages are complete by then."""
    found, position, messages = [], 8, 0
    chunks = [r for r in StreamReader(io.BytesIO(data), emit_chunks=True).records if isinstance(r, Chunk)]
    while position + 9 <= len(data):
        opcode, length = struct.unpack_from("<BQ", data, position)
        position += 9 + length
        if opcode == 6:
            messages += sum(isinstance(r, Message) for r in breakup_chunk(chunks[len(found)]))
            found.append((position, messages))
    return found


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_bag_cut_anywhere_gives_its_complete_chunks(
    tmp_path: Path, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at the boundary of every record, one byte before and after it, and at every 211th byte."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds of bags
    maker = BagMaker(tmp_path / "bag", compression=compression)
    for index in range(40):
        # A period of 0 ends the chunk with this message.
        monkeypatch.setattr(bag_writer, "CHUNK_PERIOD", 0.0 if index % 6 == 5 else 1000.0)
        maker.text("instruction", 1000 + index, f"{index:06d}" + "x" * 50 * (index % 7))
        wait_written(maker)
    closed = maker.writer.close().path / "bag.mcap"
    data = closed.read_bytes()
    ends, boundary, cuts = chunk_ends(data), 8, set(range(0, len(data), 211))
    assert len(ends) >= 6
    while boundary + 9 <= len(data):
        cuts |= {boundary - 1, boundary, boundary + 1}
        boundary += 9 + struct.unpack_from("<Q", data, boundary + 1)[0]
    for cut in sorted(cuts):
        part = tmp_path / "cut.mcap"
        part.write_bytes(data[:cut])
        whole = max((messages for end, messages in ends if end <= cut), default=0)
        if not whole:
            with pytest.raises(BagError, match="no whole chunk"):
                recover(part, tmp_path / "saved" / str(cut))
            continue
        info = recover(part, tmp_path / "saved" / str(cut))
        assert recovered_numbers(info.path) == list(range(whole)), cut
    assert closed.read_bytes() == data


RECORDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from bag_factory import BagMaker
from openvla_ros.recording import bag_writer
bag_writer.CHUNK_PERIOD = 0.02
for episode in range(1000):
    maker = BagMaker(Path(sys.argv[1]) / f"{episode:04d}")
    for index in range(30):
        maker.text("instruction", 1000 + index, f"{index:06d}" + "x" * 20_000)
        time.sleep(0.002)
        if index == 20:
            print("half", flush=True)
    maker.writer.close({"episode": str(episode)})
    print(episode, flush=True)
"""


def test_a_killed_recorder_loses_at_most_the_unfinished_episode(tmp_path: Path) -> None:
    helpers, rng = str(Path(__file__).parents[3] / "helpers"), np.random.default_rng(0)
    saved = 0
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        child = subprocess.Popen(
            [sys.executable, "-c", RECORDER, str(folder), helpers], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None and [child.stdout.readline() for _ in range(2)] == ["half\n", "0\n"]
        if attempt:
            time.sleep(rng.uniform(0.0, 0.4))
        else:
            assert child.stdout.readline() == "half\n"
        child.send_signal(signal.SIGKILL)
        closed = [0, *(int(word) for word in child.stdout.read().split() if word != "half")]
        child.stdout.close()
        child.wait()
        finished = sorted(p.name for p in folder.iterdir() if p.name != IN_PROGRESS)
        # Bags reported as closed are complete; at most one more was renamed and not reported yet.
        assert [f"{n:04d}" for n in closed] == finished[: len(closed)] and len(finished) <= len(closed) + 1
        for name in finished:
            assert recovered_numbers(folder / name) == list(range(30))
            assert (folder / name / "metadata.yaml").exists()
        left = list((folder / IN_PROGRESS).iterdir())
        assert len(left) <= 1
        for bag in left:
            try:
                numbers = recovered_numbers(recover(bag).path)
            except BagError:
                continue  # killed before its first chunk
            assert numbers == list(range(len(numbers)))
            saved += 1
    assert saved  # the first was in the middle of an episode


def test_an_interrupted_recovery_leaves_no_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unclosed(tmp_path, "none", 300)
    half = tmp_path / IN_PROGRESS / "bag.recovering" / "bag"
    half.mkdir(parents=True)
    (half / "bag.mcap").write_bytes(b"half")
    assert recover_main([str(p) for p in sorted((tmp_path / IN_PROGRESS).iterdir())]) == 0
    assert (tmp_path / "bag").exists() and not half.exists()


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_recovery_keeps_every_complete_chunk(tmp_path: Path, compression: str) -> None:
    whole = unclosed(tmp_path, compression).read_bytes()
    counts = []
    for cut in np.random.default_rng(1).integers(len(whole) // 2, len(whole), 12):
        folder = tmp_path / str(cut) / IN_PROGRESS / "bag"
        folder.mkdir(parents=True)
        (folder / "bag.mcap").write_bytes(whole[:cut])
        info = recover(folder)
        assert info.path == tmp_path / str(cut) / "bag"
        numbers = recovered_numbers(info.path)
        assert numbers == list(range(len(numbers))) and len(numbers) == info.messages
        # A chunk is about 1 MiB of the 4 MB.
        assert len(numbers) * 10_000 >= (cut / len(whole)) * 4_000_000 - 2.2e6
        assert (folder / "bag.mcap").exists()
        counts.append(len(numbers))
    assert max(counts) > min(counts)


def test_the_recover_command_names_unrecoverable_bags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "bag.mcap").write_bytes(b"\x89MCAP0\r\n")
    assert recover_main([str(tmp_path / "bag"), str(tmp_path / "none")]) == 1
    errors = capsys.readouterr().err
    assert "no whole chunk" in errors and "holds 0 .mcap files" in errors
    assert not (tmp_path / "bag_recovered").exists()


def test_slow_topics_reach_the_file_within_the_chunk_period(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bag_writer, "CHUNK_PERIOD", 0.05)
    maker = BagMaker(tmp_path / "bag")
    maker.text("instruction", 1, "000001 one small message")
    time.sleep(0.5)
    assert recovered_numbers(recover(maker.writer.temporary).path) == [1]
    maker.writer.discard()


# ---- full disk -----------------------------------------------------------------------------------


def test_a_full_disk_leaves_a_recoverable_bag(tmp_path: Path, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(3)
    whole = BagMaker(disk / "before")
    whole.text("instruction", 1, "000000")
    before = whole.writer.close().path
    maker = BagMaker(disk / "bag", compression="none")
    with contextlib.suppress(AssertionError):  # a message is refused once the disk is known to be full
        for index in range(500):
            maker.text("instruction", 1000 + index, f"{index:06d}" + "x" * 10_000)
    with pytest.raises(BagError, match="No space left on device.*openvla-recover"):
        maker.writer.close()
    numbers = recovered_numbers(recover(disk / IN_PROGRESS / "bag", tmp_path / "saved").path)
    assert numbers == list(range(len(numbers))) and len(numbers) > 150
    assert recovered_numbers(before) == [0]
    assert os.statvfs(disk).f_bavail * 4096 < 2**20
