"""openvla-inspect-data: the report of an existing dataset."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from openvla_training.rlds.inspect.quality import inspect
from openvla_training.rlds.reader import find_dataset
from openvla_training.rlds.writer import write_atomically

PAGE, FIGURES = "report.html", "report.json"


def write_inspection(folder: Path | str, output: Path | None = None) -> Path:
    """Write ``report.html`` and ``report.json`` to ``output`` (default: beside the shards); returns the page."""
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
    parser = argparse.ArgumentParser(
        prog="openvla-inspect-data",
        description="Look at an RLDS dataset before training on it: one HTML page with the pictures inside.",
    )
    parser.add_argument("dataset", type=Path, metavar="DIR", help="dataset folder")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where report.html goes (default: the dataset)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, and write nothing")
    options = parser.parse_args(arguments)
    try:
        if options.json:
            print(json.dumps(inspect(options.dataset).to_json(), indent=1))
            return 0
        report = write_inspection(options.dataset, options.output)
    except (FileNotFoundError, ValueError) as error:
        print(f"openvla-inspect-data: {error}", file=sys.stderr)
        return 1
    figures = json.loads((report.parent / FIGURES).read_text("utf-8"))
    print(f"{figures['dataset']}: {sum(figures['splits'].values())} episodes, {figures['steps']} steps, "
          f"{len(figures['instructions'])} instructions; report: {report}")  # fmt: skip
    for warning in figures["warnings"]:
        print(f"- {warning}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
