"""openvla-lerobot: LeRobot datasets in and out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from openvla_training.lerobot.layout import VERSIONS
from openvla_training.lerobot.reader import Mapping, open_source, read
from openvla_training.lerobot.writer import IMAGES, export
from openvla_training.rlds.images import ENCODINGS
from openvla_training.rlds.inspect.cli import write_inspection
from openvla_training.rlds.reference_loader import write_loader_config
from openvla_training.rlds.shards import FILE_FORMATS
from openvla_training.rlds.statistics import write_statistics
from openvla_training.rlds.writer import open_writer


def build_parser() -> argparse.ArgumentParser:
    """Return the command's argument parser."""
    parser = argparse.ArgumentParser(prog="openvla-lerobot", description="LeRobot datasets to RLDS and back.")
    commands = parser.add_subparsers(dest="command", required=True)

    add = commands.add_parser("export", help="RLDS to LeRobot").add_argument
    add("dataset", type=Path, metavar="DIR", help="RLDS dataset folder")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the new LeRobot dataset")
    add("--version", choices=VERSIONS, default="v2.1", help="format (default: %(default)s)")
    add("--fps", type=int, default=5, metavar="HZ", help="control rate by which LeRobot counts time (default: 5 Hz)")
    add("--images", choices=IMAGES, default="video", help="H.264, or PNG columns, which are exact (default: video)")

    add = commands.add_parser("import", help="LeRobot to RLDS").add_argument
    add("dataset", type=Path, metavar="DIR", help="LeRobot dataset folder (v2.0, v2.1 or v3.0)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of datasets to write to")
    add("--dataset-name", required=True, metavar="NAME", help="the dataset is written to DIR/NAME/1.0.0")
    add("--camera", action="append", default=[], metavar="KEY=FEATURE", help="e.g. image=observation.images.top")
    add("--action-columns", type=_columns, default=(), metavar="0,1,…", help="the 7 numbers dx…dyaw, gripper")
    add("--state-columns", type=_columns, default=(), metavar="0,1,…", help="the 8 numbers x…z, qx…qw, gripper")
    add("--no-state", action="store_true", help="the dataset has no such state: write zeros")
    add("--gripper-closed", type=float, default=0.0, metavar="V", help="its number when closed (default: 0)")
    add("--gripper-open", type=float, default=1.0, metavar="V", help="its number when open (default: 1)")
    add("--image-encoding", choices=ENCODINGS, default="jpeg", help="default: jpeg")
    add("--file-format", choices=FILE_FORMATS, default="array_record", help="default: array_record")
    add("--val-fraction", type=float, default=0.05, help="share of episodes for the val split (default: 0.05)")
    add("--report", action=argparse.BooleanOptionalAction, default=True, help="write report.html (default: yes)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    given = build_parser().parse_args(arguments)
    try:
        if given.command == "export":
            if given.fps <= 0:
                raise ValueError(f"--fps {given.fps}: give the control rate in Hz, above 0")
            number = export(given.dataset, given.output, version=given.version, fps=given.fps, images=given.images)
            print(f"{given.output}: {number} episodes, LeRobot {given.version}")
            return 0
        print(_import(given))
    except (ValueError, OSError) as error:
        print(f"openvla-lerobot: {error}", file=sys.stderr)
        return 1
    return 0


def _import(given: argparse.Namespace) -> str:
    if given.gripper_open == given.gripper_closed:
        raise ValueError(f"--gripper-open and --gripper-closed are both {given.gripper_open}")
    pairs = [text.partition("=") for text in given.camera]
    mapping = Mapping(
        cameras={key: name for key, _, name in pairs},
        action=given.action_columns,
        state=given.state_columns,
        no_state=given.no_state,
        closed=given.gripper_closed,
        opened=given.gripper_open,
    )
    source = open_source(given.dataset)
    settings = {
        "lerobot": str(given.dataset.resolve()),
        "image_encoding": given.image_encoding,
        "rate": source.info["fps"],
        **{key: str(value) for key, value in vars(mapping).items()},
    }
    added = 0
    with open_writer(
        given.output,
        given.dataset_name,
        settings=settings,
        val_fraction=given.val_fraction,
        file_format=given.file_format,
    ) as writer:
        for episode, shapes in read(source, mapping, given.image_encoding):
            if episode.episode_id not in writer.episode_ids:
                writer.add(episode, shapes)
                added += 1
    write_statistics(writer.folder)
    write_loader_config(writer.folder)
    if given.report:
        write_inspection(writer.folder)
    return f"{writer.folder}: {added} episodes added"


def _columns(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give positions such as 0,1,2,3,4,5,6") from None


if __name__ == "__main__":
    sys.exit(main())
