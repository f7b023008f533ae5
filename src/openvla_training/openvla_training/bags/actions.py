"""From streams to steps: which frames an episode keeps, and the state and action that go with each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openvla_training.bags.episodes import NS, BadBag, Chunk, Execution, Recording

EXECUTED_TOPIC = "policy/action_chunk"
ACHIEVED = "achieved"
# More than this share of steps lost to missing labels or late states means the recording itself is broken.
MAX_LOST_SHARE = 0.2
NOOP_NORM = 1e-4


@dataclass(frozen=True)
class Steps:
    """T steps: image indices (T,), states (T, 8), actions (T, 7), sentences; and how many steps were left out, why."""

    frames: NDArray[np.int64]
    states: NDArray[np.float64]
    actions: NDArray[np.float64]
    instructions: list[str]
    left_out: dict[str, int]

    def only(self, keep: NDArray[np.bool_], reason: str) -> Steps:
        """Keep some steps, and count the others under ``reason``."""
        lost = int((~keep).sum())
        if not lost:
            return self
        return Steps(
            self.frames[keep],
            self.states[keep],
            self.actions[keep],
            [text for text, kept in zip(self.instructions, keep, strict=True) if kept],
            self.left_out | {reason: self.left_out.get(reason, 0) + lost},
        )


def nearest(stamps: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each time in ``at`` the index of the nearest of the sorted ``stamps`` (the earlier one of a tie)."""
    right = np.clip(np.searchsorted(stamps, at), 1, max(len(stamps) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(stamps) - 1)
    return np.where(at - stamps[left] <= stamps[right] - at, left, right)


def states_at(recording: Recording, at: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the states (T, 8) nearest to the times, and how far off each is at most [s] (T,)."""
    columns, skews = [], []
    for stream in (recording.ee_pose, recording.gripper):
        index = nearest(stream.stamps, at)
        columns.append(stream.values[index])
        skews.append(np.abs(stream.stamps[index] - at) * NS)
    return np.concatenate(columns, axis=1), np.maximum(*skews)


def rotation_matrix(quaternion_xyzw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrices (N, 3, 3) of quaternions (N, 4), which need not have unit length."""
    x, y, z, w = (quaternion_xyzw / np.linalg.norm(quaternion_xyzw, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def fixed_angles(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Roll, pitch, yaw about the fixed x, y, z axes (N, 3) of matrices (N, 3, 3): R = Rz(yaw) Ry(pitch) Rx(roll)."""
    pitch = np.arcsin(np.clip(-rotation[:, 2, 0], -1.0, 1.0))
    roll = np.arctan2(rotation[:, 2, 1], rotation[:, 2, 2])
    yaw = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])
    return np.stack([roll, pitch, yaw], axis=1)


def pose_differences(poses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Deltas (N-1, 6) that lead from each pose (N, 7: x y z qx qy qz qw) to the next, in the poses' own frame."""
    rotation = rotation_matrix(poses[:, 3:7])
    turn = rotation[1:] @ np.swapaxes(rotation[:-1], 1, 2)
    return np.concatenate([np.diff(poses[:, :3], axis=0), fixed_angles(turn)], axis=1)


def sentences(recording: Recording, actions: str) -> list[str]:
    """The sentences the frames are labelled for: the recording's own, or several where a labeller speaks for several.

    The simulator's expert says for every frame what it would do to each cube: one recording then makes one episode
    a sentence, over the same frames.
    """
    if actions in (ACHIEVED, EXECUTED_TOPIC):
        return [recording.instruction]
    # Labels of other frames do not count: one may be left over from the episode before.
    executed = {chunk.observation_stamp for chunk in recording.chunks[EXECUTED_TOPIC]}
    labelled = sorted({c.instruction for c in recording.chunks[actions] if c.observation_stamp in executed})
    return labelled if len(labelled) > 1 else [recording.instruction]


def make_steps(
    recording: Recording,
    actions: str,
    *,
    rate: float | None,
    max_skew: float,
    drop_noops: bool,
    sentence: str | None = None,
) -> Steps:
    """Derive an episode's steps.

    Args:
        recording: the episode.
        actions: topic of the ActionChunks that label the frames, or ``achieved`` for differences of reached poses.
        rate: control rate [Hz]; needed by ``achieved``, elsewhere checked against the chunks' period.
        max_skew: largest distance in time between a frame and the state that goes with it [s].
        drop_noops: leave out steps without motion (Appendix E and G.1 of the paper).
        sentence: take the labels given for this one of :func:`sentences`; None where there is only one.

    Raises:
        BadBag: too much is missing, or nothing remains.
    """
    if actions == ACHIEVED:
        if rate is None:
            raise ValueError("--actions achieved needs --rate: the control rate in Hz to sample the poses at")
        steps, lost = _achieved_steps(recording, rate, max_skew)
    else:
        steps, lost = _chunk_steps(recording, actions, rate, sentence)
    total = lost + len(steps.frames)
    _, skew = states_at(recording, recording.image_stamps[steps.frames])
    steps = steps.only(skew <= max_skew, "no state in time")
    lost = total - len(steps.frames)
    if lost > MAX_LOST_SHARE * total:
        why = ", ".join(f"{number} {reason}" for reason, number in steps.left_out.items())
        late = "no state in time" in steps.left_out
        worst = f" (state up to {skew.max():.3f} s from its frame, allowed {max_skew} s)" if late else ""
        raise BadBag(f"{lost} of {total} steps cannot be used: {why}{worst}")
    if drop_noops:
        steps = steps.only(moving(steps.actions), "no motion")
    if not len(steps.frames):
        why = ", ".join(f"{number} {reason}" for reason, number in steps.left_out.items())
        raise BadBag(f"no steps{': ' + why if why else ''}")
    return steps


def moving(actions: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the steps that move: not (near-zero translation and rotation, and the gripper as in the last kept step).

    As the reference's LIBERO filter; a first step without motion has no earlier gripper and is dropped too.
    """
    keep = np.linalg.norm(actions[:, :6], axis=1) >= NOOP_NORM
    gripper = None
    for index, row in enumerate(actions):
        if not keep[index] and gripper is not None and row[6] != gripper:
            keep[index] = True
        if keep[index]:
            gripper = row[6]
    return keep


def _chunk_steps(
    recording: Recording, label_topic: str, rate: float | None, sentence: str | None
) -> tuple[Steps, int]:
    """One step per executed chunk of policy/action_chunk, labelled by ``label_topic``'s chunk of the same frame."""
    taken = sorted({chunk.observation_stamp for chunk in recording.chunks[EXECUTED_TOPIC]})
    if not taken:
        raise BadBag(f"no message on topic {EXECUTED_TOPIC}")
    labels = {
        chunk.observation_stamp: chunk
        for chunk in recording.chunks[label_topic]
        if sentence is None or chunk.instruction == sentence
    }
    frames = {int(stamp): index for index, stamp in enumerate(recording.image_stamps)}
    left_out: dict[str, int] = {}
    chosen: list[tuple[int, Chunk]] = []
    for stamp in taken:
        label = labels.get(stamp)
        if not _executed(recording.execution, stamp):
            reason = "not executed"
        elif stamp not in frames:
            reason = "without its frame"
        elif label is None:
            reason = f"without a label on {label_topic}"
        else:
            _check_chunk(label, label_topic, rate)
            chosen.append((frames[stamp], label))
            continue
        left_out[reason] = left_out.get(reason, 0) + 1
    indices = np.array([index for index, _ in chosen], np.int64)
    steps = Steps(
        indices,
        states_at(recording, recording.image_stamps[indices])[0],
        np.array([label.actions[0] for _, label in chosen], np.float64).reshape(-1, 7),
        [sentence or recording.instruction] * len(chosen),
        left_out,
    )
    return steps, sum(number for reason, number in left_out.items() if reason != "not executed")


def _executed(execution: Execution | None, stamp: int) -> bool:
    """Say whether a chunk was executed; one still under way when the recording ended counts, a refused one does not."""
    if execution is None or stamp in execution.executed:
        return True
    newest = max(execution.executed, default=0)
    return stamp > newest and execution.refused_after == 0


def _check_chunk(chunk: Chunk, topic: str, rate: float | None) -> None:
    if len(chunk.actions) != 1:
        raise BadBag(f"topic {topic} has a chunk of {len(chunk.actions)} actions; use --actions {ACHIEVED} for those")
    if not np.isfinite(chunk.actions).all():
        raise BadBag(f"topic {topic} has an action that is not finite: {chunk.actions[0].tolist()}")
    if rate is not None and chunk.period > 0 and abs(chunk.period * rate - 1) > 0.1:
        raise BadBag(f"topic {topic} has actions of {chunk.period:.3f} s, --rate {rate} means {1 / rate:.3f} s")


def _achieved_steps(recording: Recording, rate: float, max_skew: float) -> tuple[Steps, int]:
    """Sample frames at ``rate``; the action of a step is what the robot did until the next one.

    The gripper value is the newest command where commands were recorded (a closed gripper that holds something
    measures half open), else the opening measured at the next step.
    """
    stamps = recording.image_stamps
    streams = (recording.ee_pose, recording.gripper)
    begin = max(stamps[0], *(int(stream.stamps[0]) for stream in streams))
    end = min(stamps[-1], *(int(stream.stamps[-1]) for stream in streams))
    count = int((end - begin) * NS * rate) + 1
    if end <= begin or count < 2:
        raise BadBag(f"images, poses and gripper have {(end - begin) * NS:.2f} s in common; two steps need {1 / rate}")
    grid = begin + np.round(np.arange(count) / (rate * NS)).astype(np.int64)
    frames = nearest(stamps, grid)
    # A frame too far from its time (or serving two times) is a gap in the video, and the action across it a jump.
    in_time = np.abs(stamps[frames] - grid) * NS <= max(max_skew, 0.5 / rate)
    in_time[1:] &= ~((np.diff(frames) == 0) & in_time[:-1])
    states, _ = states_at(recording, stamps[frames])
    motion = pose_differences(states)
    gripper = states[1:, 7]
    if recording.gripper_command is not None:
        commands = recording.gripper_command
        newest = np.searchsorted(commands.stamps, stamps[frames[1:]], side="right") - 1
        gripper = np.where(newest >= 0, commands.values[newest, 0], gripper)
    steps = Steps(
        frames[:-1],
        states[:-1],
        np.concatenate([motion, gripper[:, None]], axis=1),
        [recording.instruction] * (count - 1),
        {},
    )
    whole = in_time[:-1] & in_time[1:]
    return steps.only(whole, "at a gap in the video"), int((~whole).sum())
