"""openvla-convert: rosbag2 recordings to an RLDS dataset."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from openvla_policy.command_line import parse
from openvla_training.bags.action_labels import EXECUTED_TOPIC
from openvla_training.bags.actions import ACHIEVED, ActionFrame, StepOptions
from openvla_training.bags.alignment import Alignment
from openvla_training.bags.convert_all import Summary, convert
from openvla_training.bags.convert_bag import Converted, Options
from openvla_training.bags.episode_cuts import CutBy, lines_of, read_times
from openvla_training.bags.episodes import BadBag, Topics, find_bags
from openvla_training.rlds.images import Encoding
from openvla_training.rlds.inspect.cli import write_inspection
from openvla_training.rlds.inspect.quality import counted
from openvla_training.rlds.reference_loader import write_loader_config
from openvla_training.rlds.shards import FileFormat


@dataclass(frozen=True)
class EpisodeOptions:
    """Which episodes."""

    cut: CutBy = "auto"
    """Where episodes begin: at the recorder's messages, else where the instruction changes (auto); at every instruction
    (instruction); the whole bag is one (bag)."""
    times: Annotated[Path | None, arg(metavar="CSV")] = None
    """Cut by a list of times instead; columns bag,start,end,instruction,outcome [s]."""
    keep_failed: bool = False
    """Keep episodes whose outcome is failure or that never ended."""
    val_fraction: float = 0.05
    """Share of episodes for the val split [0..1)."""


@dataclass(frozen=True)
class StepsOptions:
    """Which steps, and their actions."""

    rate: Annotated[float | None, arg(metavar="HZ")] = None
    """Control rate; needed by 'achieved', else checked [Hz]."""
    actions: Annotated[str, arg(metavar="SOURCE")] = EXECUTED_TOPIC
    """Topic of the ActionChunks that label the executed frames (policy/action_chunk, expert/action_chunk), or
    'achieved': differences of the reached poses at --rate."""
    action_frame: ActionFrame = "base"
    """Frame along whose axes the written actions are."""
    ee_frame: Annotated[str, arg(metavar="NAME")] = ""
    """Name of the end effector's frame in chunks, where they use it."""
    align: Alignment = "nearest"
    """How the state of a frame is taken from the samples around it."""
    max_skew: Annotated[float, arg(metavar="S")] = 0.1
    """Largest distance in time between a frame and its state [s]."""
    drop_noops: bool = True
    """Leave out steps without motion."""
    drop_first_zero: bool = True
    """Leave out all-zero transitions at the beginning."""


@dataclass(frozen=True)
class FileOptions:
    """Images and files."""

    # Exact by default: a policy of this size is then trained on the very pixels that it receives on the robot.
    image_size: Annotated[str, arg(metavar="PX")] = "224"
    """Side of the stored square [px], or 'camera' for the camera's own size."""
    image_encoding: Encoding = "png"
    """png is lossless, jpeg has quality 95."""
    file_format: FileFormat = "array_record"
    """Format of the shards."""


@dataclass(frozen=True)
class TopicOptions:
    """Topics, which match under any namespace."""

    image_topic: str = Topics.image
    """sensor_msgs/Image or CompressedImage of the main camera."""
    camera: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=TOPIC")] = ()
    """A further camera under an observation key, e.g. wrist_image=wrist_camera/image_raw."""
    ee_pose_topic: str = Topics.ee_pose
    """geometry_msgs/PoseStamped of the end effector."""
    gripper_topic: str = Topics.gripper
    """sensor_msgs/JointState with the opening [0..1]."""
    gripper_command_topic: str = Topics.gripper_command
    """std_msgs/Float64 with the commanded opening [0..1], where it is recorded."""
    instruction_topic: str = Topics.instruction
    """std_msgs/String."""


@dataclass(frozen=True)
class BeamOptions:
    """Apache Beam, for thousands of bags."""

    beam: bool = False
    """Convert all bags in one Beam pipeline of TFDS; it writes the whole dataset and cannot append."""
    beam_options: Annotated[str, arg(metavar="TEXT")] = ""
    """Options of the pipeline, e.g. '--runner=FlinkRunner …'."""


@dataclass(frozen=True)
class ConvertOptions:
    """Options of openvla-convert."""

    bags: Annotated[Positional[tuple[Path, ...]], arg(metavar="BAGS…", help_behavior_hint="(at least one)")]
    """Bags, or folders that hold bags."""
    output: Annotated[Path, arg(metavar="DIR")]
    """Folder of datasets to write to."""
    dataset_name: Annotated[str, arg(metavar="NAME")]
    """The dataset is written to DIR/NAME/1.0.0."""
    strict: bool = False
    """Stop at the first bad bag or episode."""
    report: bool = True
    """Write report.html beside the dataset."""
    workers: Annotated[int, arg(metavar="N", help_behavior_hint="(default: one a core)")] = os.cpu_count() or 1
    """Processes."""
    episodes: OmitArgPrefixes[EpisodeOptions] = field(default_factory=EpisodeOptions)
    steps: OmitArgPrefixes[StepsOptions] = field(default_factory=StepsOptions)
    files: OmitArgPrefixes[FileOptions] = field(default_factory=FileOptions)
    topics: OmitArgPrefixes[TopicOptions] = field(default_factory=TopicOptions)
    pipeline: OmitArgPrefixes[BeamOptions] = field(default_factory=BeamOptions)


def options_of(given: ConvertOptions, bags: Sequence[Path]) -> Options:
    """Build the conversion's options from the command line.

    Args:
        given: The command line.
        bags: The bags that will be converted.

    Returns:
        The options.

    Raises:
        ValueError: A flag has a value that it cannot take.
    """
    episodes, steps, files, topics = given.episodes, given.steps, given.files, given.topics
    if files.image_size != "camera" and not (files.image_size.isdigit() and int(files.image_size) > 0):
        raise ValueError(f"--image-size {files.image_size!r}: give a number of pixels, or 'camera'")
    if (steps.rate is not None and steps.rate <= 0) or (steps.actions == ACHIEVED and steps.rate is None):
        raise ValueError(f"--rate {steps.rate}: give the control rate in Hz, above 0")
    if not steps.max_skew > 0:
        raise ValueError(f"--max-skew {steps.max_skew}: give a time in s, above 0")
    cameras = []
    for text in topics.camera:
        key, _, topic = text.partition("=")
        if not key.isidentifier() or key in ("image", "state") or not topic:
            raise ValueError(f"--camera {text}: give KEY=TOPIC with a key other than image and state")
        cameras.append((key, topic))
    if len(dict(cameras)) < len(cameras):
        raise ValueError(f"--camera {' '.join(topics.camera)}: give each camera a key of its own")
    times = None
    if episodes.times:
        listed = read_times(episodes.times)
        times = {str(bag): lines_of(bag, listed, episodes.times.resolve().parent) for bag in bags}
    return Options(
        steps=StepOptions(
            actions=steps.actions,
            rate=steps.rate,
            max_skew=steps.max_skew,
            alignment=steps.align,
            action_frame=steps.action_frame,
            ee_frame=steps.ee_frame,
            drop_noops=steps.drop_noops,
            drop_first_zero=steps.drop_first_zero,
        ),
        keep_failed=episodes.keep_failed,
        image_size=None if files.image_size == "camera" else int(files.image_size),
        image_encoding=files.image_encoding,
        topics=Topics(
            image=topics.image_topic,
            ee_pose=topics.ee_pose_topic,
            gripper=topics.gripper_topic,
            gripper_command=topics.gripper_command_topic,
            instruction=topics.instruction_topic,
            cameras=tuple(cameras),
        ),
        cut=episodes.cut,
        times=times,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 1 when nothing is in the dataset or a bag is bad under --strict, 2 without a bag."""
    given = parse(
        ConvertOptions,
        arguments,
        prog="openvla-convert",
        description="Convert rosbag2 recordings (MCAP or SQLite) to an RLDS dataset. A second run adds what is new.",
        flag_pairs=True,
    )
    console = Console(stderr=True, highlight=False)
    if not given.bags:
        console.print(
            "openvla-convert: name at least one bag, or a folder that holds bags", style="red", soft_wrap=True
        )
        return 2
    begin = time.monotonic()
    try:
        bags = find_bags(given.bags)
        if not bags:
            raise ValueError(f"no bags in {', '.join(map(str, given.bags))}")
        summary = _run(given, bags, options_of(given, bags), console)
        seconds = time.monotonic() - begin
        if summary.splits:
            write_loader_config(summary.folder)
            if given.report:
                console.print(f"report: {write_inspection(summary.folder)}", soft_wrap=True)
    except (BadBag, ValueError, OSError) as error:
        console.print(f"openvla-convert: {error}", style="red", soft_wrap=True)
        return 1
    _print_summary(summary, seconds)
    return 0 if summary.splits else 1


def _run(given: ConvertOptions, bags: Sequence[Path], options: Options, console: Console) -> Summary:
    columns = (TextColumn("converting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("bags", total=len(bags))

        def advance(result: Converted) -> None:
            bar.advance(task)
            if result.bad:
                bar.console.print(f"bad bag {result.bag}: {result.bad}", style="yellow", soft_wrap=True)
            for episode, reason in result.bad_episodes.items():
                text = f"bad episode {episode} of {result.bag}: {reason}"
                bar.console.print(text, style="yellow", soft_wrap=True)

        if given.pipeline.beam:
            from openvla_training.bags.beam import convert_with_beam

            return convert_with_beam(
                bags,
                given.output,
                given.dataset_name,
                options,
                strict=given.strict,
                val_fraction=given.episodes.val_fraction,
                file_format=given.files.file_format,
                pipeline_options=shlex.split(given.pipeline.beam_options),
                progress=advance,
            )
        return convert(
            bags,
            given.output,
            given.dataset_name,
            options,
            workers=given.workers,
            strict=given.strict,
            val_fraction=given.episodes.val_fraction,
            file_format=given.files.file_format,
            progress=advance,
        )


def _print_summary(summary: Summary, seconds: float) -> None:
    parts = [f"{counted(summary.episodes, 'episode')} ({counted(summary.steps, 'step')}) added"]
    dropped = Counter(summary.dropped.values())
    parts += [f"{counted(number, 'episode')} dropped: {reason}" for reason, number in dropped.items()]
    parts += [f"{counted(number, 'step')} left out: {reason}" for reason, number in summary.left_out.items()]
    parts += [f"{counted(summary.already, 'bag')} known"] if summary.already else []
    parts += [counted(len(summary.bad_episodes), "bad episode")] if summary.bad_episodes else []
    parts += [counted(len(summary.bad), "bad bag")] if summary.bad else []
    total = " + ".join(f"{number} {split}" for split, number in sorted(summary.splits.items())) or "nothing"
    speed = f"{summary.recorded_seconds / seconds:.0f} x real time"
    print(f"{summary.folder}: {total}; {', '.join(parts)}; {seconds:.1f} s, {speed}")


if __name__ == "__main__":
    sys.exit(main())
