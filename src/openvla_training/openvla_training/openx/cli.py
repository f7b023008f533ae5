"""openvla-mixture: the shares of a mixture's datasets, as published, by its weights, and with the datasets present."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from openvla_policy.command_line import parse
from openvla_training.openx.dataset import Dataset
from openvla_training.openx.mixture import Mixture, load_mixture
from openvla_training.openx.registry import registry
from openvla_training.openx.source import dataset_folder
from openvla_training.openx.statistics import dataset_statistics
from openvla_training.openx.synthetic import write_synthetic


@dataclass(frozen=True)
class MixtureOptions:
    """Options of openvla-mixture."""

    mixture: Annotated[Positional[str], arg(metavar="MIXTURE", help_behavior_hint="(needed, except with --rows)")] = ""
    """YAML file, name of one in config/mixtures, or a single dataset."""
    data_dir: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of TFDS datasets; measures those that have no statistics yet."""
    synthetic: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder to write small synthetic datasets to first."""
    rows: bool = False
    """Print the registry as a Markdown table instead."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parse(
        MixtureOptions,
        arguments,
        prog="openvla-mixture",
        description="Show the shares of a mixture's datasets: as published, as its weights give them with the "
        "published sizes, and as they give them with the datasets in a folder.",
    )
    if options.rows:
        print(rows_table())
        return 0
    try:
        if not options.mixture:
            raise ValueError("name a mixture, such as openvla or config/mixtures/octo.yaml")
        mixture = load_mixture(options.mixture)
        if options.synthetic:
            for name in mixture.datasets:
                write_synthetic(options.synthetic, name, episodes=4, rows=mixture.rows)
        data = options.data_dir or options.synthetic
        present, missing = _present(mixture, data) if data else ({}, [])
    except (ValueError, FileNotFoundError) as error:
        print(f"openvla-mixture: {error}", file=sys.stderr)
        return 2
    Console(width=None if sys.stdout.isatty() else 140).print(_table(mixture, present))
    if mixture.until:
        ends = ", ".join(f"{name} from {100 * end:.1f} % of training on" for name, end in mixture.until.items())
        print(f"dropped, the share going to the others: {ends}")
    if missing:
        print(f"{len(missing)} of {len(mixture.datasets)} datasets are not in {data}: {', '.join(missing)}")
    if present:
        print(f"one epoch: {mixture.epoch_samples(present):,} samples")
    return 0


def _present(mixture: Mixture, data: Path) -> tuple[dict[str, int], list[str]]:
    """Count the transitions of the datasets that are in a folder, and name the others."""
    present, missing = {}, []
    for name in mixture.datasets:
        row = mixture.row(name)
        try:
            folder = dataset_folder(data, name, row.folder)
        except FileNotFoundError:
            missing.append(name)
            continue
        present[name] = dataset_statistics(row, folder).num_transitions
    return present, missing


def _table(mixture: Mixture, present: Mapping[str, int]) -> Table:
    sizes = {name: mixture.row(name).transitions or 0 for name in mixture.datasets}
    published, real, late = mixture.shares(sizes), mixture.shares(present), mixture.shares(present or sizes, 1.0)
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
            f"{present[name]:,}" if name in present else "",
            percent(real, name),
            percent(late, name),
        )
    return table


def rows_table() -> str:
    """Format the registry as a Markdown table, for docs/reference/open-x.md."""
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
