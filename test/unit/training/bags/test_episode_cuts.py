"""Where episodes begin and end: recorder messages, sentences, lists of times; plain `ros2 bag record` bags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bag_factory import START, BagMaker, Demo, fill, random_demo

from openvla_training.bags.episode_cuts import TimesLine, cut_bag, lines_of, read_times
from openvla_training.bags.episodes import BadBag
from openvla_training.bags.reading import BadEpisode, read_each, read_frames, read_recordings

CHUNKS = ("policy/action_chunk",)
S = 10**9
MINUTE = 60 * S
PLAIN = ("episode", "safety/state", "expert/action_chunk")  # topics that only our recorder and expert publish


def long_bag(path: Path, sentences: list[str], **changes: object) -> list[Demo]:
    """One bag of plain recording: an episode a minute, without the recorder's messages."""
    maker = BagMaker(path)
    demos = []
    for index, sentence in enumerate(sentences):
        demo = random_demo(
            np.random.default_rng(index), 5, start=START + index * MINUTE, instruction=sentence, skip_topics=PLAIN,
            **changes,
        )  # fmt: skip
        fill(maker, demo)
        demos.append(demo)
    maker.writer.close()
    return demos


def cut(how: str, said: list[tuple[int, str]], lines: list[TimesLine] | None = None) -> list[tuple[int, int, str]]:
    cuts = cut_bag(how, "bag", 0, 100, [], said, lines)
    return [(one.first, one.last, str(one.event.get("instruction", ""))) for one in cuts]


def test_episodes_follow_changes_of_the_instruction() -> None:
    said = [(5, ""), (10, "a"), (20, " a "), (30, "b"), (40, ""), (60, "b")]
    assert cut("auto", said) == [(10, 29, "a"), (30, 39, "b"), (60, 100, "b")]
    assert cut("instruction", said) == [(10, 19, "a"), (20, 29, "a"), (30, 39, "b"), (60, 100, "b")]
    assert cut("bag", said) == [(0, 100, "")]
    assert cut("auto", [(10, "a"), (20, "a")]) == [(0, 100, "")], "one sentence: the whole bag"
    with pytest.raises(BadBag, match="no instruction"):
        cut("instruction", [])
    with pytest.raises(BadBag, match="no start of an episode"):
        cut("episode", [(10, "a")])


def test_plain_bag_is_split_at_its_instructions(tmp_path: Path) -> None:
    demos = long_bag(tmp_path / "long", ["lift red", "lift blue", "lift red"])
    recordings = read_recordings(tmp_path / "long", CHUNKS)
    assert [r.instruction for r in recordings] == ["lift red", "lift blue", "lift red"]
    assert len({r.episode_id for r in recordings}) == 3 and {r.outcome for r in recordings} == {"unknown"}
    for recording, demo in zip(recordings, demos, strict=True):
        assert recording.image_stamps.tolist() == demo.stamps
        np.testing.assert_array_equal(list(read_frames(recording, [0, 4])), demo.frames[[0, 4]])


def test_repeated_instruction_splits_only_by_cut_instruction(tmp_path: Path) -> None:
    long_bag(tmp_path / "long", ["lift red", "lift red"])
    assert len(read_recordings(tmp_path / "long", CHUNKS)) == 1
    assert len(read_recordings(tmp_path / "long", CHUNKS, cut="instruction")) == 2


def test_bad_episode_does_not_affect_the_others(tmp_path: Path) -> None:
    maker = BagMaker(tmp_path / "long")
    for index in range(3):
        demo = random_demo(
            np.random.default_rng(index),
            5,
            start=START + index * MINUTE,
            instruction=f"task {index}",
            skip_topics=PLAIN,
        )
        if index == 1:
            demo.poses[7, 0] = np.inf
        fill(maker, demo)
    maker.writer.close()
    good, broken, other = read_each(tmp_path / "long", CHUNKS)
    assert isinstance(broken, BadEpisode) and "not a finite number at message 7" in broken.reason
    assert [one.instruction for one in (good, other)] == ["task 0", "task 2"]  # type: ignore[union-attr]


def test_list_of_times_takes_seconds_or_dates(tmp_path: Path) -> None:
    demos = long_bag(tmp_path / "long", ["x", "x", "x"])
    begin = START * 1e-9
    (tmp_path / "times.csv").write_text(
        "bag,start,end,instruction,outcome\n"
        f"long, 0, 30, first, success\nlong, {begin + 59.9}, {begin + 90}, second,\n"
        "./other, 1, 2, elsewhere, failure\n"
    )
    listed = read_times(tmp_path / "times.csv")
    lines = lines_of((tmp_path / "long").resolve(), listed, tmp_path)
    recordings = read_recordings(tmp_path / "long", CHUNKS, lines=lines)
    assert [(r.instruction, r.outcome) for r in recordings] == [("first", "success"), ("second", "unknown")]
    assert recordings[1].image_stamps.tolist() == demos[1].stamps
    assert [line.instruction for line in lines_of(tmp_path / "other", listed, tmp_path)] == ["elsewhere"]
    assert lines_of(tmp_path / "unlisted", listed, tmp_path) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bag,start,end\n", "no column instruction"),
        ("bag,start,end,instruction\na,x,2,go\n", "line 2: start 'x'"),
        ("bag,start,end,instruction\na,2,1,go\n", "ends after it starts"),
        ("bag,start,end,instruction\na,1,2,\n", "instruction is empty"),
    ],
)
def test_wrong_list_of_times_is_explained(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "times.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_times(tmp_path / "times.csv")
