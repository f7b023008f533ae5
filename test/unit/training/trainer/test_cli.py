"""The commands openvla-train, openvla-finetune and openvla-merge."""

from __future__ import annotations

import json
import os
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from openvla_training.trainer.cli import finetune_main, main, merge_main
from openvla_training.trainer.config import option_rows


@pytest.mark.parametrize("command", ["train", "finetune", "stats", "merge", "inspect_data"])
def test_command_is_installed_under_both_names_and_has_help(
    command: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = f"openvla-{command.replace('_', '-')}"
    for place in ("lib/openvla_training/" + command, "lib/openvla_training/" + long):  # ros2 run finds the first
        path = root / "install" / "openvla_training" / place
        assert os.access(path, os.X_OK), f"{path} is missing: run `make setup`"
    found = [entry for entry in entry_points(group="console_scripts") if entry.name == command]
    monkeypatch.setattr("sys.argv", [long, "--help"])
    with pytest.raises(SystemExit) as ended:
        next(entry for entry in found if entry.value.startswith("openvla_training.")).load()()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {long} ")


@pytest.mark.parametrize("command", [main, finetune_main])
def test_help_lists_every_option_with_its_default(command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n  {row.name}={row.default}  (" in text for row in option_rows())


@pytest.mark.parametrize("command", [main, finetune_main, merge_main])
def test_version_is_printed(command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("openvla-")


def finetune(data: Path, base: Path, output: Path, *more: str, name: str = "toy") -> int:
    arguments = ["--checkpoint", str(base), "--data-dir", str(data), "parallel.threads=1", "--dataset-name", name]
    return finetune_main([*arguments, "schedule.steps=2", "--output", str(output), "parallel.precision=fp32", *more])


def test_fine_tuning_takes_its_recipe_and_overrides(data: Path, base: Path, tmp_path: Path, capsys) -> None:
    assert finetune(data, base, tmp_path / "run", "data.batch_size=4") == 0
    folder = tmp_path / "run" / "checkpoint"
    assert f"trained 2 steps of 4 samples; the policy is in {folder}" in capsys.readouterr().out
    training = json.loads((folder / "training.json").read_text())
    assert training["model"]["strategy"] == "lora" and training["optimizer"]["learning_rate"] == 5e-4


@pytest.mark.parametrize(
    ("more", "name", "message"),
    [
        (["model.lora_rank=0"], "toy", "model.lora_rank: 0 is not allowed; it must be greater than 0"),
        ([], "tyo", "holds 'toy', not 'tyo'"),
    ],
)
def test_wrong_arguments_end_with_status_2(
    more: list[str], name: str, message: str, data: Path, base: Path, tmp_path: Path, capsys
) -> None:
    assert finetune(data, base, tmp_path / "run", *more, name=name) == 2
    assert message in capsys.readouterr().err
