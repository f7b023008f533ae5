"""Export to and import from LeRobot: both layouts, tables and videos, and datasets of others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openvla_training.lerobot.cli import main
from openvla_training.lerobot.layout import VERSIONS
from openvla_training.rlds.features import EncodedEpisode, Episode
from openvla_training.rlds.images import encode_image
from openvla_training.rlds.reader import read_episodes
from openvla_training.rlds.writer import open_writer

SHAPES = {"image": (32, 48, 3), "wrist_image": (16, 16, 3)}


def smooth(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """A gradient of random colours, which a video codec preserves."""
    height, width, _ = shape
    ramp = np.linspace(0, 1, width)[None, :, None] * np.linspace(0.5, 1, height)[:, None, None]
    return (ramp * rng.integers(80, 256, 3)).astype(np.uint8)


@pytest.fixture
def dataset(tmp_path: Path) -> list[Episode]:
    with open_writer(tmp_path / "rlds", "demo", settings={"image_encoding": "png"}, val_fraction=0.3) as writer:
        for seed, steps in enumerate((4, 7, 1, 3)):
            rng = np.random.default_rng(seed)
            frames = {
                key: [encode_image(smooth(rng, shape), "png") for _ in range(steps)] for key, shape in SHAPES.items()
            }
            episode = EncodedEpisode(
                episode_id=f"episode {seed}", images=frames["image"],
                extra_images={"wrist_image": frames["wrist_image"]},
                states=rng.normal(size=(steps, 8)).astype(np.float32), instructions=[f"task {seed % 2} ü"] * steps,
                actions=rng.normal(size=(steps, 7)).astype(np.float32), outcome="success", score=0.25,
                stamps=10**18 + np.arange(steps) * 200_000_000,
            )  # fmt: skip
            writer.add(episode, SHAPES)
    return list(read_episodes(tmp_path / "rlds", split="all"))


@pytest.mark.parametrize("images", ["png", "video"])
@pytest.mark.parametrize("version", VERSIONS)
def test_export_and_import_are_inverse(tmp_path: Path, dataset: list[Episode], version: str, images: str) -> None:
    out = tmp_path / "lerobot"
    assert main(["export", str(tmp_path / "rlds"), "--output", str(out), "--version", version, "--images", images]) == 0
    info = json.loads((out / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["fps"]) == (version, 5)
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (4, 15, 2)
    assert info["features"]["observation.images.image"]["dtype"] == ("image" if images == "png" else "video")
    back = ["import", str(out), "--output", str(tmp_path / "back"), "--dataset-name", "demo", "--image-encoding", "png"]
    assert main([*back, "--no-report"]) == 0
    again = {one.episode_id: one for one in read_episodes(tmp_path / "back", split="all")}
    assert len(again) == 4
    for one in dataset:
        two = again[one.episode_id]
        for name in ("states", "actions", "stamps"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        assert (one.instruction, one.outcome, one.score) == (two.instruction, two.outcome, two.score)
        for ours, theirs in (
            (one.images, two.images),
            (one.extra_images["wrist_image"], two.extra_images["wrist_image"]),
        ):
            difference = np.abs(np.array(list(ours), int) - np.array(list(theirs), int))
            assert difference.max() == 0 if images == "png" else difference.mean() < 4


def test_v3_tables_locate_each_episode(tmp_path: Path, dataset: list[Episode]) -> None:
    out = tmp_path / "lerobot"
    assert main(["export", str(tmp_path / "rlds"), "--output", str(out), "--version", "v3.0"]) == 0
    rows = pq.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    data = pq.read_table(out / "data/chunk-000/file-000.parquet").to_pydict()
    key = "videos/observation.images.image"
    position = 0
    for row, episode in zip(rows, dataset, strict=True):
        steps = len(episode.actions)
        assert (row["dataset_from_index"], row["dataset_to_index"], row["length"]) == (
            position,
            position + steps,
            steps,
        )
        assert row[f"{key}/from_timestamp"] == pytest.approx(position / 5)
        np.testing.assert_array_equal(data["action"][position : position + steps], episode.actions)
        assert data["frame_index"][position : position + steps] == list(range(steps))
        assert row["tasks"] == [episode.instruction]
        np.testing.assert_allclose(row["stats/action/max"], episode.actions.max(axis=0), rtol=1e-6)
        position += steps
    assert data["index"] == list(range(15))
    stats = json.loads((out / "meta/stats.json").read_text())
    whole = np.concatenate([episode.actions for episode in dataset]).astype(float)
    np.testing.assert_allclose(stats["action"]["mean"], whole.mean(axis=0))
    np.testing.assert_allclose(stats["action"]["std"], whole.std(axis=0))
    tasks = pq.read_table(out / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def others(root: Path, actions: np.ndarray, state: int = 2) -> Path:
    """A dataset of another tool: v2.0, other names, numbers in another order, PNG columns."""
    frames = [smooth(np.random.default_rng(n), (8, 8, 3)) for n in range(len(actions))]
    (root / "meta").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    info = {
        "codebase_version": "v2.0", "fps": 10, "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "features": {"observation.images.top": {"dtype": "image", "shape": [8, 8, 3]}, "action": {"dtype": "float32"}},
    }  # fmt: skip
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/tasks.jsonl").write_text('{"task_index": 3, "task": "stack"}\n')
    (root / "meta/episodes.jsonl").write_text(json.dumps({"episode_index": 0, "length": len(actions)}) + "\n")
    table = {
        "action": actions.tolist(), "observation.state": [[0.0] * state] * len(actions),
        "task_index": [3] * len(actions), "timestamp": [n / 10 for n in range(len(actions))],
        "observation.images.top": [{"bytes": encode_image(frame, "png"), "path": None} for frame in frames],
    }  # fmt: skip
    pq.write_table(pa.table(table), root / "data/chunk-000/episode_000000.parquet")
    return root


def test_foreign_dataset_needs_its_columns_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    actions = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)
    actions[:, 8] = [1, 1, -1, -1, 1]  # -1 open, 1 closed
    root = others(tmp_path / "theirs", actions)
    command = ["import", str(root), "--output", str(tmp_path / "rlds"), "--dataset-name", "theirs", "--no-report"]
    assert main(command) == 1
    assert "action has (9,) numbers, 7 are needed; select them with --action-columns" in capsys.readouterr().err
    command += ["--action-columns", "0,1,2,3,4,5,8", "--gripper-open", "-1", "--gripper-closed", "1"]
    assert main(command) == 1
    assert "observation.state has (2,) numbers" in capsys.readouterr().err
    assert main([*command, "--no-state", "--val-fraction", "0"]) == 0
    (episode,) = read_episodes(tmp_path / "rlds")
    np.testing.assert_array_equal(episode.actions[:, :6], actions[:, :6])
    np.testing.assert_array_equal(episode.actions[:, 6], [0, 0, 1, 1, 0])
    assert episode.instruction == "stack" and episode.images[0].shape == (8, 8, 3)
    assert np.diff(episode.stamps).tolist() == [100_000_000] * 4


def test_wrong_input_is_one_line_on_stderr(
    tmp_path: Path, dataset: list[Episode], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").mkdir()
    assert main(["export", str(tmp_path / "rlds"), "--output", str(tmp_path / "taken")]) == 1
    assert "exists already" in capsys.readouterr().err
    command = ["import", str(tmp_path / "taken"), "--output", str(tmp_path / "x"), "--dataset-name", "x"]
    assert main(command) == 1
    assert "is it a LeRobot dataset?" in capsys.readouterr().err
    out = tmp_path / "lerobot"
    assert main(["export", str(tmp_path / "rlds"), "--output", str(out)]) == 0
    next((out / "videos").rglob("*.mp4")).write_bytes(b"no video")
    command[1] = str(out)
    assert main(command) == 1
    assert "not a video that ffmpeg can read" in capsys.readouterr().err
    assert main([*command, "--camera", "image=observation.images.absent"]) == 1
    assert "the dataset has observation.images.image" in capsys.readouterr().err
