"""The commands `openvla-train`, `openvla-finetune` and `openvla-merge`."""

from __future__ import annotations

import logging
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from tyro.conf import Positional, arg

from openvla_policy.command_line import parse
from openvla_training.trainer.config import StrategyName, TrainConfig, option_rows
from openvla_training.trainer.read_config import load_config, recipe_of
from openvla_training.trainer.strategies import STRATEGIES


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of every command that trains."""

    overrides: Annotated[tuple[str, ...], Positional, arg(metavar="KEY=VALUE…")] = ()
    """Options of the run as key=value, each value in YAML; they win over those of the file."""
    dry_run: bool = False
    """Only print the memory and the time that the run needs."""
    gpu: str | None = None
    """With --dry-run: the GPU to estimate for, such as h200. Default: that of this machine."""
    gpus: int = 1
    """With --dry-run: number of GPUs."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunOptions):
    """Options of openvla-train."""

    config: Path | None = None
    """YAML file of options, such as config/training/sim.yaml."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(RunOptions):
    """Options of openvla-finetune."""

    checkpoint: str
    """Folder or Hugging Face id of the policy to start from."""
    data_dir: Path
    """RLDS dataset, or the folder that holds it under its name."""
    dataset_name: str
    """Name of the dataset, the policy's unnorm_key."""
    output: str
    """Folder for the policy, curves and resume states."""
    strategy: StrategyName = "lora"
    """Which parameters are trained."""


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Options of openvla-merge."""

    adapter: str
    """Folder with adapter_config.json."""
    output: str
    """Folder to write."""
    base: str | None = None
    """Folder or Hugging Face id of the adapter's base. Default: the one that the adapter names."""
    dtype: Literal["bf16", "fp32"] = "bf16"
    """Data type of the written weights."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `openvla-train --config FILE [key=value …]`; returns the exit status."""
    options = parse(
        TrainOptions,
        _overrides_first(arguments),
        prog="openvla-train",
        description="Train an OpenVLA policy on RLDS datasets. Ctrl-C stops it; the same command resumes it.\n\n"
        + option_help(),
    )
    return _run("openvla-train", lambda: _train(load_config(options.config, options.overrides), options))


def finetune_main(arguments: Sequence[str] | None = None) -> int:
    """Run `openvla-finetune --checkpoint C --data-dir D --dataset-name N --output O`; returns the exit status."""
    strategies = "\n".join(f"  {s.name:<14} {s.description}" for s in STRATEGIES.values())
    options = parse(
        FinetuneOptions,
        _overrides_first(arguments),
        prog="openvla-finetune",
        description="Adapt a trained policy to a dataset. Ctrl-C stops it; the same command resumes it.\n\n"
        f"strategies:\n{strategies}\n\n"
        "The recipe of a strategy (config/training; full_finetune.yaml of `full`) wins over the following defaults.\n"
        + option_help(),
    )

    def work() -> str:
        given = {
            "model.checkpoint": options.checkpoint,
            "data.datasets": _dataset(options.data_dir, options.dataset_name),
            "data.dataset_name": options.dataset_name,
            "output.folder": options.output,
        }
        overrides = [f"{key}={value}" for key, value in given.items()]
        return _train(load_config(recipe_of(options.strategy), [*overrides, *options.overrides]), options)

    return _run("openvla-finetune", work)


def merge_main(arguments: Sequence[str] | None = None) -> int:
    """Run `openvla-merge --adapter A --output O`; returns the exit status."""
    options = parse(
        MergeOptions,
        arguments,
        prog="openvla-merge",
        description="Merge a LoRA adapter into its base, tensor by tensor, into one checkpoint folder.",
    )

    def merge() -> str:
        import torch

        from openvla_policy.checkpoint.merge import merge_folder

        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[options.dtype]
        folder = merge_folder(options.adapter, options.output, base=options.base, dtype=dtype)
        return f"merged {options.adapter} into its base; the policy is in {folder}"

    return _run("openvla-merge", merge)


def option_help() -> str:
    """All options of a run, for --help: name=default, type [unit], meaning."""
    lines = ["options and their defaults, `group: {name: value}` in a file, group.name=value on the command line:"]
    for row in option_rows():
        unit = f" [{row.unit}]" if row.unit else ""
        lines.append(f"  {row.name}={row.default}  ({row.type}){unit}")
        lines += textwrap.wrap(row.meaning, 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _overrides_first(arguments: Sequence[str] | None) -> list[str]:
    """Put `key=value` words before the flags: tyro accepts positional words in one place only."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    overrides: list[str] = []
    flags: list[str] = []
    for word in words:
        is_value = bool(flags) and flags[-1].startswith("--") and "=" not in flags[-1] and flags[-1] != "--dry-run"
        (flags if is_value or not re.match(r"\w+(\.\w+)*=", word) else overrides).append(word)
    return [*overrides, *flags]


def _dataset(folder: Path, name: str) -> Path:
    """The folder of the dataset `name`: in `folder`, or that folder itself."""
    from openvla_training.rlds.reader import find_dataset

    if (folder / name).is_dir():
        return folder / name
    if not folder.is_dir():  # the error of reading it names the folder
        return folder
    found = find_dataset(folder).parent.name
    if found != name:
        raise ValueError(f"--dataset-name: {folder} holds {found!r}, not {name!r}; give the name of the dataset there")
    return folder


def _train(config: TrainConfig, options: RunOptions) -> str:
    if options.dry_run:
        from openvla_training.trainer.resources.dry_run import dry_run

        fits = dry_run(config, options.gpu, Console(), options.gpus)
        return "dry run: nothing was started" + ("" if fits else ", and it would not fit")
    from openvla_training.trainer.parallel import leave_processes
    from openvla_training.trainer.trainer import Trainer

    try:
        trainer = Trainer(config)
        folder = trainer.run()
    finally:
        leave_processes()
    return f"trained {trainer.step} steps of {config.data.batch_size} samples; the policy is in {folder}"


def _run(program: str, work: Callable[[], str]) -> int:
    """Print the result of `work`, or the error that a user can mend; returns the exit status."""
    main_process = os.environ.get("RANK", "0") == "0"  # of several processes only one logs, except for warnings
    level = logging.INFO if main_process else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
    try:
        result = work()
        if main_process:
            print(result)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        from openvla_training.trainer.errors import RunError

        if not isinstance(error, RunError):
            raise
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
