"""openvla-stats: show what a dataset holds, and compute its statistics again."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from openvla_policy.command_line import parse
from openvla_training.rlds.reader import count_episodes, find_dataset
from openvla_training.rlds.statistics import dataset_statistics, write_statistics
from openvla_training.rlds.writer import write_atomically

ACTION_NAMES = ("dx [m]", "dy [m]", "dz [m]", "droll [rad]", "dpitch [rad]", "dyaw [rad]", "gripper")


@dataclass(frozen=True)
class StatsOptions:
    """Options of openvla-stats."""

    datasets: Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR…", help_behavior_hint="(at least one)")]
    """Dataset folders."""
    output: Annotated[Path | None, arg(metavar="FILE")] = None
    """File for the joint statistics of all datasets."""
    name: str = "joint"
    """Name of the joint statistics, a policy's unnorm_key."""


def stats_main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parse(
        StatsOptions,
        arguments,
        prog="openvla-stats",
        description="Print the statistics of RLDS datasets and write dataset_statistics.json beside each; "
        "--output writes the statistics of all of them taken together.",
    )
    if not options.datasets:
        print("openvla-stats: name at least one dataset folder", file=sys.stderr)
        return 2
    try:
        folders = [find_dataset(path) for path in options.datasets]
        for folder in folders:
            counts = ", ".join(f"{number} {split}" for split, number in count_episodes(folder).items())
            print(f"{folder}: {counts} episodes; wrote {write_statistics(folder).name}")
        statistics = dataset_statistics(folders)
    except (FileNotFoundError, ValueError) as error:
        print(f"openvla-stats: {error}", file=sys.stderr)
        return 1
    if options.output:
        write_atomically(options.output, json.dumps({options.name: statistics.to_json()}, indent=2) + "\n")
    print(f"{statistics.num_trajectories} episodes, {statistics.num_transitions} steps")
    print(f"{'action':14}" + "".join(f"{key:>10}" for key in ("mean", "std", "q01", "q99", "min", "max")))
    action = statistics.action
    for index, name in enumerate(ACTION_NAMES):
        row = (action.mean, action.std, action.q01, action.q99, action.min, action.max)
        print(f"{name:14}" + "".join(f"{vector[index]:10.4f}" for vector in row))
    return 0


if __name__ == "__main__":
    sys.exit(stats_main())
