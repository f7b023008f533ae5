"""The trainer: options, augmentation, batches, objective, and a run that is stopped and goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from toy_dataset import write_toy_dataset

from openvla_policy.checkpoint.folder import load_folder
from openvla_policy.contract.action_tokens import ActionTokenizer
from openvla_policy.contract.observation import Observation
from openvla_policy.model.vla import VLAOutput
from openvla_policy.runtime.load import load_policy
from openvla_training.trainer.config import AugmentConfig, load_config
from openvla_training.trainer.data.augment import Augment, adjust_contrast, adjust_hue_saturation
from openvla_training.trainer.objective import Objective
from openvla_training.trainer.trainer import Trainer

SHAPE = {"image_size": 28, "vision_width": 16, "vision_depth": 2, "vision_heads": 2, "hidden_size": 32, "layers": 1}


# ---- options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch_sise=4"], "unknown option 'batch_sise'; did you mean batch_size"),
        (["batch_size=0"], "batch_size: 0 is not allowed"),
        (["batch_size=many"], "batch_size: 'many' is not of type int"),
        (["precision=fp8"], "'fp8' is not a choice; choose one of fp32, bf16"),
        (["augment.crop=0.5"], "unknown option 'crop'; did you mean crop_area"),
        (["steps"], "override 'steps': write key=value"),
    ],
)
def test_a_wrong_option_is_named_with_the_choices(overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config(None, ["output=o", "data=d", "dataset_name=n", *overrides])


def test_missing_options_are_named():
    with pytest.raises(ValueError, match="output must be given"):
        load_config(None)
    with pytest.raises(ValueError, match="give either data= and dataset_name=, or mixture="):
        load_config(None, ["output=o"])
    with pytest.raises(ValueError, match="mixture: needs data_dir= too"):
        load_config(None, ["output=o", "mixture=bridge"])


def test_the_shipped_training_file_is_valid(root):
    config = load_config(root / "config" / "training" / "sim.yaml", ["learning_rate=5e-4", "augment=null"])
    assert config.learning_rate == 5e-4 and config.augment is None


def test_learning_rate_warms_up_stays_and_falls():
    config = load_config(
        None,
        ["output=o", "data=d", "dataset_name=n", "steps=100", "warmup_steps=10", "decay_from=0.5",
         "learning_rate=1.0", "final_learning_rate=0.1"],
    )  # fmt: skip
    rates = [config.learning_rate_at(step) for step in (0, 9, 30, 50, 75, 100)]
    np.testing.assert_allclose(rates, [0.1, 1.0, 1.0, 1.0, 0.55, 0.1])


# ---- augmentation ---------------------------------------------------------------------------------------------


def test_colour_operations_equal_the_reference(fixtures):
    image = np.asarray(Image.open(fixtures / "parity" / "images" / "small_128x96.png").convert("RGB"))
    x = image.astype(np.float32) / 255
    with np.load(fixtures / "augment" / "colour.npz") as expected:
        for key in expected.files:
            name, value = key.split("|")
            amount = float(value)
            ours = {
                "brightness": lambda v=amount: x + v,
                "contrast": lambda v=amount: adjust_contrast(x.copy(), v),
                "saturation": lambda v=amount: adjust_hue_saturation(x, 0.0, v),
                "hue": lambda v=amount: adjust_hue_saturation(x, v, 1.0),
            }[name]()
            # The fixture is kept in half precision, clipped.
            difference = np.abs(ours.clip(0, 1) - expected[key].astype(np.float32))
            assert difference.max() < 3e-4, key


def test_augmentation_depends_on_its_generator_alone():
    images = torch.randint(0, 256, (3, 20, 20, 3), dtype=torch.uint8)

    def augmented(seed):
        return Augment(AugmentConfig(), torch.Generator().manual_seed(seed))(images)

    assert torch.equal(augmented(1), augmented(1))
    assert not torch.equal(augmented(1), augmented(2))
    nothing = AugmentConfig(crop_area=None, brightness=0.0, contrast=None, saturation=None, hue=0.0)
    assert torch.equal(Augment(nothing, torch.Generator())(images), images)


# ---- objective ------------------------------------------------------------------------------------------------


def test_without_spread_the_objective_is_cross_entropy():
    logits, targets = torch.randn(5, 300), torch.tensor([299, 44, 100, 2, 170])
    output = VLAOutput(label_logits=logits, label_targets=targets)
    loss = Objective(ActionTokenizer(300), 0.0, torch.device("cpu"))(output)
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets))


def test_spread_targets_prefer_near_misses_and_leave_words_alone():
    objective = Objective(ActionTokenizer(300), 2.0, torch.device("cpu"))
    target = torch.tensor([150])

    def loss_of(predicted):
        logits = torch.full((1, 300), 0.0)
        logits[0, predicted] = 10.0
        return float(objective(VLAOutput(label_logits=logits, label_targets=target)))

    assert loss_of(150) < loss_of(151) < loss_of(153) < loss_of(200)
    word = torch.tensor([2])
    logits = torch.randn(1, 300)
    got = objective(VLAOutput(label_logits=logits, label_targets=word))
    torch.testing.assert_close(got, F.cross_entropy(logits, word))


# ---- a whole run -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_toy_dataset(tmp_path_factory.mktemp("rlds"))


def run(dataset: Path, output: Path, **options) -> Trainer:
    values = {
        "output": str(output), "data": f"[{dataset}]", "dataset_name": "toy", "steps": 12, "batch_size": 8,
        "learning_rate": 3e-3, "final_learning_rate": 2e-5, "validate_every": 50, "save_every": 4, "threads": 1,
        "precision": "fp32", "optimizer": "muon", "model": str(SHAPE),
    } | options  # fmt: skip
    trainer = Trainer(load_config(None, [f"{key}={value}" for key, value in values.items()]))
    trainer.run()
    return trainer


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(dataset, tmp_path):
    whole = run(dataset, tmp_path / "whole")
    halves = Trainer(
        load_config(None, [f"output={tmp_path / 'halves'}", f"data=[{dataset}]", "dataset_name=toy", "steps=12",
                           "batch_size=8", "learning_rate=3e-3", "final_learning_rate=2e-5", "save_every=4",
                           "precision=fp32", "threads=1", "optimizer=muon", f"model={SHAPE}"])
    )  # fmt: skip
    for _ in range(7):  # past the state saved by hand at step 5
        if halves.step == 5:
            halves.save_state()
        halves.train_step()
    resumed = run(dataset, tmp_path / "halves")
    assert resumed.step == 12
    for (name, a), (_, b) in zip(whole.model.state_dict().items(), resumed.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_a_run_does_not_go_on_with_other_batches(dataset, tmp_path):
    run(dataset, tmp_path, steps=2)
    with pytest.raises(ValueError, match="belongs to a run on other samples .*batch_size 8.*batch_size 4"):
        run(dataset, tmp_path, steps=4, batch_size=4)


def test_training_learns_and_leaves_a_folder_the_policy_runs(dataset, tmp_path):
    options = {"steps": 300, "batch_size": 32, "augment": "null", "label_sigma": 3.0, "ordinal_tokens": "true"}
    trainer = run(dataset, tmp_path / "run", **options)
    metrics = trainer.validate()
    assert metrics.l1[0] < 0.005 and metrics.l1[6] < 0.1, metrics
    policy = load_policy(tmp_path / "run" / "checkpoint", vocabulary="actions")
    bright = Observation(image=np.full((28, 28, 3), 230, np.uint8), stamp=0.0)
    push, pull = (policy.predict(bright, f"{verb} the box").actions[0] for verb in ("push", "pull"))
    assert push[0] == pytest.approx(0.045, abs=0.012) and pull[0] == pytest.approx(-0.045, abs=0.012)
    assert load_folder(tmp_path / "run" / "checkpoint").statistics["toy"].num_transitions == len(trainer.source.frames)


def test_more_samples_a_batch_than_there_are_is_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match="batch_size: 5000 is more than the"):
        run(dataset, tmp_path / "big", batch_size=5000)


def test_a_cache_of_other_data_is_not_taken(dataset, tmp_path):
    from openvla_policy.contract.image import ImagePreparation
    from openvla_training.trainer.data.frames import load_frames

    preparation = ImagePreparation.standard(28, ("imagenet", "half"))
    first = load_frames([str(dataset)], "train", preparation, tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    for shard in copy.rglob("*array_record*"):
        shard.touch()
    load_frames([str(copy)], "train", preparation, tmp_path)
    assert len([p for p in tmp_path.iterdir() if (p / "done.json").exists()]) == 2
    assert len(first.trajectories()) == int(first.episode[-1]) + 1
