"""openvla-mixture: what a mixture draws from, as published, by its weights, and from the data at hand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from openvla_training.openx.dataset import Dataset
from openvla_training.openx.mixture import Mixture, load_mixture
from openvla_training.openx.registry import registry
from openvla_training.openx.source import dataset_folder
from openvla_training.openx.statistics import dataset_statistics
from openvla_training.openx.synthetic import write_synthetic


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="openvla-mixture",
        description="Show the shares of a mixture's datasets: those a publication prints, those its weights give with "
        "the published sizes, and those the data at hand really give.",
    )
    parser.add_argument("mixture", nargs="?", help="YAML file, name of one in config/mixtures, or a single dataset")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of TFDS datasets; measures new ones")
    parser.add_argument("--synthetic", type=Path, metavar="DIR", help="first write small made-up datasets there")
    parser.add_argument("--rows", action="store_true", help="print the registry as a Markdown table instead")
    options = parser.parse_args(arguments)
    if options.rows:
        print(rows_table())
        return 0
    if options.mixture is None:
        parser.error("name a mixture, such as openvla or config/mixtures/octo.yaml")
    try:
        mixture = load_mixture(options.mixture)
        if options.synthetic:
            for name in mixture.datasets:
                write_synthetic(options.synthetic, name, episodes=4, rows=mixture.rows)
        data = options.data_dir or options.synthetic
        there, missing = _at_hand(mixture, data) if data else ({}, [])
    except (ValueError, FileNotFoundError) as error:
        print(f"openvla-mixture: {error}", file=sys.stderr)
        return 2
    Console(width=None if sys.stdout.isatty() else 140).print(_table(mixture, there))
    if mixture.until:
        ends = ", ".join(f"{name} from {100 * end:.1f} % of training on" for name, end in mixture.until.items())
        print(f"dropped, the share going to the others: {ends}")
    if missing:
        print(f"{len(missing)} of {len(mixture.datasets)} datasets are not in {data}: {', '.join(missing)}")
    if there:
        print(f"one epoch: {mixture.epoch_samples(there):,} samples")
    return 0


def _at_hand(mixture: Mixture, data: Path) -> tuple[dict[str, int], list[str]]:
    """Transitions of the datasets that are there, and the names of the others."""
    there, missing = {}, []
    for name in mixture.datasets:
        row = mixture.row(name)
        try:
            folder = dataset_folder(data, name, row.folder)
        except FileNotFoundError:
            missing.append(name)
            continue
        there[name] = dataset_statistics(row, folder).num_transitions
    return there, missing


def _table(mixture: Mixture, there: Mapping[str, int]) -> Table:
    sizes = {name: mixture.row(name).transitions or 0 for name in mixture.datasets}
    published, real, late = mixture.shares(sizes), mixture.shares(there), mixture.shares(there or sizes, 1.0)
    table = Table(title=f"mixture {mixture.name}", title_justify="left")
    table.add_column("dataset", no_wrap=True)
    for head in (mixture.by, "printed [%]", f"by {mixture.by} [%]", "transitions here", "here [%]", "at the end [%]"):
        table.add_column(head, justify="right")

    def percent(shares: Mapping[str, float], name: str) -> str:
        return f"{100 * shares[name]:.2f}" if name in shares else ""

    for name, number in mixture.datasets.items():
        printed = mixture.table.get(name)
        table.add_row(
            name.removesuffix("_converted_externally_to_rlds"),
            f"{number:.4g}",
            "" if printed is None else f"{printed:g}",
            percent(published, name),
            f"{there[name]:,}" if name in there else "",
            percent(real, name),
            percent(late, name),
        )
    return table


def rows_table() -> str:
    """The registry as a Markdown table, for docs/reference/open-x.md."""
    head = (
        "dataset", "in TFDS", "robot", "rate [Hz]", "camera", "wrist camera", "state", "action", "frame", "motion",
        "gripper", "filters",
    )  # fmt: skip
    lines = [head, ("---",) * len(head), *(_line(row) for row in registry().values())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(row: Dataset) -> tuple[str, ...]:
    gripper = row.gripper.convention or ("none" if row.gripper.constant is not None else "not documented")
    return (
        f"`{row.name}`",
        f"{row.folder.replace('_converted_externally_to_rlds', '_…')} {row.version or ''}".strip(),
        row.robot,
        "" if row.rate is None else f"{row.rate:g}",
        " or ".join(f"`{camera}`" for camera in row.camera) + ("" if row.third_person else " (gripper's)"),
        f"`{row.wrist}`" if row.wrist else "",
        row.layout,
        "<br>".join(f"`{text}`" for text in row.action),
        row.frame or "not documented",
        row.motion or "not documented",
        gripper + (", binarised" if row.gripper.binarise else ""),
        ", ".join(row.filters) + (" published as BGR" if row.bgr else ""),
    )


if __name__ == "__main__":
    sys.exit(main())
