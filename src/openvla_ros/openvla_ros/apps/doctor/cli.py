"""`openvla-doctor`: examines a workstation and a running stack before the first motion.

It only observes: it publishes nothing and changes nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import rclpy
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from openvla_policy.command_line import parse
from openvla_ros.apps.doctor.examination import examine
from openvla_ros.apps.doctor.finding import BAD, OK, SIGNS, SKIP, Finding
from openvla_ros.apps.doctor.options import Options
from openvla_ros.bringup.process_table import camera_files

COMMAND = "openvla-doctor"
COLOURS = {OK: "green", BAD: "red", SKIP: "dim"}


def table(rows: Sequence[Finding]) -> Table:
    """The rows as a table for a terminal."""
    made = Table(title=COMMAND, title_justify="left", show_lines=False)
    for column in ("", "what", "found", "remedy"):
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(f"[{COLOURS[row.status]}]{SIGNS[row.status]}[/]", row.name, escape(row.found), escape(row.remedy))
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The words after the program's name; default: those of this process, without ROS arguments.

    Returns:
        0 when no row is ✗, 1 when one is, 2 for wrong options, 130 after Ctrl-C.
    """
    given = rclpy.utilities.remove_ros_args(sys.argv)[1:] if arguments is None else arguments
    description = (
        "Examine a workstation and a running stack before the first motion: a row each, with ✓, ✗ or – and a remedy. "
        "It only observes. Exit status: 0 no ✗, 1 at least one, 2 wrong options."
    )
    options = parse(Options, given, prog=COMMAND, description=description)
    try:
        options.check()
        camera_files(options.camera)
        rows = examine(options)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return 2
    bad = sum(row.status == BAD for row in rows)
    if options.json:
        print(json.dumps([row.to_dict() for row in rows], indent=2, ensure_ascii=False))
    else:
        console = Console(highlight=False)
        console.print(table(rows))
        console.print(f"{bad} to fix before the first motion" if bad else "ready for the first motion")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
