"""openvla-lerobot: LeRobot datasets to RLDS and back."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import (
    FlagCreatePairsOff,
    OmitArgPrefixes,
    OmitSubcommandPrefixes,
    Positional,
    UseAppendAction,
    arg,
    subcommand,
)
from tyro.constructors import PrimitiveConstructorSpec

from openvla_policy.command_line import parse
from openvla_training.lerobot.layout import Version
from openvla_training.lerobot.reader import Mapping, open_source, read
from openvla_training.lerobot.writer import ImageStorage, export
from openvla_training.rlds.images import Encoding
from openvla_training.rlds.inspect.cli import write_inspection
from openvla_training.rlds.inspect.quality import counted
from openvla_training.rlds.reference_loader import write_loader_config
from openvla_training.rlds.shards import FileFormat
from openvla_training.rlds.statistics import write_statistics
from openvla_training.rlds.writer import open_writer

COLUMNS = PrimitiveConstructorSpec[tuple[int, ...]](
    nargs=1,
    metavar="0,1,…",
    instance_from_str=lambda words: tuple(int(number) for number in words[0].split(",")),
    is_instance=lambda value: isinstance(value, tuple),
    str_from_instance=lambda value: [",".join(map(str, value)) or "all"],
)


@dataclass(frozen=True)
class Export:
    """RLDS to LeRobot."""

    dataset: Annotated[Positional[Path], arg(metavar="DIR")]
    """RLDS dataset folder."""
    output: Annotated[Path, arg(metavar="DIR")]
    """Folder of the new LeRobot dataset."""
    version: Version = "v2.1"
    """Format of the LeRobot dataset."""
    fps: Annotated[int, arg(metavar="HZ")] = 5
    """Control rate by which LeRobot counts time [Hz]."""
    images: ImageStorage = "video"
    """H.264 video, or PNG columns, which are exact."""


@dataclass(frozen=True)
class Import:
    """LeRobot to RLDS."""

    dataset: Annotated[Positional[Path], arg(metavar="DIR")]
    """LeRobot dataset folder (v2.0, v2.1 or v3.0)."""
    output: Annotated[Path, arg(metavar="DIR")]
    """Folder of datasets to write to."""
    dataset_name: Annotated[str, arg(metavar="NAME")]
    """The dataset is written to DIR/NAME/1.0.0."""
    camera: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=FEATURE")] = ()
    """A camera under an observation key, e.g. image=observation.images.top. Default: all of them."""
    action_columns: Annotated[tuple[int, ...], COLUMNS] = ()
    """Columns of the 7 numbers dx … dyaw, gripper in `action`."""
    state_columns: Annotated[tuple[int, ...], COLUMNS] = ()
    """Columns of the 8 numbers x … z, qx … qw, gripper in `observation.state`."""
    no_state: FlagCreatePairsOff[bool] = False
    """The dataset has no such state: write zeros."""
    gripper_closed: float = 0.0
    """The gripper's number when it is closed."""
    gripper_open: float = 1.0
    """The gripper's number when it is open."""
    image_encoding: Encoding = "jpeg"
    """png is lossless, jpeg has quality 95."""
    file_format: FileFormat = "array_record"
    """Format of the shards."""
    val_fraction: float = 0.05
    """Share of episodes for the val split [0..1)."""
    report: bool = True
    """Write report.html beside the dataset."""


@dataclass(frozen=True)
class LeRobotOptions:
    """Options of openvla-lerobot."""

    command: OmitArgPrefixes[
        OmitSubcommandPrefixes[Annotated[Export, subcommand("export")] | Annotated[Import, subcommand("import")]]
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    given = parse(
        LeRobotOptions,
        arguments,
        prog="openvla-lerobot",
        description="LeRobot datasets to RLDS and back.",
        flag_pairs=True,
    ).command
    try:
        print(_export(given) if isinstance(given, Export) else _import(given))
    except (ValueError, OSError) as error:
        print(f"openvla-lerobot: {error}", file=sys.stderr)
        return 1
    return 0


def _export(given: Export) -> str:
    if given.fps <= 0:
        raise ValueError(f"--fps {given.fps}: give the control rate in Hz, above 0")
    number = export(given.dataset, given.output, version=given.version, fps=given.fps, images=given.images)
    return f"{given.output}: {counted(number, 'episode')}, LeRobot {given.version}"


def _import(given: Import) -> str:
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
    return f"{writer.folder}: {counted(added, 'episode')} added"


if __name__ == "__main__":
    sys.exit(main())
