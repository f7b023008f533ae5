"""RLDS back to bags: what was converted comes back, frame for frame and number for number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bag_factory import BagMaker, definitions, fill, random_demo
from hypothesis import given, settings, strategies as st
from rosbags.highlevel import AnyReader

from openvla_training.bags.cli import main as convert
from openvla_training.bags.export import main as export
from openvla_training.bags.message_definitions import OWN, typestore
from openvla_training.rlds.features import Episode
from openvla_training.rlds.reader import read_episodes

EXACT = ("--image-size", "camera", "--image-encoding", "png", "--no-drop-noops", "--no-drop-first-zero", "--no-report")


def converted(bags: Path, output: Path, *options: str) -> list[Episode]:
    arguments = [
        str(bags),
        "--output",
        str(output),
        "--dataset-name",
        "demo",
        "--workers",
        "1",
        "--val-fraction",
        "0.5",
    ]
    assert convert([*arguments, *EXACT, *options]) == 0
    return list(read_episodes(output, split="all"))


def same(one: Episode, two: Episode) -> None:
    for name in ("episode_id", "instruction", "outcome", "score"):
        assert getattr(one, name) == getattr(two, name)
    for name in ("states", "actions", "stamps"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(list(one.images), list(two.images))
    assert one.extra_images.keys() == two.extra_images.keys()
    for key, frames in one.extra_images.items():
        np.testing.assert_array_equal(list(frames), list(two.extra_images[key]))


@settings(max_examples=6)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    size=st.integers(4, 40),
    sentence=st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=40).filter(
        str.strip
    ),
    outcome=st.sampled_from(["success", "failure"]),
    wrist=st.booleans(),
)
def test_bag_to_rlds_to_bag_to_rlds_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, seed: int, lengths: list[int], size: int, sentence: str, outcome: str,
    wrist: bool,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("round")
    rng = np.random.default_rng(seed)
    demos = {}
    for index, steps in enumerate(lengths):
        maker = BagMaker(folder / "bags" / f"bag_{index}")
        demo = random_demo(rng, steps, size, start=10**18 + index * 10**11, instruction=sentence, outcome=outcome)
        demos[fill(maker, demo)] = demo
        if wrist:
            for stamp, frame in zip(demo.stamps, demo.frames, strict=True):
                maker.image(stamp, 255 - frame[: size // 2 + 1], topic="wrist_image/image_raw")
        maker.writer.close()
    options = ["--keep-failed", *(["--camera", "wrist_image=wrist_image/image_raw"] if wrist else [])]
    first = converted(folder / "bags", folder / "rlds", *options)
    for episode in first:
        demo = demos[episode.episode_id]
        np.testing.assert_array_equal(list(episode.images), demo.frames)
        np.testing.assert_array_equal(episode.actions, demo.actions.astype(np.float32))
        np.testing.assert_array_equal(episode.states[:, :7], demo.poses[::10].astype(np.float32))
        assert (episode.instruction, episode.outcome) == (sentence.strip(), outcome)
    assert export([str(folder / "rlds"), "--output", str(folder / "back")]) == 0
    second = {one.episode_id: one for one in converted(folder / "back", folder / "again", *options)}
    assert len(second) == len(first) == len(lengths)
    for episode in first:
        same(episode, second[episode.episode_id])


def test_exported_bags_are_played_in_order_of_time_with_our_own_definitions(tmp_path: Path) -> None:
    maker = BagMaker(tmp_path / "bags" / "bag")
    fill(maker, random_demo(np.random.default_rng(0), 4))
    maker.writer.close()
    converted(tmp_path / "bags", tmp_path / "rlds")
    assert export([str(tmp_path / "rlds"), "--output", str(tmp_path / "back"), "--rate", "5"]) == 0
    (bag,) = (tmp_path / "back").iterdir()
    with AnyReader([bag]) as reader:
        times = [at for _, at, _ in reader.messages()]
        chunk = next(c for c in reader.connections if c.topic == "policy/action_chunk")
        (first, *_) = [reader.deserialize(raw, chunk.msgtype) for _, _, raw in reader.messages([chunk])]
    assert times == sorted(times) and first.source == "replay" and first.period == pytest.approx(0.2)
    assert export([str(tmp_path / "rlds"), "--output", str(tmp_path / "back")]) == 1, "never over an existing bag"
    assert export([str(tmp_path / "none"), "--output", str(tmp_path / "x")]) == 1


@pytest.mark.parametrize("name", OWN)
def test_our_copies_of_the_definitions_are_those_of_openvla_msgs(name: str) -> None:
    theirs, ours = definitions().ensure(name).fielddefs[name], typestore().fielddefs[name]
    assert theirs == ours
