"""The configuration of a run: reading, errors, options from before there were groups, recipes, help."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from openvla_training.trainer.config import ScheduleConfig, option_rows
from openvla_training.trainer.read_config import load_config, recipe_of
from openvla_training.trainer.strategies import STRATEGIES

GIVEN = ["output.folder=o", "data.datasets=d", "data.dataset_name=n"]
OF_RECIPES = {"full": ["model.checkpoint=c", "data.data_dir=d", "output.folder=o"], "sim": []}
RECIPES = sorted((Path(__file__).parents[4] / "config" / "training").glob("*.yaml"))


def options_of(recipe: Path) -> list[str]:
    return OF_RECIPES.get(recipe.stem, [*GIVEN, "model.checkpoint=c"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batch_sise=4", "unknown option 'data.batch_sise'; did you mean batch_size"),
        ("batch_sise=4", "unknown option 'batch_sise'; did you mean batch_size"),
        ("optimiser.name=muon", "unknown option 'optimiser'; did you mean optimizer"),
        ("model.shape.layerz=4", "model.shape: unknown option 'layerz'; did you mean layers"),
        ("data.batch_size=0", "data.batch_size: 0 is not allowed; it must be greater than 0"),
        ("data.batch_size=many", "data.batch_size: 'many' is not allowed; it must be a valid integer"),
        ("data.batch_size='64'", "data.batch_size: '64' is not allowed; it must be a valid integer"),
        ("data.batch_size=64.0", "data.batch_size: 64.0 is not allowed; it must be a valid integer"),
        ("parallel.compile=1", "parallel.compile: 1 is not allowed; it must be a valid boolean"),
        ("schedule.steps=true", "schedule.steps: True is not allowed; it must be a number"),
        ("schedule.decay_from=2", "schedule.decay_from: 2 is not allowed; it must be less than or equal to 1"),
        ("parallel.precision=fp8", "parallel.precision: 'fp8' is not allowed; it must be 'fp32' or 'bf16'"),
        ("data.augment.crop=0.5", "unknown option 'data.augment.crop'; did you mean crop_area"),
        ("data.sentences='('", r"data.sentences: '\(' is not a regular expression"),
        (
            "model.strategy=lora",
            "model.strategy: 'lora' trains part of an existing policy; name it by model.checkpoint=",
        ),
        ("seed.x=1", "override 'seed.x=1': seed is 3, not a group of options"),
        ("schedule=5", "schedule: 5 is not a group of options"),
        ("schedule.steps", "override 'schedule.steps': write key=value"),
    ],
)
def test_wrong_option_is_named_with_its_choices(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(None, [*GIVEN, "seed=3", override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "output.folder must be given"),
        (["output.folder=o"], "no dataset; give either data.datasets= and data.dataset_name=, or data.mixture="),
        (["output.folder=o", "data.datasets=d"], "data.datasets: needs data.dataset_name= too"),
        (["output.folder=o", "data.mixture=bridge"], "data.mixture: needs data.data_dir= too"),
        ([*GIVEN, "data.mixture=bridge"], "data: both datasets and a mixture"),
        (["output.folder=o", "data.mixture=bridge", "data.data_dir=d"], "data.mixture: needs model.checkpoint= too"),
    ],
)
def test_missing_option_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(None, overrides)


def test_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("optimizer: {learning_rate: fast}\n")
    with pytest.raises(ValueError, match=r"run.yaml: optimizer.learning_rate: 'fast' is not allowed; .* valid number"):
        load_config(path, GIVEN)


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "optimizer: {learning_rate: 5e-4, weight_decay: 0.1}\ndata: {augment: {hue: 0.1, brightness: 0.3}}\n"
    )
    config = load_config(path, [*GIVEN, "optimizer.learning_rate=1e-4", "data.augment.hue=0"])
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (1e-4, 0.1)
    assert (config.data.augment.hue, config.data.augment.brightness) == (0.0, 0.3)
    assert load_config(path, [*GIVEN, "data.augment=null"]).data.augment is None


def test_flat_names_are_read_and_their_new_place_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="openvla_training")
    path = tmp_path / "flat.yaml"
    path.write_text(
        "output: o\ndata: [d]\ndataset_name: n\nmodel: {layers: 3}\noptimizer: muon\nlearning_rate: 1e-3\n"
        "augment: {hue: 0.1}\n"
    )
    config = load_config(path, ["batch_size=4", "model.heads=2", "augment.brightness=0"])
    assert config == load_config(
        None,
        [*GIVEN, "model.shape={layers: 3, heads: 2}", "optimizer.name=muon", "optimizer.learning_rate=1e-3",
         "data.augment={hue: 0.1, brightness: 0}", "data.batch_size=4"],
    )  # fmt: skip
    (line,) = caplog.messages
    for moved in ("learning_rate is now optimizer.learning_rate", "model.layers is now model.shape.layers",
                  "data is now data.datasets", "batch_size is now data.batch_size"):  # fmt: skip
        assert moved in line


def test_training_json_of_a_policy_is_a_configuration(root: Path, tmp_path: Path) -> None:
    shipped = load_config(
        root / "checkpoints" / "openvla-tiny-sim" / "training.json"
    )  # written before there were groups
    assert shipped.optimizer.name == "muon" and shipped.model.shape["hidden_size"] == 128
    (tmp_path / "training.json").write_text(json.dumps(asdict(shipped)))
    assert load_config(tmp_path / "training.json") == shipped


def test_learning_rate_warms_up_stays_and_decays() -> None:
    schedule = ScheduleConfig(steps=100, warmup_steps=10, decay_from=0.5, final_learning_rate=0.1)
    rates = [schedule.learning_rate(step, peak=1.0) for step in (0, 9, 30, 50, 75, 100)]
    np.testing.assert_allclose(rates, [0.1, 1.0, 1.0, 1.0, 0.55, 0.1])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_valid(recipe: Path) -> None:
    config = load_config(recipe, options_of(recipe))
    micro = config.parallel.micro_batch_size
    assert micro == 0 or config.data.batch_size % micro == 0


def test_every_strategy_has_a_recipe() -> None:
    for strategy in STRATEGIES:
        config = load_config(recipe_of(strategy), [*GIVEN, "model.checkpoint=c"])
        assert config.model.strategy == strategy and config.data.batch_size == 16
        assert config.optimizer.learning_rate == (5e-4 if STRATEGIES[strategy].adapter else 2e-5)


def test_full_recipe_is_the_papers_training(root: Path) -> None:
    config = load_config(root / "config" / "training" / "full.yaml", OF_RECIPES["full"])
    assert (config.model.strategy, config.data.batch_size) == ("full", 2048)
    assert (config.schedule.epochs, config.schedule.stop_at_accuracy) == (27, 0.95)
    assert config.optimizer.name == "adamw" and config.optimizer.weight_decay == config.optimizer.label_sigma == 0
    assert {config.learning_rate(step) for step in (0, 1, 100_000, 199_999)} == {2e-5}


def test_lora_recipe_is_the_papers_fine_tuning(root: Path) -> None:
    config = load_config(root / "config" / "training" / "lora.yaml", [*GIVEN, "model.checkpoint=c"])
    assert (config.model.lora_rank, config.learning_rate(0), config.learning_rate(199_999)) == (32, 5e-4, 5e-4)


def test_every_option_has_a_meaning_and_a_default() -> None:
    rows = {row.name: row for row in option_rows()}
    assert all(row.meaning and row.type and row.default for row in rows.values())
    assert rows["optimizer.learning_rate"][1:3] == ("number", "2e-05")
    assert (rows["data.shuffle_mib"].unit, rows["data.augment.crop_area"].default) == ("MiB", "[0.9, 0.9]")
    assert rows["output.folder"].default == "(required)"
