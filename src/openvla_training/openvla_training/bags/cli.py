"""openvla-convert: rosbag2 recordings to an RLDS dataset."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from openvla_training.bags.actions import ACHIEVED, EXECUTED_TOPIC
from openvla_training.bags.convert import Converted, Options, Summary, convert
from openvla_training.bags.episodes import BadBag, Topics, find_bags
from openvla_training.rlds.images import ENCODINGS


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
    add("--rate", type=float, metavar="HZ", help="control rate; needed by 'achieved', else checked [Hz]")
    add(
        "--actions",
        default=EXECUTED_TOPIC,
        metavar="SOURCE",
        help="topic of the ActionChunks that label the executed frames (policy/action_chunk, expert/action_chunk), "
        f"or '{ACHIEVED}': differences of the reached poses at --rate (default: %(default)s)",
    )
    add("--max-skew", type=float, default=0.1, metavar="S", help="frame and state may lie apart (default: 0.1 s)")
    add("--image-size", default="256", metavar="PX", help="square size to store, or 'camera' (default: 256)")
    add("--image-encoding", choices=ENCODINGS, default="jpeg", help="JPEG quality 95, or lossless (default: jpeg)")
    add("--drop-noops", action="store_true", help="leave out steps without motion")
    add("--keep-failed", action="store_true", help="keep episodes whose outcome is failure or that never ended")
    add("--val-fraction", type=float, default=0.05, help="share of episodes for the val split (default: 0.05)")
    add("--image-topic", default=Topics.image, help="default: %(default)s")
    add("--ee-pose-topic", default=Topics.ee_pose, help="default: %(default)s")
    add("--gripper-topic", default=Topics.gripper, help="default: %(default)s")
    add("--strict", action="store_true", help="stop at the first bad bag")
    add("--workers", type=int, default=max(1, (os.cpu_count() or 1)), metavar="N", help="processes (default: all)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 1 when nothing is in the dataset or --strict met a bad bag."""
    given = build_parser().parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    begin = time.monotonic()
    try:
        if given.image_size != "camera" and not given.image_size.isdigit():
            raise ValueError(f"--image-size {given.image_size!r}: give a number of pixels, or 'camera'")
        if given.rate is not None and given.rate <= 0 or given.actions == ACHIEVED and given.rate is None:
            raise ValueError(f"--rate {given.rate}: give the control rate in Hz, above 0")
        options = Options(
            actions=given.actions,
            rate=given.rate,
            max_skew=given.max_skew,
            drop_noops=given.drop_noops,
            keep_failed=given.keep_failed,
            image_size=None if given.image_size == "camera" else int(given.image_size),
            image_encoding=given.image_encoding,
            topics=Topics(image=given.image_topic, ee_pose=given.ee_pose_topic, gripper=given.gripper_topic),
        )
        bags = find_bags(given.bags)
        if not bags:
            raise ValueError(f"no bags in {', '.join(map(str, given.bags))}")
        columns = (TextColumn("converting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("bags", total=len(bags))

            def advance(result: Converted) -> None:
                bar.advance(task)
                if result.bad:
                    bar.console.print(f"bad bag {result.bag}: {result.bad}", style="yellow", soft_wrap=True)

            summary = convert(
                bags,
                given.output,
                given.dataset_name,
                options,
                workers=given.workers,
                strict=given.strict,
                val_fraction=given.val_fraction,
                progress=advance,
            )
    except (BadBag, ValueError, OSError) as error:
        console.print(f"openvla-convert: {error}", style="red", soft_wrap=True)
        return 1
    _print_summary(summary, time.monotonic() - begin)
    return 0 if summary.splits else 1


def _print_summary(summary: Summary, seconds: float) -> None:
    reasons: dict[str, int] = {}
    for reason in summary.dropped.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    parts = [f"{summary.episodes} episodes ({summary.steps} steps) added"]
    parts += [f"{number} episodes dropped: {reason}" for reason, number in reasons.items()]
    parts += [f"{number} steps left out: {reason}" for reason, number in summary.left_out.items()]
    parts += [f"{summary.already} bags known"] if summary.already else []
    parts += [f"{len(summary.bad)} bad bags"] if summary.bad else []
    total = " + ".join(f"{number} {split}" for split, number in sorted(summary.splits.items())) or "nothing"
    speed = f"{summary.recorded_seconds / seconds:.0f} x real time"
    print(f"{summary.folder}: {total}; {', '.join(parts)}; {seconds:.1f} s, {speed}")


if __name__ == "__main__":
    sys.exit(main())
