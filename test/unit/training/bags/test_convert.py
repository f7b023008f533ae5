"""openvla-convert from bags to a dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bag_factory import START, BagMaker, fill, random_demo, write_demo

from openvla_policy.contract.image import ImagePreparation
from openvla_training.bags import convert_all as convert_module
from openvla_training.bags.cli import main
from openvla_training.rlds.features import Episode
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
    return main([*arguments, "--image-size", "camera", "--no-report", *options])


def test_png_dataset_equals_the_bags_exactly(tmp_path: Path) -> None:
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


def test_images_are_resized_by_the_policy_preparation(tmp_path: Path) -> None:
    (demo,) = demos(tmp_path / "bags", 1)
    assert convert(tmp_path, "--image-size", "20", "--image-encoding", "jpeg", "--val-fraction", "0") == 0
    (episode,) = read_episodes(tmp_path / "rlds")
    prepared = ImagePreparation.standard(20, ["half"]).resize(demo.frames[3])
    np.testing.assert_array_equal(episode.images[3], decode_image(encode_image(prepared, "jpeg")))


def test_second_run_converts_only_new_bags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_number_of_workers_does_not_change_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_module, "BAGS_A_WORKER", 1)
    demos(tmp_path / "bags", 5)
    assert convert(tmp_path, name="one") == 0
    assert convert(tmp_path, "--workers", "2", name="two") == 0
    shards = [sorted((tmp_path / "rlds" / name).rglob("*train.array_record*")) for name in ("one", "two")]
    assert [path.read_bytes() for path in shards[0]] == [path.read_bytes() for path in shards[1]]


def test_each_labelled_sentence_becomes_an_episode(tmp_path: Path) -> None:
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
    assert "1 episode (6 steps) added" in line
    for reason in ("duplicate", "failure", "unfinished"):
        assert f"1 episode dropped: {reason}" in line
    assert convert(tmp_path, "--keep-failed", name="all") == 0
    outcomes = sorted(e.outcome for e in read_episodes(tmp_path / "rlds", "all", split="all"))
    assert outcomes == ["failure", "success", "unfinished"]


def test_bad_bags_are_skipped_or_stop_a_strict_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demos(tmp_path / "bags", 2)
    bad = tmp_path / "bags" / "bag_000" / "bag_000.mcap"
    bad.write_bytes(bad.read_bytes()[:3000])
    assert convert(tmp_path, "--strict", name="strict") == 1
    assert "bag_000" in capsys.readouterr().err
    assert convert(tmp_path) == 0
    captured = capsys.readouterr()
    assert "bad bag" in captured.err and "bag_000: unreadable" in captured.err
    assert "1 bad bag" in captured.out
    assert sum(count_episodes(tmp_path / "rlds" / "cubes").values()) == 1
    # After a repair it converts: bad bags are not recorded as converted.
    demos(tmp_path / "again", 1)
    bad.write_bytes((tmp_path / "again" / "bag_000" / "bag_000.mcap").read_bytes())
    assert convert(tmp_path) == 0
    assert sum(count_episodes(tmp_path / "rlds" / "cubes").values()) == 2


def test_bag_with_other_image_size_is_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demos(tmp_path / "bags", 1)
    demos(tmp_path / "bags", 1, first=1, frames=np.zeros((6, 10, 10, 3), np.uint8))
    assert convert(tmp_path) == 0
    assert "images are (10, 10, 3), those of the dataset are (32, 32, 3)" in capsys.readouterr().err


def test_wrong_option_is_one_line_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demos(tmp_path / "bags", 1)
    assert convert(tmp_path, "--actions", "achieved") == 1
    assert "--rate None" in capsys.readouterr().err
    assert convert(tmp_path, "--image-size", "big") == 1
    assert "--image-size 'big'" in capsys.readouterr().err
    assert convert(tmp_path, name="Bad Name") == 1
    assert "Bad Name" in capsys.readouterr().err
    assert convert(tmp_path) == 0
    assert convert(tmp_path, "--no-drop-noops") == 1
    assert "drop_noops: True there, False now" in capsys.readouterr().err


def test_manifest_has_the_result_of_each_bag(tmp_path: Path) -> None:
    demos(tmp_path / "bags", 1)
    demos(tmp_path / "bags", 1, first=1, outcome="failure")
    assert convert(tmp_path) == 0
    manifest = json.loads((tmp_path / "rlds" / "cubes" / "1.0.0" / "manifest.json").read_text())
    by_name = {Path(bag).name: entry for bag, entry in manifest["sources"].items()}
    assert len(by_name["bag_000"]["episodes"]) == 1 and by_name["bag_000"]["dropped"] == {}
    assert by_name["bag_001"]["episodes"] == [] and set(by_name["bag_001"]["dropped"].values()) == {"failure"}
    assert manifest["settings"]["actions"] == "policy/action_chunk"


def test_tfrecord_holds_the_same_data_as_array_record(tmp_path: Path) -> None:
    demos(tmp_path / "bags", 5)
    assert convert(tmp_path, name="array") == 0
    assert convert(tmp_path, "--file-format", "tfrecord", name="tf") == 0
    one, two = (list(read_episodes(tmp_path / "rlds", name, split="all")) for name in ("array", "tf"))
    assert [e.episode_id for e in one] == [e.episode_id for e in two]
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_array_equal(ours.actions, theirs.actions)
        np.testing.assert_array_equal(list(ours.images), list(theirs.images))
        np.testing.assert_array_equal(ours.stamps, theirs.stamps)
    assert [e.episode_id for e in read_episodes(tmp_path / "rlds", "tf", split="all", start=2, stop=4)] == [
        e.episode_id for e in two[2:4]
    ]
    (shard,) = (tmp_path / "rlds" / "tf" / "1.0.0").glob("tf-train.tfrecord-*")
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged"):
        list(read_episodes(tmp_path / "rlds", "tf"))


def test_renamed_copy_is_a_duplicate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plain bags have no episode id, so their content is compared."""
    plain = {"skip_topics": ("episode",)}
    demos(tmp_path / "bags", 2, **plain)
    write_demo(tmp_path / "bags" / "renamed", random_demo(np.random.default_rng(0), 6, start=START, **plain))
    assert convert(tmp_path) == 0
    assert "2 episodes (12 steps) added, 1 episode dropped: duplicate" in capsys.readouterr().out


def test_wrist_cameras_become_observations(tmp_path: Path) -> None:
    maker = BagMaker(tmp_path / "bags" / "bag")
    demo = random_demo(np.random.default_rng(0), 6)
    fill(maker, demo)
    wrist = np.random.default_rng(1).integers(0, 256, (6, 12, 20, 3), dtype=np.uint8)
    for stamp, frame in zip(demo.stamps, wrist, strict=True):
        maker.image(stamp, frame, topic="wrist/image_raw")
    maker.writer.close()
    camera = ["--camera", "wrist_image=wrist/image_raw", "--image-encoding", "png", "--val-fraction", "0"]
    assert convert(tmp_path, *camera) == 0
    (episode,) = read_episodes(tmp_path / "rlds")
    np.testing.assert_array_equal(list(episode.images), demo.frames)
    np.testing.assert_array_equal(list(episode.extra_images["wrist_image"]), wrist)
    assert episode.stamps is not None and episode.stamps.tolist() == demo.stamps
    facts = json.loads((tmp_path / "rlds" / "cubes" / "1.0.0" / "reference_loader.json").read_text())
    assert facts["config"]["image_obs_keys"] == {"primary": "image", "secondary": None, "wrist": "wrist_image"}
    assert convert(tmp_path, "--camera", "state=wrist/image_raw") == 1


def test_growing_list_of_times_adds_only_new_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maker = BagMaker(tmp_path / "bags" / "long")
    for index in range(3):
        demo = random_demo(np.random.default_rng(index), 5, start=START + index * 60 * 10**9, skip_topics=("episode",))
        fill(maker, demo)
    maker.writer.close()
    listed = tmp_path / "times.csv"
    listed.write_text("bag,start,end,instruction,outcome\nlong,0,30,one,success\nlong,59.9,90,two,failure\n")
    assert convert(tmp_path, "--times", str(listed)) == 0
    assert "1 episode (5 steps) added, 1 episode dropped: failure" in capsys.readouterr().out
    with listed.open("a") as file:
        file.write("long,119.9,150,three,success\n")
    assert convert(tmp_path, "--times", str(listed)) == 0
    assert sorted(e.instruction for e in read_episodes(tmp_path / "rlds", split="all")) == ["one", "three"]
    capsys.readouterr()
    assert convert(tmp_path, "--times", str(listed)) == 0
    assert "1 bag known" in capsys.readouterr().out


def test_bad_episode_does_not_affect_the_rest_of_its_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maker = BagMaker(tmp_path / "bags" / "long")
    for index in range(3):
        demo = random_demo(np.random.default_rng(index), 5, start=START + index * 60 * 10**9)
        if index == 0:
            # The size changes within the episode, after its first frame.
            image = maker.image
            maker.image = (
                lambda stamp, frame, make=image, first=demo.stamps[0]: make(  # type: ignore[method-assign]
                    stamp, frame if stamp == first else frame[:16]
                )
            )
            fill(maker, demo)
            maker.image = image  # type: ignore[method-assign]
        else:
            fill(maker, demo)
    maker.writer.close()
    assert convert(tmp_path, "--strict", name="strict") == 1
    assert "(16, 32, 3), those before are (32, 32, 3)" in capsys.readouterr().err
    assert convert(tmp_path) == 0
    captured = capsys.readouterr()
    assert "bad episode" in captured.err and "1 bad episode" in captured.out
    assert sum(count_episodes(tmp_path / "rlds" / "cubes").values()) == 2


BAD = {
    "truncated": "unreadable",
    "missing": "topic robot/ee_pose is missing",
    "wrong_type": "expected geometry_msgs/msg/PoseStamped",
    "silent": "no instruction",
    "backwards": "time goes back",
    "changing": "those before are",
    "nan": "not a finite number",
}


def test_each_kind_of_bad_bag_is_reported_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def made(name: str, then: Callable[[BagMaker], None] = lambda maker: None, **changes: object) -> None:
        maker = BagMaker(tmp_path / "bags" / name)
        fill(maker, random_demo(np.random.default_rng(len(name)), 6, **changes))
        then(maker)
        maker.writer.close()

    made("good")
    made("truncated")
    file = tmp_path / "bags" / "truncated" / "truncated.mcap"
    file.write_bytes(file.read_bytes()[:-500])
    made("missing", skip_topics=("robot/ee_pose",))
    made("wrong_type", lambda maker: maker.text("robot/ee_pose", START, "no"), skip_topics=("robot/ee_pose",))
    made("silent", instruction="", skip_topics=("episode", "instruction"))
    made("backwards", lambda maker: maker.image(START, np.zeros((32, 32, 3), np.uint8), delay=10**9))
    small = np.zeros((6, 32, 32, 3), np.uint8)
    made("changing", lambda maker: None, frames=[*small[:5], small[5, :8]])
    poses = random_demo(np.random.default_rng(0), 6).poses
    poses[3, 1] = np.nan
    made("nan", poses=poses)
    assert convert(tmp_path) == 0
    said = {
        line.split("/bags/")[1].split(":")[0]: line for line in capsys.readouterr().err.splitlines() if "bad" in line
    }
    assert said.keys() == BAD.keys()
    for name, reason in BAD.items():
        assert reason in said[name], said[name]
    assert sum(count_episodes(tmp_path / "rlds" / "cubes").values()) == 1


def test_beam_writes_the_same_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demos(tmp_path / "bags", 4)
    write_demo(tmp_path / "bags" / "copy", random_demo(np.random.default_rng(2), 6, start=START + 120 * 10**9))
    (tmp_path / "bags" / "broken.mcap").write_bytes(b"nothing")
    assert convert(tmp_path, "--val-fraction", "0.5", name="plain") == 0
    capsys.readouterr()
    assert convert(tmp_path, "--val-fraction", "0.5", "--beam", name="beam") == 0
    captured = capsys.readouterr()
    assert "4 episodes (24 steps) added" in captured.out and "1 bad bag" in captured.out
    assert "broken.mcap: unreadable" in captured.err
    for split in ("train", "val"):
        one, two = ({e.content: e for e in map(Content, read_episodes(tmp_path / "rlds", name, split))} for name in
                    ("plain", "beam"))  # fmt: skip
        assert one.keys() == two.keys() and one
    assert read_statistics(tmp_path / "rlds" / "plain").hash == read_statistics(tmp_path / "rlds" / "beam").hash
    assert convert(tmp_path, "--beam", name="beam") == 1, "it cannot append"


class Content:
    """An episode by what is in it."""

    def __init__(self, episode: Episode) -> None:
        frames = np.stack(list(episode.images)).tobytes()
        self.content = (episode.actions.tobytes(), episode.states.tobytes(), frames, episode.instruction)


def test_conversion_without_a_bag_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path), "--dataset-name", "n"]) == 2
    assert "name at least one bag" in capsys.readouterr().err
