"""Recipes in config/training, --help, and the reference page: all of them from the one configuration."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from openvla_training.trainer.cli import main
from openvla_training.trainer.config import load_config, recipe_of
from openvla_training.trainer.options import options
from openvla_training.trainer.strategies import STRATEGIES

GIVEN = {
    "full": ["checkpoint=c", "data_dir=d", "output=o"],
    "sim": [],
}
PLAIN = ["checkpoint=c", "data=d", "dataset_name=n", "output=o"]


def recipes() -> list[Path]:
    return sorted((Path(__file__).parents[4] / "config" / "training").glob("*.yaml"))


@pytest.mark.parametrize("recipe", recipes(), ids=lambda path: path.stem)
def test_every_recipe_is_valid(recipe: Path) -> None:
    config = load_config(recipe, GIVEN.get(recipe.stem, PLAIN))
    assert config.micro_batch_size == 0 or config.batch_size % config.micro_batch_size == 0


def test_every_strategy_has_a_recipe() -> None:
    named = {load_config(path, GIVEN.get(path.stem, PLAIN)).strategy for path in recipes()}
    assert named == set(STRATEGIES)


def test_the_papers_training_is_the_papers(root: Path) -> None:
    config = load_config(root / "config" / "training" / "full.yaml", GIVEN["full"])
    assert (config.strategy, config.batch_size, config.epochs, config.stop_at_accuracy) == ("full", 2048, 27, 0.95)
    assert config.optimizer == "adamw" and config.weight_decay == 0 and config.label_sigma == 0
    assert {config.learning_rate_at(step) for step in (0, 1, 100_000, 199_999)} == {2e-5}
    lora = load_config(root / "config" / "training" / "lora.yaml", PLAIN)
    assert (lora.lora_rank, lora.learning_rate_at(0), lora.learning_rate_at(199_999)) == (32, 5e-4, 5e-4)


@pytest.mark.parametrize("command", ["train", "finetune", "stats", "merge", "inspect_data"])
def test_every_command_is_there_under_both_names_and_helps(command: str, root: Path, monkeypatch, capsys) -> None:
    long = f"openvla-{command.replace('_', '-')}"
    for place in ("lib/openvla_training/" + command, "lib/openvla_training/" + long):  # ros2 run finds the first
        path = root / "install" / "openvla_training" / place
        assert os.access(path, os.X_OK), f"{path} is missing: run `make setup`"
    found = [entry for entry in entry_points(group="console_scripts") if entry.name == command]
    monkeypatch.setattr("sys.argv", [long, "--help"])
    with pytest.raises(SystemExit) as ended:
        next(entry for entry in found if entry.value.startswith("openvla_training.")).load()()
    assert ended.value.code == 0 and capsys.readouterr().out.startswith(f"usage: {long} ")


def test_fine_tuning_takes_its_recipe(root: Path) -> None:
    for strategy in STRATEGIES:
        config = load_config(recipe_of(strategy), PLAIN)
        assert config.strategy == strategy and config.batch_size == 16
        assert config.learning_rate == (5e-4 if STRATEGIES[strategy].adapter else 2e-5)


def test_help_lists_every_option_with_its_meaning(root: Path, capsys) -> None:
    for option in options():
        assert option.meaning, option.name
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    page = (root / "docs" / "reference" / "training.md").read_text("utf-8")
    for option in options():
        assert f"\n  {option.name}={option.default}  (" in said
    for recipe in recipes():
        assert f"`{recipe.name}`" in page, recipe.name
