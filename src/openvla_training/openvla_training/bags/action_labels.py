"""Labels from recorded ActionChunks: which actions were executed, and from which frame each of them started."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openvla_policy.contract.action import StampedChunk
from openvla_training.bags.alignment import nearest
from openvla_training.bags.episodes import NS, BadBag, Execution, Recording

EXECUTED_TOPIC = "policy/action_chunk"


@dataclass(frozen=True)
class LabelledSteps:
    """Executed actions (T, 7) along the axes of `frame`, image indices (T,), and how many were left out, by reason."""

    frames: NDArray[np.int64]
    actions: NDArray[np.float64]
    frame: str
    left_out: dict[str, int]


def labelled_steps(
    recording: Recording, label_topic: str, rate: float | None, max_skew: float, sentence: str | None
) -> LabelledSteps:
    """Make one step of each executed action of policy/action_chunk, labelled by a topic's chunk for the same frame.

    A chunk's first action belongs to the frame that it was computed from. Each later action belongs to the frame
    nearest to its start, computed + k * period, until the next chunk replaces it.

    Args:
        recording: The episode.
        label_topic: Topic of the chunks that label the frames.
        rate: Control rate that the chunks' period must match [Hz]; None for any.
        max_skew: Largest distance in time between a later action and its frame [s].
        sentence: Take only labels for this instruction; None for all.

    Returns:
        The steps.

    Raises:
        BadBag: There is no chunk, an action is not finite, or a chunk's period does not match the rate.
    """
    taken = sorted({chunk.observation_ns: chunk for chunk in recording.chunks[EXECUTED_TOPIC]}.items())
    if not taken:
        raise BadBag(f"no message on topic {EXECUTED_TOPIC}")
    labels = {
        chunk.observation_ns: chunk
        for chunk in recording.chunks[label_topic]
        if sentence is None or chunk.instruction == sentence
    }
    frames = {int(stamp): index for index, stamp in enumerate(recording.image_stamps)}
    left_out: dict[str, int] = {}
    indices: list[int] = []
    actions: list[tuple[float, ...]] = []
    names: set[str] = set()

    def leave_out(reason: str) -> None:
        left_out[reason] = left_out.get(reason, 0) + 1

    for number, (stamp, chunk) in enumerate(taken):
        label = labels.get(stamp)
        if not _executed(recording.execution, stamp):
            leave_out("not executed")
        elif stamp not in frames:
            leave_out("without its frame")
        elif label is None:
            leave_out(f"without a label on {label_topic}")
        else:
            _check(label, label_topic, rate)
            names.add(label.frame)
            indices.append(frames[stamp])
            actions.append(label.actions[0])
            after = taken[number + 1][1] if number + 1 < len(taken) else None
            for at, action in _rest(label, chunk, after):
                index = int(nearest(recording.image_stamps, np.array([at]))[0])
                if abs(int(recording.image_stamps[index]) - at) * NS > max_skew or index <= indices[-1]:
                    leave_out("without its frame")
                else:
                    indices.append(index)
                    actions.append(action)
    if len(names) > 1:
        raise BadBag(f"topic {label_topic} has actions in several frames: {', '.join(sorted(names))}")
    rows = np.array(actions, np.float64).reshape(-1, 7)
    return LabelledSteps(np.array(indices, np.int64), rows, next(iter(names), ""), left_out)


def _rest(
    label: StampedChunk, executed: StampedChunk, after: StampedChunk | None
) -> list[tuple[int, tuple[float, ...]]]:
    """Return start [ns] and label of the second and later actions of a chunk that start before the next chunk."""
    period = round(executed.period / NS)
    times = [executed.stamp_ns + k * period for k in range(1, len(label.actions))]
    # Half a period: an action that starts just before the next chunk's first one is replaced by it.
    end = None if after is None else after.stamp_ns - period // 2
    return [(at, label.actions[k]) for k, at in enumerate(times, 1) if end is None or at < end]


def _executed(execution: Execution | None, stamp: int) -> bool:
    """Tell whether a chunk was executed; one in execution when the recording ended counts, a refused one does not."""
    if execution is None or stamp in execution.executed:
        return True
    newest = max(execution.executed, default=0)
    return stamp > newest and execution.refused_after == 0


def _check(chunk: StampedChunk, topic: str, rate: float | None) -> None:
    if not chunk.actions:
        raise BadBag(f"topic {topic} has a chunk without actions")
    for action in chunk.actions:
        if not np.isfinite(action).all():
            raise BadBag(f"topic {topic} has an action that is not finite: {list(action)}")
    if len(chunk.actions) > 1 and not chunk.period > 0:
        raise BadBag(f"topic {topic} has a chunk of {len(chunk.actions)} actions and no period")
    if rate is not None and chunk.period > 0 and abs(chunk.period * rate - 1) > 0.1:
        raise BadBag(f"topic {topic} has actions of {chunk.period:.3f} s, --rate {rate} means {1 / rate:.3f} s")
