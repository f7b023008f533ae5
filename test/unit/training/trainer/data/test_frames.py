"""Datasets flattened to frames on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from openvla_policy.contract.image import ImagePreparation
from openvla_training.trainer.data.frames import Frames, ImageRows, load_frames

PREPARATION = ImagePreparation.standard(28, ("imagenet", "half"))


@pytest.fixture(scope="module")
def frames(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Frames:
    return load_frames([str(data)], "train", PREPARATION, tmp_path_factory.mktemp("cache"))


def test_cache_of_other_data_is_not_used(data: Path, tmp_path: Path) -> None:
    load_frames([str(data)], "train", PREPARATION, tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    for shard in copy.rglob("*array_record*"):
        shard.touch()
    load_frames([str(copy)], "train", PREPARATION, tmp_path)
    assert len([path for path in tmp_path.iterdir() if (path / "done.json").exists()]) == 2


def test_trajectories_are_the_episodes(frames: Frames) -> None:
    assert len(frames.trajectories()) == int(frames.episode[-1]) + 1


def test_several_datasets_are_joined(data: Path, frames: Frames, tmp_path: Path) -> None:
    both = load_frames([str(data), str(data)], "train", PREPARATION, tmp_path)
    count = len(frames)
    assert len(both) == len(both.images) == 2 * count
    rows = np.array([3, count - 1, count, count + 3])
    np.testing.assert_array_equal(both.images[rows], frames.images[rows % count])
    assert both.episode[count] == frames.episode[-1] + 1


def test_subset_has_the_first_matching_episodes(frames: Frames) -> None:
    subset = frames.subset("pull", episodes=4)
    assert {subset.instructions[number] for number in subset.instruction} == {"pull the box"}
    assert len(subset.trajectories()) == 4 and len(subset) == len(subset.images) == 32
    pulls = [n for n in range(len(frames)) if frames.instructions[frames.instruction[n]] == "pull the box"][:32]
    np.testing.assert_array_equal(subset.images[5], frames.images[pulls[5]])
    np.testing.assert_array_equal(subset.actions, frames.actions[pulls])


def test_subset_without_a_match_names_instructions(frames: Frames) -> None:
    with pytest.raises(ValueError, match="data.sentences: 'fly' matches none of the instructions .*, such as: pull"):
        frames.subset("fly")


def test_rows_of_several_arrays_are_read_in_the_order_asked_for() -> None:
    arrays = [np.full((2, 1, 1, 3), value, np.uint8) for value in (1, 2)]
    rows = ImageRows(arrays).subset(np.array([3, 0, 2]))
    assert rows[np.array([2, 1, 0])][:, 0, 0, 0].tolist() == [2, 1, 2]
    assert rows[1].shape == (1, 1, 3)
