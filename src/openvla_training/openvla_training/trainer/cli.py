"""`openvla-train`, `openvla-finetune` and `openvla-merge`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from openvla_training.trainer.config import TrainConfig, load_config, recipe_of
from openvla_training.trainer.options import as_help
from openvla_training.trainer.strategies import STRATEGIES


def main(arguments: Sequence[str] | None = None) -> int:
    """`openvla-train --config FILE [key=value …]`. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="openvla-train",
        description="Train an OpenVLA policy on RLDS datasets. Stop it with Ctrl-C; the same command goes on.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=as_help(),
    )
    parser.add_argument("--config", help="YAML file of options, such as config/training/sim.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options that win over the file's")
    _add_dry_run(parser)
    o = parser.parse_intermixed_args(arguments)
    return _run("openvla-train", lambda: _train(load_config(o.config, o.overrides), o))


def finetune_main(arguments: Sequence[str] | None = None) -> int:
    """`openvla-finetune --checkpoint C --data-dir D --dataset-name NAME --output O`. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="openvla-finetune",
        description="Adapt a trained policy to a lab's demonstrations. Stop it with Ctrl-C; the same command goes on.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="strategies:\n"
        + "\n".join(f"  {s.name:<14} {s.description}" for s in STRATEGIES.values())
        + "\n\nWhat a strategy's recipe sets (config/training, full_finetune.yaml of `full`) wins over these defaults; "
        + as_help(),
    )
    parser.add_argument("--checkpoint", required=True, help="folder or hub id of the policy to start from")
    parser.add_argument("--data-dir", required=True, help="RLDS dataset, or the folder that holds it by name")
    parser.add_argument("--dataset-name", required=True, help="name of its statistics: the policy's unnorm_key")
    parser.add_argument("--output", required=True, help="folder for the result, curves and the resume state")
    parser.add_argument("--strategy", choices=tuple(STRATEGIES), default="lora", help="default: %(default)s")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="further options, see below")
    _add_dry_run(parser)
    o = parser.parse_intermixed_args(arguments)

    def work() -> str:
        given = {
            "checkpoint": o.checkpoint,
            "data": _dataset(Path(o.data_dir), o.dataset_name),
            "dataset_name": o.dataset_name,
            "output": o.output,
        }
        overrides = [f"{key}={value}" for key, value in given.items()]
        return _train(load_config(recipe_of(o.strategy), [*overrides, *o.overrides]), o)

    return _run("openvla-finetune", work)


def _dataset(folder: Path, name: str) -> Path:
    """The dataset `name`: in `folder`, or that folder itself. Another one is not taken for it."""
    from openvla_training.rlds.reader import find_dataset

    if (folder / name).is_dir() or not folder.is_dir():  # what is not there at all is told of when it is read
        return folder / name if (folder / name).is_dir() else folder
    found = find_dataset(folder).parent.name
    if found != name:
        raise ValueError(f"--dataset-name: {folder} holds {found!r} and no {name!r}; give the name of what is there")
    return folder


def merge_main(arguments: Sequence[str] | None = None) -> int:
    """`openvla-merge --adapter A --output O`. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="openvla-merge",
        description="Merge a LoRA adapter into its base: one checkpoint folder, written without holding either whole.",
    )
    parser.add_argument("--adapter", required=True, help="folder with adapter_config.json")
    parser.add_argument("--base", help="folder or hub id of its base, if the adapter's own entry does not lead to it")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument(
        "--dtype", choices=("bf16", "fp32"), default="bf16", help="of the weights written (default: %(default)s)"
    )
    o = parser.parse_args(arguments)

    def merge() -> str:
        import torch

        from openvla_policy.checkpoint.merge import merge_folder

        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[o.dtype]
        folder = merge_folder(o.adapter, o.output, base=o.base, dtype=dtype)
        return f"merged {o.adapter} into its base; the policy is in {folder}"

    return _run("openvla-merge", merge)


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what memory and time it will take")
    parser.add_argument("--gpu", help="for --dry-run: the GPU it is for (default: the one that is here)")
    parser.add_argument("--gpus", type=int, default=1, help="for --dry-run: how many of them (default: %(default)s)")


def _train(config: TrainConfig, options: argparse.Namespace) -> str:
    if options.dry_run:
        from openvla_training.trainer.dry_run import dry_run

        fits = dry_run(config, options.gpu, Console(), options.gpus)
        return "nothing was started" + ("" if fits else ": it would not fit")
    from openvla_training.trainer.parallel import leave
    from openvla_training.trainer.trainer import Trainer

    try:
        trainer = Trainer(config)
        folder = trainer.run()
    finally:
        leave()
    return f"trained {trainer.step} steps of {config.batch_size} samples; the policy is in {folder}"


def _run(program: str, work: Callable[[], str]) -> int:
    first = os.environ.get("RANK", "0") == "0"  # of several processes one speaks, but for errors
    level = logging.INFO if first else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stdout)
    try:
        said = work()
        if first:
            print(said)
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
