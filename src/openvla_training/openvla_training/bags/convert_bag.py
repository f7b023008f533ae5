"""Convert one bag to encoded episodes: a function that any process can run, by itself or under Beam."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_training.bags.action_labels import EXECUTED_TOPIC
from openvla_training.bags.actions import ACHIEVED, StepOptions, Steps, make_steps, sentences
from openvla_training.bags.episode_cuts import CutBy, TimesLine
from openvla_training.bags.episodes import BadBag, Recording, Topics
from openvla_training.bags.reading import BadEpisode, read_each, read_frames
from openvla_training.rlds.features import MAIN_CAMERA, EncodedEpisode, Shape
from openvla_training.rlds.images import Encoding, encode_image
from openvla_training.rlds.writer import SENTENCE_MARK

# Outcomes that are left out of a dataset of demonstrations unless asked for; a discarded episode always is.
NOT_SUCCESSFUL = ("failure", "unfinished")
DISCARDED = "discard"
LONG_GAP = 0.5  # [s]


@dataclass(frozen=True)
class Options:
    """How episodes are made; the same for all of a dataset.

    Attributes:
        steps: How steps are made.
        keep_failed: Whether to keep episodes whose outcome is failure or that never ended.
        image_size: Side of the stored square [px]; None for the camera's own size.
        image_encoding: png or jpeg.
        topics: Names of the topics.
        cut: Where episodes begin.
        times: The lines of a list of times, by path of the bag; None where there is no list.
    """

    steps: StepOptions = field(default_factory=StepOptions)
    keep_failed: bool = False
    image_size: int | None = 224
    image_encoding: Encoding = "png"
    topics: Topics = field(default_factory=Topics)
    cut: CutBy = "auto"
    times: Mapping[str, tuple[TimesLine, ...]] | None = None

    @property
    def action_topics(self) -> tuple[str, ...]:
        """The ActionChunk topics that the bags must have."""
        actions = self.steps.actions
        return () if actions == ACHIEVED else tuple(dict.fromkeys((EXECUTED_TOPIC, actions)))

    def lines(self, bag: Path) -> tuple[TimesLine, ...] | None:
        """Return the bag's lines of the list of times; None where there is no list."""
        return None if self.times is None else self.times.get(str(bag), ())


@dataclass(frozen=True)
class Converted:
    """The result of converting a bag.

    Attributes:
        bag: The bag.
        episodes: Its encoded episodes.
        image_shapes: Shapes of the images by observation key.
        dropped: Reasons of the episodes that were left out, by id.
        bad_episodes: Reasons of the episodes that cannot be used, by id.
        quality: Figures for the report, by id.
        seconds: Recorded time of the episodes [s].
        work: Time spent on read, decode, resize and encode [s].
        bad: Why the bag as a whole cannot be used; None where it can.
    """

    bag: Path
    episodes: tuple[EncodedEpisode, ...] = ()
    image_shapes: dict[str, Shape] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    bad_episodes: dict[str, str] = field(default_factory=dict)
    quality: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    work: dict[str, float] = field(default_factory=dict)
    bad: str | None = None

    @property
    def left_out(self) -> dict[str, int]:
        """Steps left out of the episodes, by reason."""
        total: dict[str, int] = {}
        for figures in self.quality.values():
            for reason, number in figures["left_out"].items():
                total[reason] = total.get(reason, 0) + number
        return total


class _Times:
    """Time spent on each part of the work [s]."""

    def __init__(self) -> None:
        self.work: dict[str, float] = dict.fromkeys(("read", "decode", "resize", "encode"), 0.0)

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.work[part] += time.perf_counter() - begin


def convert_bag(bag: Path, options: Options) -> Converted:
    """Convert one bag; one that cannot be used gives a result with `bad` instead of an error."""
    watch = _Times()
    lines = options.lines(bag)
    if lines == ():
        return Converted(bag, bad="the list of times has no line for it")
    try:
        with watch.on("read"):
            found = read_each(bag, options.action_topics, options.topics, cut=options.cut, lines=lines)
    except BadBag as error:
        return Converted(bag, bad=str(error))
    made: list[EncodedEpisode] = []
    dropped: dict[str, str] = {}
    bad: dict[str, str] = {}
    quality: dict[str, dict[str, Any]] = {}
    shapes: dict[str, Shape] = {}
    seconds = 0.0
    for recording in found:
        if isinstance(recording, BadEpisode):
            bad[recording.episode_id] = recording.reason
        elif recording.outcome == DISCARDED or (recording.outcome in NOT_SUCCESSFUL and not options.keep_failed):
            dropped[recording.episode_id] = recording.outcome
        else:
            # A copy: a bad episode must not determine the image shapes of the good ones.
            trial = dict(shapes)
            try:
                episodes = list(_episodes(recording, options, trial, quality, watch))
            except BadBag as error:
                bad[recording.episode_id] = str(error)
                continue
            made, shapes = made + episodes, trial
            seconds += float(recording.image_stamps[-1] - recording.image_stamps[0]) * 1e-9
    if bad and not made and not dropped:
        reasons = dict.fromkeys(bad.values())
        return Converted(bag, bad="; ".join(reasons))
    return Converted(bag, tuple(made), shapes, dropped, bad, quality, seconds, watch.work)


def _episodes(
    recording: Recording,
    options: Options,
    shapes: dict[str, Shape],
    quality: dict[str, dict[str, Any]],
    watch: _Times,
) -> Iterator[EncodedEpisode]:
    """Yield a recording's episodes, one an instruction; `shapes` are those of the bag's earlier episodes, and grow."""
    encoded: dict[tuple[str, tuple[int, ...]], list[bytes]] = {}  # instructions mostly share their frames
    wanted = sentences(recording, options.steps.actions)
    for sentence in wanted:
        with watch.on("read"):
            steps = make_steps(recording, options.steps, sentence if len(wanted) > 1 else None)
        cameras = {}
        for key, indices in {MAIN_CAMERA: steps.frames, **steps.camera_frames}.items():
            place = (key, tuple(int(index) for index in indices))
            if place not in encoded:
                encoded[place] = _encoded(recording, key, place[1], options, shapes, watch)
            cameras[key] = encoded[place]
        episode_id = recording.episode_id + (f"{SENTENCE_MARK}{sentence}" if len(wanted) > 1 else "")
        quality[episode_id] = _quality(recording, steps)
        yield EncodedEpisode(
            episode_id=episode_id,
            images=cameras.pop(MAIN_CAMERA),
            states=steps.states.astype(np.float32),
            actions=steps.actions.astype(np.float32),
            instructions=steps.instructions,
            outcome=recording.outcome,
            score=recording.score,
            file_path=str(recording.bag),
            extra_images=cameras,
            stamps=recording.image_stamps[steps.frames],
        )


def _encoded(
    recording: Recording,
    key: str,
    indices: tuple[int, ...],
    options: Options,
    shapes: dict[str, Shape],
    watch: _Times,
) -> list[bytes]:
    """Encode frames of one camera as they are stored."""
    frames = read_frames(recording, indices, None if key == MAIN_CAMERA else key)
    done: list[bytes] = []
    while True:
        with watch.on("decode"):
            frame = next(frames, None)
        if frame is None:
            break
        with watch.on("resize"):
            frame = resized(frame, options.image_size)
        shape: Shape = (frame.shape[0], frame.shape[1], 3)
        if shapes.setdefault(key, shape) != shape:
            raise BadBag(f"images are {shape}, in the bag's earlier episodes {shapes[key]}")
        with watch.on("encode"):
            done.append(encode_image(frame, options.image_encoding))
    if len(done) != len(indices):
        raise BadBag(f"{len(indices)} frames are needed, the bag holds {len(done)} of them")
    return done


def resized(frame: NDArray[np.uint8], size: int | None) -> NDArray[np.uint8]:
    """Resize a frame to a square of `size` [px] by the policy's image preparation; None leaves it unchanged."""
    if size is None or frame.shape[:2] == (size, size):
        return frame
    # Imports torch, which a conversion at the camera's size does not need.
    from openvla_policy.contract.image import ImagePreparation

    return ImagePreparation.standard(size, ["half"]).resize(frame)


def _quality(recording: Recording, steps: Steps) -> dict[str, Any]:
    """Compute the report's figures: steps left out, distances in time [s], gaps in the video, lost messages."""
    gaps = np.diff(recording.image_stamps) * 1e-9
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    lost = recording.details.get("dropped", {})
    return {
        "left_out": dict(steps.left_out),
        "skew_s": {
            name: {"mean": float(values.mean()), "max": float(values.max())} for name, values in steps.skews.items()
        },
        "image_period_s": usual,
        # Cameras that wait for the robot have uneven periods: only gaps that are long in both measures count.
        "image_gaps": int((gaps > max(2.5 * usual, LONG_GAP)).sum()),
        "messages_lost": {str(topic): int(number) for topic, number in lost.items()},
    }
