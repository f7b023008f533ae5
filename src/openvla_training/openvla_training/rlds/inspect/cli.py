"""openvla-inspect-data: the report of an existing dataset."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from openvla_policy.command_line import parse
from openvla_training.rlds.inspect.quality import counted, inspect
from openvla_training.rlds.reader import find_dataset
from openvla_training.rlds.writer import write_atomically

PAGE, FIGURES = "report.html", "report.json"


@dataclass(frozen=True)
class InspectOptions:
    """Options of openvla-inspect-data."""

    dataset: Annotated[Positional[Path], arg(metavar="DIR")]
    """Dataset folder."""
    output: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder for report.html and report.json. Default: the dataset's."""
    json: bool = False
    """Print the figures as JSON and write nothing."""


def write_inspection(folder: Path | str, output: Path | None = None) -> Path:
    """Write `report.html` and `report.json`.

    Args:
        folder: The dataset.
        output: Where to; None for beside the shards.

    Returns:
        The page.
    """
    from openvla_training.rlds.inspect.page import page

    folder = find_dataset(folder)
    output = output or folder
    output.mkdir(parents=True, exist_ok=True)
    found = inspect(folder)
    write_atomically(output / PAGE, page(found))
    write_atomically(output / FIGURES, json.dumps(found.to_json(), indent=1) + "\n")
    return output / PAGE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parse(
        InspectOptions,
        arguments,
        prog="openvla-inspect-data",
        description="Look at an RLDS dataset before training on it: one HTML page with the pictures inside.",
    )
    try:
        if options.json:
            print(json.dumps(inspect(options.dataset).to_json(), indent=1))
            return 0
        report = write_inspection(options.dataset, options.output)
    except (FileNotFoundError, ValueError) as error:
        print(f"openvla-inspect-data: {error}", file=sys.stderr)
        return 1
    figures = json.loads((report.parent / FIGURES).read_text("utf-8"))
    parts = (
        counted(sum(figures["splits"].values()), "episode"),
        counted(figures["steps"], "step"),
        counted(len(figures["instructions"]), "instruction"),
    )
    print(f"{figures['dataset']}: {', '.join(parts)}; report: {report}")
    for warning in figures["warnings"]:
        print(f"- {warning}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
