"""`openvla-train --config FILE [key=value …]`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys

from openvla_training.trainer.config import TrainConfig, load_config


def main(arguments: list[str] | None = None) -> int:
    """Train a policy; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="openvla-train",
        description="Train an OpenVLA policy on RLDS datasets. Stop it with Ctrl-C; the same command goes on.",
        epilog="options: " + ", ".join(f"{f.name}={_default(f)}" for f in dataclasses.fields(TrainConfig)),
    )
    parser.add_argument("--config", help="YAML file of options, such as config/training/sim.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options that win over the file's")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        config = load_config(options.config, options.overrides)
        from openvla_training.trainer.loop import Trainer

        folder = Trainer(config).run()
    except KeyboardInterrupt:
        return 130
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        print(f"openvla-train: {error}", file=sys.stderr)
        return 2
    print(f"trained {config.steps} steps of {config.batch_size} samples; the policy is in {folder}")
    return 0


def _default(f: dataclasses.Field) -> str:
    if f.default is not dataclasses.MISSING:
        return str(f.default)
    return "…" if f.default_factory is not dataclasses.MISSING else "(needed)"


if __name__ == "__main__":
    sys.exit(main())
