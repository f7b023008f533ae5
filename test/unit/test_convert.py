"""openvla-convert from bags to a dataset, as a lab runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bag_factory import START, random_demo, write_demo

from openvla_policy.contract.image import ImagePreparation
from openvla_training.bags import convert as convert_module
from openvla_training.bags.cli import main
from openvla_training.rlds.images import decode_image, encode_image
from openvla_training.rlds.reader import count_episodes, read_episodes
from openvla_training.rlds.statistics import read_statistics


def demos(folder: Path, count: int, first: int = 0, **changes: object) -> list:
    made = []
    for index in range(first, first + count):
        demo = random_demo(np.random.default_rng(index), 6, start=START + index * 60 * 10**9, **changes)
        write_demo(folder / f"bag_{index:03d}", demo)
        made.append(demo)
    return made


def convert(tmp_path: Path, *options: str, name: str = "cubes") -> int:
    arguments = [str(tmp_path / "bags"), "--output", str(tmp_path / "rlds"), "--dataset-name", name, "--workers", "1"]
    return main([*arguments, "--image-size", "camera", *options])


def test_png_dataset_equals_the_bags_in_every_pixel_and_action(tmp_path: Path) -> None:
    made = demos(tmp_path / "bags", 4)
    assert convert(tmp_path, "--image-encoding", "png", "--val-fraction", "0", "--rate", "5") == 0
    episodes = list(read_episodes(tmp_path / "rlds"))
    assert len(episodes) == 4
    for episode, demo in zip(episodes, made, strict=True):
        np.testing.assert_array_equal(list(episode.images), demo.frames)
        np.testing.assert_array_equal(episode.actions, demo.actions.astype(np.float32))
        np.testing.assert_array_equal(episode.states[:, :7], demo.poses[::10].astype(np.float32))
        assert (episode.outcome, episode.score, episode.instruction) == ("success", 1.0, demo.instruction)
    assert read_statistics(tmp_path / "rlds").num_transitions == 24


def test_stored_images_are_the_shared_preparation_s(tmp_path: Path) -> None:
    (demo,) = demos(tmp_path / "bags", 1)
    assert convert(tmp_path, "--image-size", "20", "--val-fraction", "0") == 0
    (episode,) = read_episodes(tmp_path / "rlds")
    prepared = ImagePreparation.standard(20, ["half"]).resize(demo.frames[3])
    np.testing.assert_array_equal(episode.images[3], decode_image(encode_image(prepared, "jpeg")))


def test_a_second_run_converts_only_what_is_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demos(tmp_path / "bags", 3)
    assert convert(tmp_path, "--val-fraction", "0.5") == 0
    before = {
        split: [e.episode_id for e in read_episodes(tmp_path / "rlds", split=split)]
        for split in count_episodes(tmp_path / "rlds")
    }
    demos(tmp_path / "bags", 2, first=3)
    assert convert(tmp_path, "--val-fraction", "0.5") == 0
    assert "2 episodes (12 steps) added, 3 bags known" in capsys.readouterr().out.splitlines()[-1]
    for split, ids in before.items():
        assert [e.episode_id for e in read_episodes(tmp_path / "rlds", split=split)][: len(ids)] == ids
    assert sum(count_episodes(tmp_path / "rlds").values()) == 5
    assert read_statistics(tmp_path / "rlds").num_trajectories == 5


def test_workers_make_the_same_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_module, "BAGS_A_WORKER", 1)
    demos(tmp_path / "bags", 5)
    assert convert(tmp_path, name="one") == 0
    assert convert(tmp_path, "--workers", "2", name="two") == 0
    shards = [sorted((tmp_path / "rlds" / name).rglob("*train.array_record*")) for name in ("one", "two")]
    assert [path.read_bytes() for path in shards[0]] == [path.read_bytes() for path in shards[1]]


def test_a_recording_labelled_for_several_sentences_makes_an_episode_of_each(tmp_path: Path) -> None:
    sentences = ("lift the red cube", "lift the green cube", "lift the blue cube")
    made = demos(tmp_path / "bags", 6, sentences=sentences)
    options = ("--actions", "expert/action_chunk", "--image-encoding", "png", "--val-fraction", "0.5", "--rate", "5")
    assert convert(tmp_path, *options) == 0
    splits = {split: list(read_episodes(tmp_path / "rlds", split=split)) for split in ("train", "val")}
    assert sum(map(len, splits.values())) == 18
    recordings = {split: {e.episode_id.split("#")[0] for e in episodes} for split, episodes in splits.items()}
    assert not recordings["train"] & recordings["val"], "the same frames are in both splits"
    by_frames = {demo.frames.tobytes(): demo for demo in made}
    for episode in (*splits["train"], *splits["val"]):
        demo = by_frames[np.stack(list(episode.images)).tobytes()]
        expected = [demo.label(index, episode.instruction) for index in range(6)]
        np.testing.assert_array_equal(episode.actions, np.float32(expected))


def test_failures_and_duplicates_are_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (demo,) = demos(tmp_path / "bags", 1)
    write_demo(tmp_path / "bags" / "copy", demo)
    demos(tmp_path / "bags", 1, first=1, outcome="failure")
    demos(tmp_path / "bags", 1, first=2, outcome=None)
    assert convert(tmp_path) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert "1 episodes (6 steps) added" in line
    for reason in ("duplicate", "failure", "unfinished"):
        assert f"1 episodes dropped: {reason}" in line
    assert convert(tmp_path, "--keep-failed", name="all") == 0
    outcomes = sorted(e.outcome for e in read_episodes(tmp_path / "rlds", "all", split="all"))
    assert outcomes == ["failure", "success", "unfinished"]


def test_bad_bags_are_listed_and_skipped_or_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demos(tmp_path / "bags", 2)
    bad = tmp_path / "bags" / "bag_000" / "bag_000.mcap"
    bad.write_bytes(bad.read_bytes()[:3000])
    assert convert(tmp_path, "--strict", name="strict") == 1
    assert "bag_000" in capsys.readouterr().err
    assert convert(tmp_path) == 0
    captured = capsys.readouterr()
    assert "bad bag" in captured.err and "bag_000: unreadable" in captured.err
    assert "1 bad bags" in captured.out
    assert sum(count_episodes(tmp_path / "rlds" / "cubes").values()) == 1
    # Once repaired it is taken in: bad bags are not remembered as done.
    demos(tmp_path / "again", 1)
    bad.write_bytes((tmp_path / "again" / "bag_000" / "bag_000.mcap").read_bytes())
    assert convert(tmp_path) == 0
    assert sum(count_episodes(tmp_path / "rlds" / "cubes").values()) == 2


def test_a_bag_with_other_images_than_the_dataset_is_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demos(tmp_path / "bags", 1)
    demos(tmp_path / "bags", 1, first=1, frames=np.zeros((6, 10, 10, 3), np.uint8))
    assert convert(tmp_path) == 0
    assert "images are (10, 10, 3), those of the dataset are (32, 32, 3)" in capsys.readouterr().err


def test_wrong_options_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demos(tmp_path / "bags", 1)
    assert convert(tmp_path, "--actions", "achieved") == 1
    assert "--rate None" in capsys.readouterr().err
    assert convert(tmp_path, "--image-size", "big") == 1
    assert "--image-size 'big'" in capsys.readouterr().err
    assert convert(tmp_path, name="Bad Name") == 1
    assert "Bad Name" in capsys.readouterr().err
    assert convert(tmp_path) == 0
    assert convert(tmp_path, "--drop-noops") == 1
    assert "drop_noops: False there, True now" in capsys.readouterr().err


def test_the_manifest_says_what_became_of_each_bag(tmp_path: Path) -> None:
    demos(tmp_path / "bags", 1)
    demos(tmp_path / "bags", 1, first=1, outcome="failure")
    assert convert(tmp_path) == 0
    manifest = json.loads((tmp_path / "rlds" / "cubes" / "1.0.0" / "manifest.json").read_text())
    by_name = {Path(bag).name: entry for bag, entry in manifest["sources"].items()}
    assert len(by_name["bag_000"]["episodes"]) == 1 and by_name["bag_000"]["dropped"] == {}
    assert by_name["bag_001"]["episodes"] == [] and set(by_name["bag_001"]["dropped"].values()) == {"failure"}
    assert manifest["settings"]["actions"] == "policy/action_chunk"
