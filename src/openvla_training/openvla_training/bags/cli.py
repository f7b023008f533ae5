"""openvla-convert: rosbag2 recordings to an RLDS dataset."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from openvla_training.bags.action_labels import EXECUTED_TOPIC
from openvla_training.bags.actions import ACHIEVED, ACTION_FRAMES, StepOptions
from openvla_training.bags.alignment import ALIGNMENTS
from openvla_training.bags.convert_all import Summary, convert
from openvla_training.bags.convert_bag import Converted, Options
from openvla_training.bags.episode_cuts import COLUMNS, CUTS, lines_of, read_times
from openvla_training.bags.episodes import BadBag, Topics, find_bags
from openvla_training.rlds.images import ENCODINGS
from openvla_training.rlds.inspect.cli import write_inspection
from openvla_training.rlds.reference_loader import write_loader_config
from openvla_training.rlds.shards import FILE_FORMATS


def build_parser() -> argparse.ArgumentParser:
    """Return the command's argument parser."""
    parser = argparse.ArgumentParser(
        prog="openvla-convert",
        description="Convert rosbag2 recordings (MCAP or SQLite) to an RLDS dataset. A second run adds what is new.",
    )
    add = parser.add_argument
    add("bags", nargs="+", type=Path, metavar="BAGS", help="bags, or folders that hold bags")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of datasets to write to")
    add("--dataset-name", required=True, metavar="NAME", help="the dataset is written to DIR/NAME/1.0.0")
    add("--strict", action="store_true", help="stop at the first bad bag or episode")
    add("--report", action=argparse.BooleanOptionalAction, default=True, help="write report.html (default: yes)")
    add("--workers", type=int, default=max(1, (os.cpu_count() or 1)), metavar="N", help="processes (default: all)")

    add = parser.add_argument_group("episodes").add_argument
    cuts = "auto: the recorder's messages, else where the sentence changes; instruction: at every sentence; bag: one"
    add("--cut", choices=CUTS, default="auto", help=f"where episodes begin ({cuts}; default: auto)")
    add("--times", type=Path, metavar="CSV", help=f"cut by a list of times instead; columns {','.join(COLUMNS)} [s]")
    add("--keep-failed", action="store_true", help="keep episodes whose outcome is failure or that never ended")
    add("--val-fraction", type=float, default=0.05, help="share of episodes for the val split (default: 0.05)")

    add = parser.add_argument_group("steps").add_argument
    add("--rate", type=float, metavar="HZ", help="control rate; needed by 'achieved', else checked [Hz]")
    add(
        "--actions",
        default=EXECUTED_TOPIC,
        metavar="SOURCE",
        help="topic of the ActionChunks that label the executed frames (policy/action_chunk, expert/action_chunk), "
        f"or '{ACHIEVED}': differences of the reached poses at --rate (default: %(default)s)",
    )
    add("--action-frame", choices=ACTION_FRAMES, default="base", help="whose axes actions follow (default: base)")
    add("--ee-frame", default="", metavar="NAME", help="what chunks call the end effector's frame, if any use it")
    add("--align", choices=ALIGNMENTS, default="nearest", help="how a state is found for a frame (default: nearest)")
    add("--max-skew", type=float, default=0.1, metavar="S", help="frame and state may lie apart (default: 0.1 s)")
    noops = argparse.BooleanOptionalAction
    add("--drop-noops", action=noops, default=True, help="leave out steps without motion (default: yes)")
    add("--drop-first-zero", action=noops, default=True, help="leave out all-zero first transitions (default: yes)")

    add = parser.add_argument_group("images and files").add_argument
    # Exact by default: a policy of this size is then trained on the very pixels it is fed on the robot.
    add("--image-size", default="224", metavar="PX", help="square size to store, or 'camera' (default: 224)")
    add("--image-encoding", choices=ENCODINGS, default="png", help="lossless, or JPEG quality 95 (default: png)")
    add("--file-format", choices=FILE_FORMATS, default="array_record", help="of the shards (default: array_record)")

    add = parser.add_argument_group("topics, under any namespace").add_argument
    add("--image-topic", default=Topics.image, help="default: %(default)s")
    camera_help = "a further camera under an observation key, e.g. wrist_image=wrist_camera/image_raw; repeat for more"
    add("--camera", action="append", default=[], metavar="KEY=TOPIC", help=camera_help)
    add("--ee-pose-topic", default=Topics.ee_pose, help="default: %(default)s")
    add("--gripper-topic", default=Topics.gripper, help="default: %(default)s")
    add("--gripper-command-topic", default=Topics.gripper_command, help="default: %(default)s")
    add("--instruction-topic", default=Topics.instruction, help="default: %(default)s")

    add = parser.add_argument_group("Apache Beam, for thousands of bags").add_argument
    add("--beam", action="store_true", help="convert all bags in one Beam pipeline of TFDS; makes the dataset anew")
    add("--beam-options", default="", metavar="TEXT", help="options of the pipeline, e.g. '--runner=FlinkRunner …'")
    return parser


def options_of(given: argparse.Namespace, bags: Sequence[Path]) -> Options:
    """Return the conversion's options; ValueError names the flag that is wrong."""
    if given.image_size != "camera" and not (given.image_size.isdigit() and int(given.image_size) > 0):
        raise ValueError(f"--image-size {given.image_size!r}: give a number of pixels, or 'camera'")
    if given.rate is not None and given.rate <= 0 or given.actions == ACHIEVED and given.rate is None:
        raise ValueError(f"--rate {given.rate}: give the control rate in Hz, above 0")
    if not given.max_skew > 0:
        raise ValueError(f"--max-skew {given.max_skew}: give a time in s, above 0")
    cameras = [tuple(text.split("=", 1)) for text in given.camera]
    for text, camera in zip(given.camera, cameras, strict=True):
        if len(camera) != 2 or not camera[0].isidentifier() or camera[0] in ("image", "state") or not camera[1]:
            raise ValueError(f"--camera {text}: give KEY=TOPIC with a key other than image and state")
    if len({key for key, *_ in cameras}) < len(cameras):
        raise ValueError("--camera: each needs a key of its own")
    times = None
    if given.times:
        listed = read_times(given.times)
        times = {str(bag): lines_of(bag, listed, given.times.resolve().parent) for bag in bags}
    return Options(
        steps=StepOptions(
            actions=given.actions,
            rate=given.rate,
            max_skew=given.max_skew,
            alignment=given.align,
            action_frame=given.action_frame,
            ee_frame=given.ee_frame,
            drop_noops=given.drop_noops,
            drop_first_zero=given.drop_first_zero,
        ),
        keep_failed=given.keep_failed,
        image_size=None if given.image_size == "camera" else int(given.image_size),
        image_encoding=given.image_encoding,
        topics=Topics(
            image=given.image_topic,
            ee_pose=given.ee_pose_topic,
            gripper=given.gripper_topic,
            gripper_command=given.gripper_command_topic,
            instruction=given.instruction_topic,
            cameras=tuple((key, topic) for key, topic in cameras),
        ),
        cut=given.cut,
        times=times,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 1 when nothing is in the dataset or --strict met a bad bag."""
    given = build_parser().parse_args(arguments)
    console = Console(stderr=True, highlight=False)
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


def _run(given: argparse.Namespace, bags: Sequence[Path], options: Options, console: Console) -> Summary:
    columns = (TextColumn("converting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("bags", total=len(bags))

        def advance(result: Converted) -> None:
            bar.advance(task)
            if result.bad:
                bar.console.print(f"bad bag {result.bag}: {result.bad}", style="yellow", soft_wrap=True)
            for episode, reason in result.bad_episodes.items():
                told = f"bad episode {episode} of {result.bag}: {reason}"
                bar.console.print(told, style="yellow", soft_wrap=True)

        if given.beam:
            from openvla_training.bags.beam import convert_with_beam

            return convert_with_beam(
                bags,
                given.output,
                given.dataset_name,
                options,
                strict=given.strict,
                val_fraction=given.val_fraction,
                file_format=given.file_format,
                pipeline_options=shlex.split(given.beam_options),
                progress=advance,
            )
        return convert(
            bags,
            given.output,
            given.dataset_name,
            options,
            workers=given.workers,
            strict=given.strict,
            val_fraction=given.val_fraction,
            file_format=given.file_format,
            progress=advance,
        )


def _print_summary(summary: Summary, seconds: float) -> None:
    reasons: dict[str, int] = {}
    for reason in summary.dropped.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    parts = [f"{summary.episodes} episodes ({summary.steps} steps) added"]
    parts += [f"{number} episodes dropped: {reason}" for reason, number in reasons.items()]
    parts += [f"{number} steps left out: {reason}" for reason, number in summary.left_out.items()]
    parts += [f"{summary.already} bags known"] if summary.already else []
    parts += [f"{len(summary.bad_episodes)} bad episodes"] if summary.bad_episodes else []
    parts += [f"{len(summary.bad)} bad bags"] if summary.bad else []
    total = " + ".join(f"{number} {split}" for split, number in sorted(summary.splits.items())) or "nothing"
    speed = f"{summary.recorded_seconds / seconds:.0f} x real time"
    print(f"{summary.folder}: {total}; {', '.join(parts)}; {seconds:.1f} s, {speed}")


if __name__ == "__main__":
    sys.exit(main())
