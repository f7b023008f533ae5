"""One bag to encoded episodes: a function that any process can run, on its own or under Beam."""

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
from openvla_training.bags.episode_cuts import Line
from openvla_training.bags.episodes import BadBag, Recording, Topics
from openvla_training.bags.reading import BadEpisode, read_each, read_frames
from openvla_training.rlds.features import MAIN_CAMERA, EncodedEpisode, Shape
from openvla_training.rlds.images import encode_image
from openvla_training.rlds.writer import SENTENCE_MARK

# Outcomes that are left out of a dataset of demonstrations unless asked for; a discarded episode always is.
NOT_SUCCESSFUL = ("failure", "unfinished")
DISCARDED = "discard"
LONG_GAP = 0.5  # [s]


@dataclass(frozen=True)
class Options:
    """How episodes are made. All of it goes into the dataset's manifest: one dataset, one way.

    ``image_size``: side of the stored square [px]; None keeps the camera's. ``times``: the lines of a list of times
    for each bag's path; None where there is no list.
    """

    steps: StepOptions = field(default_factory=StepOptions)
    keep_failed: bool = False
    image_size: int | None = 224
    image_encoding: str = "png"
    topics: Topics = field(default_factory=Topics)
    cut: str = "auto"
    times: Mapping[str, tuple[Line, ...]] | None = None

    @property
    def action_topics(self) -> tuple[str, ...]:
        """The ActionChunk topics that the bags must have."""
        actions = self.steps.actions
        return () if actions == ACHIEVED else tuple(dict.fromkeys((EXECUTED_TOPIC, actions)))

    def lines(self, bag: Path) -> tuple[Line, ...] | None:
        """The bag's lines of the list of times; None where there is no list."""
        return None if self.times is None else self.times.get(str(bag), ())


@dataclass(frozen=True)
class Converted:
    """What became of a bag.

    ``episodes``, and by id: ``dropped`` and ``bad_episodes`` with the reason, ``quality`` with the figures of the
    report. ``bad``: why the bag as a whole is unusable. ``work``: seconds spent on read, decode, resize and encode;
    ``seconds``: how long was recorded.
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


class _Watch:
    """Adds up where the time goes."""

    def __init__(self) -> None:
        self.work: dict[str, float] = dict.fromkeys(("read", "decode", "resize", "encode"), 0.0)

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.work[part] += time.perf_counter() - begin


def convert_bag(bag: Path, options: Options) -> Converted:
    """Convert one bag; a broken one becomes ``bad`` with the reason instead of an error."""
    watch = _Watch()
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
        elif recording.outcome == DISCARDED or recording.outcome in NOT_SUCCESSFUL and not options.keep_failed:
            dropped[recording.episode_id] = recording.outcome
        else:
            # On trial: a broken episode must not decide what the images of the good ones look like.
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
    recording: Recording, options: Options, shapes: dict[str, Shape], quality: dict[str, dict[str, Any]], watch: _Watch
) -> Iterator[EncodedEpisode]:
    """Yield a recording's episodes, one a sentence; ``shapes`` are those of the bag's earlier ones, or empty."""
    encoded: dict[tuple[str, tuple[int, ...]], list[bytes]] = {}  # sentences mostly share their frames
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
    recording: Recording, key: str, indices: tuple[int, ...], options: Options, shapes: dict[str, Shape], watch: _Watch
) -> list[bytes]:
    """Frames of one camera as they are stored."""
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
    """Bring a frame to a square of ``size`` [px] by the shared preparation; None leaves it as it is."""
    if size is None or frame.shape[:2] == (size, size):
        return frame
    # Not at the top: it brings in torch, which most conversions (camera size = dataset size) do without.
    from openvla_policy.contract.image import ImagePreparation

    return ImagePreparation.standard(size, ["half"]).resize(frame)


def _quality(recording: Recording, steps: Steps) -> dict[str, Any]:
    """Figures of the report: steps left out, distances in time [s], gaps in the video, messages the recorder lost."""
    gaps = np.diff(recording.image_stamps) * 1e-9
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    lost = recording.details.get("dropped", {})
    return {
        "left_out": dict(steps.left_out),
        "skew_s": {
            name: {"mean": float(values.mean()), "max": float(values.max())} for name, values in steps.skews.items()
        },
        "image_period_s": usual,
        # Cameras that wait for the robot come at uneven times: only what is long by any measure counts.
        "image_gaps": int((gaps > max(2.5 * usual, LONG_GAP)).sum()),
        "messages_lost": {str(topic): int(number) for topic, number in lost.items()},
    }
