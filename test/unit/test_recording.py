"""The episode's life, the bag on disk, message definitions, and the repair of unclosed bags."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from bag_factory import SOURCES, BagMaker, definitions, random_demo, write_demo
from rosbags.highlevel import AnyReader

from openvla_ros.recording import bag_writer
from openvla_ros.recording.bag_writer import IN_PROGRESS, BagError, BagWriter
from openvla_ros.recording.definitions import Definitions, UnknownType
from openvla_ros.recording.episode import EpisodeError, EpisodeMachine, Outcome, start_event, stop_event
from openvla_ros.recording.recover import main as recover_main, recover

NOW = datetime(2026, 5, 4, 3, 2, 1, 123456, UTC)


def test_episode_machine_goes_idle_recording_idle() -> None:
    machine = EpisodeMachine({"host": "lab"})
    episode = machine.start(" lift it ", "Ann", NOW)
    assert (episode.episode_id, episode.instruction) == ("20260504T030201_123456", "lift it")
    with pytest.raises(EpisodeError, match="20260504T030201_123456 is being recorded"):
        machine.start("again", "", NOW)
    assert machine.check_stop(0, 0.5) is Outcome.SUCCESS
    assert machine.stopped("success") is episode and not machine.recording
    assert machine.counters.success == 1 and machine.counters.failure == 0
    # Ids stay distinct and in order under a clock that stands still.
    assert machine.start("x", "", NOW).episode_id == "20260504T030201_123457"


def test_episode_instruction_falls_back_to_the_topic_or_is_refused() -> None:
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


def test_episode_events_carry_what_conversion_needs() -> None:
    episode = EpisodeMachine({"host": "lab"}).start("lift", "note", NOW)
    start = json.loads(start_event(episode))
    assert (start["event"], start["instruction"], start["details"]) == ("start", "lift", {"host": "lab"})
    stop = json.loads(stop_event(episode, "failure", 0.5, "slipped", {"/a": 0, "/b": 2}, {"name": "s"}))
    assert (stop["outcome"], stop["score"], stop["dropped"]) == ("failure", 0.5, {"/b": 2})
    assert stop["episode_id"] == start["episode_id"]


def test_definitions_resolve_nested_types_and_name_missing_ones(tmp_path: Path) -> None:
    store = definitions().ensure("openvla_msgs/msg/ActionChunk")
    assert "openvla_msgs/msg/EndEffectorDelta" in store.fielddefs
    folder = tmp_path / "lab_msgs" / "msg"
    folder.mkdir(parents=True)
    (folder / "Outer.msg").write_text("lab_msgs/Inner[] parts\n")
    with pytest.raises(UnknownType, match=r"lab_msgs/msg/Inner \(part of lab_msgs/msg/Outer\)"):
        Definitions([SOURCES, tmp_path]).ensure("lab_msgs/msg/Outer")


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_bag_appears_whole_with_metadata_and_every_message(tmp_path: Path, compression: str) -> None:
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


def test_bag_writer_refuses_what_exists_and_discards(tmp_path: Path) -> None:
    write_demo(tmp_path / "bag", random_demo(np.random.default_rng(0), 2))
    with pytest.raises(BagError, match="exists already"):
        BagWriter(tmp_path / "bag", definitions())
    maker = BagMaker(tmp_path / "other")
    maker.text("instruction", 1, "x")
    maker.writer.discard()
    assert not (tmp_path / "other").exists() and list((tmp_path / IN_PROGRESS).iterdir()) == []


def test_a_full_queue_drops_and_says_so(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag", definitions(), queue_bytes=1000)
    connection = writer.add_topic("t", "std_msgs/msg/String")
    assert not writer.write(connection, 1, bytes(1001))
    assert writer.write(connection, 2, bytes(900))
    assert writer.close().messages == 1


def test_a_write_error_reaches_the_one_who_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = BagMaker(tmp_path / "bag", compression="none")
    maker.text("instruction", 1, "x")
    # What a full disk does: the file object refuses.
    maker.writer._writer.storage.bio.close()  # type: ignore[union-attr]
    maker.put("instruction", 2, maker.make("std_msgs/msg/String", data="y" * 2**21))
    with pytest.raises(BagError, match="writing .* failed.*openvla-recover"):
        maker.writer.close()
    assert not maker.writer.write(maker.connections["instruction"], 3, b"")
    assert not (tmp_path / "bag").exists()


def unclosed(folder: Path, compression: str, messages: int = 400) -> Path:
    """Write a bag of 10 kB messages whose writer never closes; returns its file."""
    maker = BagMaker(folder / "bag", compression=compression)
    rng = np.random.default_rng(0)
    for index in range(messages):
        maker.text("instruction", 1000 + index, f"{index:06d}" + rng.bytes(5000).hex())
    maker.writer._finish()
    maker.writer._writer.storage.bio.flush()  # type: ignore[union-attr]
    return folder / IN_PROGRESS / "bag" / "bag.mcap"


def recovered_numbers(bag: Path) -> list[int]:
    with AnyReader([bag]) as reader:
        return [int(reader.deserialize(raw, c.msgtype).data[:6]) for c, _, raw in reader.messages()]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_recover_takes_every_whole_chunk_wherever_the_file_ends(tmp_path: Path, compression: str) -> None:
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


def test_recover_command_names_what_cannot_be_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    maker.writer._thread.join(0.5)
    assert recovered_numbers(recover(maker.writer.temporary).path) == [1]
    maker.writer.discard()
