"""The streaming loader: samples that do not depend on processes or threads, exact resume, shares, bounds."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.checkpoint.folder import load_folder
from openvla_policy.contract.statistics import compute
from openvla_training.openx.cli import main as mixture_command
from openvla_training.openx.dataset import Dataset
from openvla_training.openx.mixture import Mixture, load_mixture
from openvla_training.openx.registry import find
from openvla_training.openx.source import EpisodeSource
from openvla_training.openx.standardise import is_moving
from openvla_training.openx.statistics import dataset_statistics
from openvla_training.openx.synthetic import write_synthetic
from openvla_training.rlds.features import EncodedEpisode
from openvla_training.rlds.images import encode_image
from openvla_training.rlds.writer import open_writer
from openvla_training.trainer.config import AugmentConfig
from openvla_training.trainer.data.batch import Batch
from openvla_training.trainer.data.loader import Loader, LoaderConfig, merge_states
from openvla_training.trainer.data.sample_stream import EpisodeReader, Stream

MIXTURE = Mixture("m", {"bridge_orig": 1.0, "droid": 0.5, "viola": 2.0}, until={"droid": 0.5})
CONFIG = LoaderConfig(batch_size=8, lanes=2, steps=30, buffer_bytes=1 << 20)
STEPS = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("openx")
    for name in MIXTURE.datasets:
        kind = "array_record" if name == "viola" else "tfrecord"
        write_synthetic(root, name, episodes=20, steps=(5, 9), file_format=kind)
    return root


@pytest.fixture(scope="module")
def checkpoint(fixtures) -> Checkpoint:
    loaded = load_folder(fixtures / "parity" / "fused_tiny" / "checkpoint")
    loaded.preparation = replace(loaded.preparation, size=(32, 32))
    return loaded


def run(data: Path, checkpoint: Checkpoint, steps: int = STEPS, **options) -> list[Batch]:
    options = {"config": CONFIG, "augment": AugmentConfig(), **options}
    with Loader(MIXTURE, data, checkpoint, **options) as loader:
        return list(itertools.islice(loader, steps))


@pytest.fixture(scope="module")
def whole(data, checkpoint) -> list[Batch]:
    return run(data, checkpoint)


def assert_same(batches: list[Batch], wanted: list[Batch]) -> None:
    assert len(batches) == len(wanted)
    for ours, theirs in zip(batches, wanted, strict=True):
        assert ours.origins == theirs.origins
        for name in ("input_ids", "labels", "attention_mask", "images", "actions"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


@pytest.mark.parametrize("workers", [0, 1, 5])
def test_samples_do_not_depend_on_the_number_of_threads(data, checkpoint, whole, workers):
    assert_same(run(data, checkpoint, workers=workers), whole)


def test_another_seed_draws_other_samples(data, checkpoint, whole):
    other = run(data, checkpoint, 5, config=replace(CONFIG, seed=1))
    assert [batch.origins for batch in other] != [batch.origins for batch in whole[:5]]


@pytest.mark.parametrize("stopped", [1, 14, 23])
def test_loader_resumes_at_the_exact_sample(data, checkpoint, whole, stopped):
    with Loader(MIXTURE, data, checkpoint, CONFIG, augment=AugmentConfig()) as loader:
        assert_same(list(itertools.islice(loader, stopped)), whole[:stopped])
        state = json.loads(json.dumps(loader.state()))
    assert len(json.dumps(state)) < 2000
    assert_same(run(data, checkpoint, STEPS - stopped, state=state), whole[stopped:])


def test_two_ranks_share_a_batch_and_resume_as_one(data, checkpoint, whole):
    loaders = [Loader(MIXTURE, data, checkpoint, CONFIG, augment=AugmentConfig(), rank=r, world=2) for r in range(2)]
    seen: list[set] = [set(), set()]
    for step in range(10):
        parts = [next(loader) for loader in loaders]
        assert parts[0].origins + parts[1].origins == whole[step].origins
        assert torch.equal(torch.cat([part.images for part in parts]), whole[step].images)
        for rank, part in enumerate(parts):
            seen[rank].update(part.origins)
    assert not seen[0] & seen[1]
    state = merge_states([loader.state() for loader in loaders])
    for loader in loaders:
        loader.close()
    assert_same(run(data, checkpoint, STEPS - 10, state=state), whole[10:])
    with pytest.raises(ValueError, match="the state has no lane 1; merge the states of all ranks"):
        Loader(MIXTURE, data, checkpoint, CONFIG, state=loaders[0].state())


def test_loader_resumes_only_with_its_own_settings(data, checkpoint):
    with Loader(MIXTURE, data, checkpoint, CONFIG, workers=0) as loader:
        state = loader.state()
    with pytest.raises(ValueError, match="has seed 0, this one 3; use the same value, or another output"):
        Loader(MIXTURE, data, checkpoint, replace(CONFIG, seed=3), state=state)


def test_loader_continues_beyond_its_steps_with_the_same_schedule(data, checkpoint):
    config = replace(CONFIG, steps=2)
    with Loader(MIXTURE, data, checkpoint, config, workers=0) as loader:
        drawn = Counter(name for batch in itertools.islice(loader, 8) for name, _, _ in batch.origins)
        state = loader.state()
    assert drawn["viola"] and drawn["bridge_orig"]  # steps 3 to 8 are drawn as the last ones of training
    with pytest.raises(ValueError, match="has until {'droid': 0.5}, this one {}"):
        Loader(replace(MIXTURE, until={}), data, checkpoint, config, state=state)


def test_inconsistent_settings_are_explained(data, checkpoint, tmp_path):
    with pytest.raises(ValueError, match="batch_size: 8 is not a multiple of the 3 lanes"):
        LoaderConfig(batch_size=8, lanes=3)
    with pytest.raises(ValueError, match="data.lanes: 2 cannot be divided among 4 processes; choose a multiple of 4"):
        Loader(MIXTURE, data, checkpoint, CONFIG, world=4)
    with pytest.raises(FileNotFoundError, match="'kuka' is not in .*; datasets there: bridge_orig, droid, viola"):
        Loader(Mixture("m", {"kuka": 1}), data, checkpoint, CONFIG)


def test_datasets_are_drawn_with_the_mixtures_shares(data, checkpoint):
    config = LoaderConfig(batch_size=100, steps=20, buffer_bytes=1 << 20)
    with Loader(MIXTURE, data, checkpoint, config, workers=0) as loader:
        for steps in (range(10), range(10, 20)):
            drawn = Counter(name for _ in steps for name, _, _ in next(loader).origins)
            for name, share in loader.shares(steps[0]).items():
                deviation = 4 * np.sqrt(1000 * share * (1 - share))
                assert abs(drawn[name] - 1000 * share) <= deviation, (name, steps)
    assert drawn["droid"] == 0


def test_epoch_has_every_step_once(data):
    row = find("viola")
    folder = data / "viola" / "0.1.0"
    reader = EpisodeReader(row, folder, dataset_statistics(row, folder))
    every = {(s.episode, s.step) for index in range(len(reader)) for s in reader.read(index, np.random.default_rng(0))}
    for budget in (1, 5000, 1 << 30):
        lanes = [Stream(reader, seed=0, lane=lane, lanes=2, budget=budget) for lane in range(2)]
        epochs: list[list] = [[], []]
        for stream in lanes:
            while stream.state["epoch"] == 0 or (stream.state["start"], stream.state["used"]) != (0, 0):
                sample = stream.draw()
                epochs[stream.state["epoch"]].append((sample.episode, sample.step))
                if stream.state["epoch"] == 1:
                    break
        assert set(epochs[0]) == every and len(epochs[0]) == len(every)
    few = [Stream(reader, seed=0, lane=lane, lanes=8, budget=1 << 30) for lane in range(8)]  # 20 episodes, 8 lanes
    first = [{(s.episode, s.step) for s in (stream.draw() for _ in range(5))} for stream in few]
    assert all(not a & b for a, b in itertools.combinations(first, 2))


def test_block_exceeds_its_budget_by_at_most_one_episode(data):
    row = find("viola")
    folder = data / "viola" / "0.1.0"
    reader = EpisodeReader(row, folder, dataset_statistics(row, folder))
    longest = max(sum(len(s.image) for s in reader.read(i, np.random.default_rng(0))) for i in range(len(reader)))
    stream = Stream(reader, seed=0, lane=0, lanes=1, budget=20_000)
    for _ in range(200):
        stream.draw()
        assert stream.held_bytes <= 20_000 + longest


def lab_dataset(
    root: Path, instructions: list[str], colour=(200, 30, 10), steps: int = 6, size: int = 16, name: str = "lab"
) -> None:
    image = np.zeros((size, size, 3), np.uint8)
    image[:] = colour
    with open_writer(root, name, settings={"image_encoding": "png"}, val_fraction=0.0) as writer:
        for number, text in enumerate(instructions):
            rng = np.random.default_rng(number)
            actions = rng.normal(size=(steps, 7)).astype(np.float32)
            actions[:, 6] = np.arange(steps) % 2
            actions[0, :6] = 0
            writer.add(
                EncodedEpisode(str(number), [encode_image(image, "png")] * steps,
                               np.zeros((steps, 8), np.float32), actions, [text] * steps),
                (size, size, 3),
            )  # fmt: skip


def test_images_keep_their_colours_and_labels_are_the_normalised_actions(tmp_path, checkpoint):
    lab_dataset(tmp_path, ["Lift The Cube"] * 3)
    row = Dataset("lab", action=("action",))
    for bgr, wanted in ((False, [200, 30, 10]), (True, [10, 30, 200])):
        mixture = Mixture("m", {"lab": 1.0}, rows={"lab": replace(row, bgr=bgr)})
        with Loader(mixture, tmp_path, checkpoint, LoaderConfig(batch_size=4, horizon=3), workers=0) as loader:
            batch = next(loader)
            statistics = loader.statistics["lab"]
        assert batch.images.shape == (4, 32, 32, 3) and (batch.images[0, 5, 5] == torch.tensor(wanted)).all()
    trained = checkpoint.action_tokenizer.encode(batch.actions[:, 0].numpy())
    labels = batch.labels[batch.labels != -100].reshape(4, 8)
    np.testing.assert_array_equal(labels[:, :7].numpy(), trained)
    assert (labels[:, 7] == checkpoint.tokenizer.eos_id).all()
    assert batch.actions.shape == (4, 3, 7)
    for (_, episode, step), chunk in zip(batch.origins, batch.actions.numpy(), strict=True):
        rng = np.random.default_rng(episode)
        actions = rng.normal(size=(6, 7)).astype(np.float32)
        actions[:, 6] = np.arange(6) % 2
        actions[0, :6] = 0
        np.testing.assert_array_equal(chunk[0], statistics.normalise(actions[step : step + 1])[0])
        if step == 5:  # after the end: no motion, the gripper unchanged
            np.testing.assert_array_equal(chunk[1:, :6], 0)
            np.testing.assert_array_equal(chunk[1:, 6], chunk[0, 6])
    wanted_statistics = compute([np.zeros((2, 7)), np.ones((2, 7))]).to_json().keys()
    assert statistics.to_json().keys() >= wanted_statistics


def test_row_of_the_how_to_suffices_for_a_dataset(root, tmp_path, checkpoint, capsys):
    page = (root / "docs" / "how-to" / "mixtures.md").read_text("utf-8")
    (example,) = [part.split("```")[0] for part in page.split("```yaml\n")[1:] if "our_kitchen" in part]
    (tmp_path / "ours.yaml").write_text(example)
    lab_dataset(tmp_path / "data", ["push", "pull"] * 2, name="our_kitchen")
    write_synthetic(tmp_path / "data", "bridge_orig", episodes=2)
    assert mixture_command([str(tmp_path / "ours.yaml"), "--data-dir", str(tmp_path / "data")]) == 0
    assert "our_kitchen" in capsys.readouterr().out
    with Loader(load_mixture(tmp_path / "ours.yaml"), tmp_path / "data", checkpoint, CONFIG, workers=0) as loader:
        drawn = Counter(name for batch in itertools.islice(loader, 4) for name, _, _ in batch.origins)
        assert drawn["our_kitchen"] and drawn["bridge_orig"]
        assert loader.statistics["our_kitchen"].action.mask.tolist() == [True] * 6 + [False]


def test_given_statistics_replace_measured_ones(tmp_path, checkpoint):
    lab_dataset(tmp_path, ["push"] * 3)
    mixture = Mixture("m", {"lab": 1.0}, rows={"lab": Dataset("lab", action=("action",))})
    wide = compute([np.full((5, 7), -8.0), np.full((5, 7), 8.0)], mask=(True,) * 6 + (False,))
    config = LoaderConfig(batch_size=4)
    with Loader(mixture, tmp_path, checkpoint, config, workers=0, statistics={"lab": wide}) as loader:
        assert loader.statistics["lab"] is wide
        assert next(loader).actions[..., :6].abs().max() < 0.6  # of eight


def test_images_with_corrected_channels_are_left_unchanged(tmp_path, checkpoint):
    lab_dataset(tmp_path, ["push"] * 3, size=256)
    mixture = Mixture("m", {"lab": 1.0}, rows={"lab": Dataset("lab", action=("action",), bgr=True)})
    with Loader(mixture, tmp_path, checkpoint, LoaderConfig(batch_size=2), workers=0) as loader:
        assert (next(loader).images[0, 5, 5] == torch.tensor([200, 30, 10])).all()


def test_episodes_without_instruction_and_still_steps_are_skipped(tmp_path, checkpoint):
    lab_dataset(tmp_path, ["", "push", "", "pull"])
    row = Dataset("lab", action=("action",), filters=("zero_actions",))
    mixture = Mixture("m", {"lab": 1.0}, rows={"lab": row})
    with Loader(mixture, tmp_path, checkpoint, LoaderConfig(batch_size=8), workers=0) as loader:
        origins = [origin for _ in range(6) for origin in next(loader).origins]
    assert {episode for _, episode, _ in origins} == {1, 3}
    assert {step for _, _, step in origins} == {1, 2, 3, 4, 5}
    still = compute([np.tile([0, 0, 0, 0, 0, 5.0, 1], (4, 1)), np.ones((4, 7)) * [-1, 1, 1, 1, 1, 5, 0]])
    actions = still.normalise(np.array([[0, 0, 0, 0, 0, 5, 1], [0, 0, 0, 0.1, 0, 5, 1]]))
    assert is_moving(actions, still.action).tolist() == [False, True]  # a constant dimension is no motion
    lab_dataset(tmp_path / "silent", [""] * 5)
    with pytest.raises(ValueError, match="'lab': none of its 5 episodes has a sample: they have no instruction"):
        first_batch(tmp_path / "silent", checkpoint, mixture, workers=2)
    with pytest.raises(ValueError, match="none of its 5 episodes has a sample"):
        first_batch(tmp_path / "silent", checkpoint, mixture, workers=0)


def test_lane_without_samples_in_an_epoch_continues_with_the_next(tmp_path):
    lab_dataset(tmp_path, ["push", *[""] * 23])  # one episode of 24 has an instruction; four lanes share them
    row = Dataset("lab", action=("action",))
    folder = tmp_path / "lab" / "1.0.0"
    statistics = dataset_statistics(row, folder)
    reader = EpisodeReader(row, folder, statistics, split="all")
    streams = [Stream(reader, seed=0, lane=lane, lanes=4, budget=1 << 20) for lane in range(4)]
    assert [stream.draw().episode for stream in streams] == [0] * 4
    assert sum(stream.state["epoch"] == 0 for stream in streams) == 1  # the others went on to a later epoch


def first_batch(root: Path, checkpoint: Checkpoint, mixture: Mixture, workers: int) -> Batch:
    with Loader(mixture, root, checkpoint, LoaderConfig(batch_size=8), workers=workers) as loader:
        return next(loader)


def test_success_filter_keeps_successful_episodes(tmp_path):
    folder = write_synthetic(tmp_path, "kuka", episodes=12)
    row = find("kuka")
    reader = EpisodeReader(row, folder, dataset_statistics(row, folder))
    source = EpisodeSource(folder, "train", flags=["success"])
    succeeded = [bool(source[index][1]["success"]) for index in range(len(source))]
    assert {True, False} == set(succeeded)
    assert [bool(reader.read(index, np.random.default_rng(0))) for index in range(len(reader))] == succeeded


def test_undecodable_image_is_named_by_its_step(tmp_path, checkpoint, monkeypatch):
    lab_dataset(tmp_path, ["push"] * 3)
    mixture = Mixture("m", {"lab": 1.0}, rows={"lab": Dataset("lab", action=("action",))})
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    with Loader(mixture, tmp_path, checkpoint, LoaderConfig(batch_size=2)) as loader:
        for _ in range(2):  # the error is raised at every further call
            with pytest.raises(ValueError, match=r"lab, episode \d, step \d: .* neither a JPEG nor a PNG"):
                next(loader)
