"""openvla-stats: show what a dataset holds, and (re)compute its statistics."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from openvla_training.rlds.reader import count_episodes, find_dataset
from openvla_training.rlds.statistics import dataset_statistics, write_statistics
from openvla_training.rlds.writer import write_atomically


def stats_main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="openvla-stats",
        description="Print the statistics of RLDS datasets and write dataset_statistics.json beside each; "
        "--output writes those of all of them taken together.",
    )
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DIR", help="dataset folders")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the joint statistics here")
    parser.add_argument("--name", default="joint", help="name of the joint statistics (default: joint)")
    options = parser.parse_args(arguments)
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
    names = ("dx [m]", "dy [m]", "dz [m]", "droll [rad]", "dpitch [rad]", "dyaw [rad]", "gripper")
    print(f"{'action':14}" + "".join(f"{key:>10}" for key in ("mean", "std", "q01", "q99", "min", "max")))
    action = statistics.action
    for index, name in enumerate(names):
        row = (action.mean, action.std, action.q01, action.q99, action.min, action.max)
        print(f"{name:14}" + "".join(f"{vector[index]:10.4f}" for vector in row))
    return 0


if __name__ == "__main__":
    sys.exit(stats_main())
