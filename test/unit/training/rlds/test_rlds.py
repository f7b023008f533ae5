"""RLDS datasets: TFDS and our reader return what was written, also after a crash."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings, strategies as st

from openvla_policy.contract.statistics import compute
from openvla_training.rlds.cli import stats_main
from openvla_training.rlds.features import EncodedEpisode
from openvla_training.rlds.images import decode_image, encode_image
from openvla_training.rlds.reader import count_episodes, find_dataset, read_episodes
from openvla_training.rlds.statistics import dataset_statistics, read_statistics, write_statistics
from openvla_training.rlds.writer import DatasetWriter, open_writer, split_of

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures" / "statistics"
SETTINGS = {"image_encoding": "png"}
SHAPE = (8, 12, 3)


def episode(seed: int, steps: int = 4, **changes: object) -> EncodedEpisode:
    rng = np.random.default_rng(seed)
    fields = {
        "episode_id": f"episode_{seed}",
        "images": [encode_image(rng.integers(0, 256, SHAPE, dtype=np.uint8), "png") for _ in range(steps)],
        "states": rng.normal(size=(steps, 8)).astype(np.float32),
        "actions": rng.normal(size=(steps, 7)).astype(np.float32),
        "instructions": [f"do {seed}"] * steps,
        "outcome": "success",
        "score": 0.5,
        "file_path": f"/bags/{seed}",
    }
    return EncodedEpisode(**(fields | changes))  # type: ignore[arg-type]


def write(folder: Path, seeds: range, **options: object) -> Path:
    with open_writer(folder, "demo", settings=SETTINGS, **options) as writer:
        for seed in seeds:
            writer.add(episode(seed), SHAPE)
        return writer.folder


def test_tfds_reads_the_dataset(tmp_path: Path) -> None:
    folder = write(tmp_path, range(5), val_fraction=0.0)
    builder = tfds.builder_from_directory(folder)
    assert builder.name == "demo" and builder.info.splits["train"].num_examples == 5
    source = builder.as_data_source("train")
    for seed in range(5):
        wanted, record = episode(seed), source[seed]
        steps = list(record["steps"])
        assert [bool(s["is_first"]) for s in steps] == [True, False, False, False]
        assert [bool(s["is_last"]) for s in steps] == [False, False, False, True]
        assert [float(s["reward"]) for s in steps] == [0, 0, 0, 1]
        assert steps[0]["language_instruction"] == f"do {seed}".encode()
        assert record["episode_metadata"]["outcome"] == b"success"
        for index, step in enumerate(steps):
            np.testing.assert_array_equal(step["observation"]["state"], wanted.states[index])
            np.testing.assert_array_equal(step["action"], wanted.actions[index])
            assert step["observation"]["image"].shape == SHAPE


@settings(max_examples=10)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    per_shard=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    sentence=st.text(min_size=1, max_size=30).filter(lambda text: text.encode("utf-8", "ignore").decode() == text),
)
def test_reader_returns_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], per_shard: int, seed: int, sentence: str
) -> None:
    folder = tmp_path_factory.mktemp("rlds")
    given_episodes = [episode(seed + i, steps, instructions=[sentence] * steps) for i, steps in enumerate(lengths)]
    with open_writer(folder, "demo", settings=SETTINGS, val_fraction=0.3, episodes_per_shard=per_shard) as writer:
        splits = [writer.add(one, SHAPE) for one in given_episodes]
    for split in set(splits):
        wanted = [one for one, part in zip(given_episodes, splits, strict=True) if part == split]
        got = list(read_episodes(folder, split=split))
        assert [one.episode_id for one in got] == [one.episode_id for one in wanted]
        for ours, theirs in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(ours.actions, theirs.actions)
            np.testing.assert_array_equal(ours.states, theirs.states)
            np.testing.assert_array_equal(list(ours.images), [decode_image(data) for data in theirs.images])
            assert (ours.instruction, ours.outcome, ours.score) == (sentence, "success", 0.5)
    assert sum(1 for _ in read_episodes(folder, split="all")) == len(lengths)


def test_images_are_rgb_and_png_is_exact(tmp_path: Path) -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    for encoding in ("png", "jpeg"):
        back = decode_image(encode_image(red, encoding))
        assert np.abs(back.astype(int) - red).max() <= (0 if encoding == "png" else 3)
    with pytest.raises(ValueError, match="float64"):
        encode_image(red.astype(float))
    with pytest.raises(ValueError, match="neither a JPEG nor a PNG"):
        decode_image(b"nonsense")


def test_slices_of_images_stay_encoded_and_ranges_select_episodes(tmp_path: Path) -> None:
    folder = write(tmp_path, range(6), val_fraction=0.0, episodes_per_shard=2)
    (third,) = read_episodes(folder, start=2, stop=3)
    assert third.episode_id == "episode_2"
    np.testing.assert_array_equal(third.images[1:][0], third.images[1])
    assert len(third.images[1:]) == 3


def test_second_run_appends_unless_settings_differ(tmp_path: Path) -> None:
    write(tmp_path, range(3), val_fraction=0.0)
    write(tmp_path, range(3, 5), val_fraction=0.0)
    assert [one.episode_id for one in read_episodes(tmp_path)] == [f"episode_{seed}" for seed in range(5)]
    writer = open_writer(tmp_path, "demo", settings={"image_encoding": "jpeg"}, val_fraction=0.0)
    with pytest.raises(ValueError, match="image_encoding: 'png' there, 'jpeg' now"):
        writer.__enter__()


def test_error_loses_only_the_open_shard(tmp_path: Path) -> None:
    def write_five_and_fail() -> None:
        with open_writer(tmp_path, "demo", settings=SETTINGS, val_fraction=0.0, episodes_per_shard=2) as writer:
            for seed in range(5):
                writer.add(episode(seed), SHAPE)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_five_and_fail()
    assert count_episodes(tmp_path) == {"train": 4}
    write(tmp_path, range(4, 6), val_fraction=0.0, episodes_per_shard=2)
    assert [one.episode_id for one in read_episodes(tmp_path)] == [f"episode_{seed}" for seed in range(6)]


def _write_forever(folder: Path) -> None:
    with open_writer(folder, "demo", settings=SETTINGS, val_fraction=0.2, episodes_per_shard=2) as writer:
        for seed in range(100_000):
            writer.add(episode(seed), SHAPE)


@pytest.mark.parametrize("delay", [0.0, 0.13, 0.31])
def test_killed_writer_leaves_a_dataset_that_can_continue(tmp_path: Path, delay: float) -> None:
    process = subprocess.Popen([sys.executable, __file__, str(tmp_path)])
    manifest = tmp_path / "demo" / "1.0.0" / "manifest.json"
    end = time.monotonic() + 60
    while not manifest.exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    process.wait()
    done = [one for shard in json.loads(manifest.read_text())["shards"] for one in shard["episodes"]]
    write(tmp_path, range(100_000, 100_003), val_fraction=0.2, episodes_per_shard=2)
    ids = [one.episode_id for one in read_episodes(tmp_path, split="all") if one.images[0].shape == SHAPE]
    assert sorted(ids) == sorted([*done, *(f"episode_{seed}" for seed in range(100_000, 100_003))])


def test_split_depends_only_on_the_id() -> None:
    ids = [f"episode_{number}" for number in range(4000)]
    val = {one for one in ids if split_of(one, 0.05) == "val"}
    assert 130 <= len(val) <= 270
    assert val <= {one for one in ids if split_of(one, 0.1) == "val"}
    assert not any(split_of(one, 0.0) == "val" for one in ids)


def test_wrong_input_is_reported_with_the_choices(tmp_path: Path) -> None:
    folder = write(tmp_path, range(3), val_fraction=0.0)
    with pytest.raises(ValueError, match=r"no split 'val'; choose one of train, all"):
        next(read_episodes(folder, split="val"))
    with pytest.raises(FileNotFoundError, match=r"'other'.*datasets there: demo"):
        find_dataset(tmp_path, "other")
    writer = DatasetWriter(tmp_path, "demo", settings=SETTINGS, val_fraction=0.0)
    with pytest.raises(ValueError, match="image"):
        writer.add(episode(9), (9, 9, 3))
    writer.abandon()
    with pytest.raises(ValueError, match="not a finite number"):
        episode(1, actions=np.full((4, 7), np.nan, np.float32))
    with pytest.raises(ValueError, match="4 images"):
        episode(1, states=np.zeros((3, 8), np.float32))


def test_statistics_equal_the_reference(tmp_path: Path) -> None:
    """The same trajectories give the reference's numbers, up to float32 summation order."""
    arrays = np.load(FIXTURES / "trajectories.npz")
    with open_writer(tmp_path, "fake", settings=SETTINGS, val_fraction=0.5) as writer:
        for index in range(3):
            actions, states = arrays[f"action{index}"], arrays[f"proprio{index}"]
            images = episode(0, 1).images * len(actions)
            texts = ["x"] * len(actions)
            writer.add(EncodedEpisode(f"{index}", images, states, actions, texts), SHAPE)
    (expected,) = json.loads((FIXTURES / "dataset_statistics.json").read_text()).values()
    (name,) = (written := json.loads(write_statistics(tmp_path).read_text())).keys()
    assert name == "fake"
    for field in ("action", "proprio"):
        for key in ("mean", "std", "max", "min", "q01", "q99"):
            # Summation order is not fixed by the split: float32 mean and std may differ in their last bit.
            tolerance = 1e-6 if key in ("mean", "std") else 0.0
            np.testing.assert_allclose(written[name][field][key], expected[field][key], rtol=tolerance, atol=tolerance)
    assert written[name]["num_transitions"] == expected["num_transitions"]
    assert written[name]["num_trajectories"] == expected["num_trajectories"]
    assert read_statistics(tmp_path).hash == dataset_statistics([tmp_path]).hash


def test_stats_command_takes_several_datasets_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = write(tmp_path / "a", range(3)), write(tmp_path / "b", range(3, 5))
    assert stats_main([str(one), str(two), "--output", str(tmp_path / "joint.json"), "--name", "both"]) == 0
    joint = json.loads((tmp_path / "joint.json").read_text())["both"]
    wanted = compute([episode(seed).actions for seed in range(5)])
    np.testing.assert_array_equal(joint["action"]["q99"], wanted.action.q99)
    assert "5 episodes, 20 steps" in capsys.readouterr().out
    assert stats_main([str(tmp_path / "none")]) == 1


def test_statistics_without_a_dataset_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert stats_main([]) == 2
    assert "name at least one dataset folder" in capsys.readouterr().err


if __name__ == "__main__":
    _write_forever(Path(sys.argv[1]))
