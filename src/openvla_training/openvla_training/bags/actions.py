"""From streams to steps: which frames an episode keeps, and the state and action of each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from openvla_training.bags.action_labels import EXECUTED_TOPIC, labelled_steps
from openvla_training.bags.alignment import Alignment, nearest, skews, states_at
from openvla_training.bags.episodes import NS, BadBag, Recording
from openvla_training.rotations import pose_differences, quaternions_to_matrices, to_base, to_end_effector

ACHIEVED = "achieved"
ActionFrame = Literal["base", "end_effector"]
# With more than this share of steps lost to missing labels or late states, the recording itself is broken.
MAX_LOST_SHARE = 0.2
NOOP_NORM = 1e-4


@dataclass(frozen=True)
class StepOptions:
    """How steps are made.

    Attributes:
        actions: Topic of the ActionChunks that label the frames, or `achieved`: differences of reached poses.
        rate: Control rate [Hz]; needed by `achieved`, elsewhere checked against the chunks' period.
        max_skew: Largest distance in time between a frame and its state and other cameras [s].
        alignment: How the state of a frame is taken from the samples around it.
        action_frame: Frame along whose axes the written actions are.
        ee_frame: Name of the end effector's frame in chunks; '' where they only use the base's.
        drop_noops: Whether to leave out steps without motion (Appendix E and G.1 of the paper).
        drop_first_zero: Whether to leave out all-zero transitions at the beginning, before the operator moves.
    """

    actions: str = EXECUTED_TOPIC
    rate: float | None = None
    max_skew: float = 0.1
    alignment: Alignment = "nearest"
    action_frame: ActionFrame = "base"
    ee_frame: str = ""
    drop_noops: bool = True
    drop_first_zero: bool = True


@dataclass(frozen=True)
class Steps:
    """T steps of an episode.

    Attributes:
        frames: Image indices (T,).
        states: End effector x y z [m], quaternion x y z w, gripper opening [0..1], (T, 8).
        actions: dx dy dz [m], droll dpitch dyaw [rad], gripper [0..1], (T, 7).
        instruction: The sentence that was followed.
        left_out: Number of steps that were left out, by reason.
        camera_frames: Image indices (T,) of each further camera.
        skews: Distance in time from the frame [s] (T,), by stream.
    """

    frames: NDArray[np.int64]
    states: NDArray[np.float64]
    actions: NDArray[np.float64]
    instruction: str
    left_out: dict[str, int] = field(default_factory=dict)
    camera_frames: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    skews: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def instructions(self) -> list[str]:
        """The instruction, once a step."""
        return [self.instruction] * len(self.frames)

    def only(self, keep: NDArray[np.bool_], reason: str) -> Steps:
        """Keep the marked steps (T,) and count the others under `reason`."""
        lost = int((~keep).sum())
        if not lost:
            return self
        return replace(
            self,
            frames=self.frames[keep],
            states=self.states[keep],
            actions=self.actions[keep],
            left_out=self.left_out | {reason: self.left_out.get(reason, 0) + lost},
            camera_frames={key: index[keep] for key, index in self.camera_frames.items()},
            skews={key: values[keep] for key, values in self.skews.items()},
        )


def sentences(recording: Recording, actions: str) -> list[str]:
    """List the instructions that a recording's frames are labelled for.

    The simulator's expert can label each frame once for each cube; one recording then makes one episode an instruction,
    over the same frames.

    Args:
        recording: The recording.
        actions: Source of the labels, as in :class:`StepOptions`.

    Returns:
        The instructions: the recording's own, or several.
    """
    if actions in (ACHIEVED, EXECUTED_TOPIC):
        return [recording.instruction]
    # Only labels of executed frames count: one may be left over from the previous episode.
    executed = {chunk.observation_ns for chunk in recording.chunks[EXECUTED_TOPIC]}
    labelled = sorted({c.instruction for c in recording.chunks[actions] if c.observation_ns in executed})
    return labelled if len(labelled) > 1 else [recording.instruction]


def make_steps(recording: Recording, options: StepOptions, sentence: str | None = None) -> Steps:
    """Derive an episode's steps.

    Args:
        recording: The recording.
        options: How steps are made.
        sentence: Take the labels for this one of :func:`sentences`; None where there is only one.

    Returns:
        The steps.

    Raises:
        BadBag: Too many steps are lost, or none remains.
    """
    if options.actions == ACHIEVED:
        steps, lost = _achieved_steps(recording, options)
    else:
        steps, lost = _chunk_steps(recording, options, sentence)
    total = lost + len(steps.frames)
    at = recording.image_stamps[steps.frames]
    steps = replace(
        steps,
        camera_frames={key: nearest(camera.stamps, at) for key, camera in recording.cameras.items()},
        skews=skews(recording, at),
    )
    worst = 0.0
    for name in tuple(steps.skews):
        in_time = steps.skews[name] <= options.max_skew
        worst = max(worst, float(steps.skews[name].max(initial=0.0)))
        steps = steps.only(in_time, "no state in time" if name in ("ee_pose", "gripper") else f"no {name} in time")
    lost = total - len(steps.frames)
    if lost > MAX_LOST_SHARE * total:
        why = ", ".join(f"{number} {reason}" for reason, number in steps.left_out.items())
        late = any(reason.endswith("in time") for reason in steps.left_out)
        far = f" (up to {worst:.3f} s from the frame, allowed {options.max_skew} s)" if late else ""
        raise BadBag(f"{lost} of {total} steps cannot be used: {why}{far}")
    if options.drop_first_zero:
        steps = steps.only(~_all_zero_start(steps.actions), "all zero at the start")
    if options.drop_noops:
        steps = steps.only(moving(steps.actions), "no motion")
    if not len(steps.frames):
        why = ", ".join(f"{number} {reason}" for reason, number in steps.left_out.items())
        raise BadBag(f"no steps{': ' + why if why else ''}")
    return steps


def moving(actions: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the steps that move or change the gripper, as the reference's LIBERO filter does.

    Args:
        actions: Actions (T, 7).

    Returns:
        True (T,) where the norm of the motion is at least `NOOP_NORM`, or the gripper differs from that of the last
        marked step; a first step without motion is not marked.
    """
    keep = np.linalg.norm(actions[:, :6], axis=1) >= NOOP_NORM
    gripper = None
    for index, row in enumerate(actions):
        if not keep[index] and gripper is not None and row[6] != gripper:
            keep[index] = True
        if keep[index]:
            gripper = row[6]
    return keep


def _all_zero_start(actions: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the transitions (T,) at the beginning that command nothing.

    Their six motion numbers are exactly zero, and their gripper equals that of the next transition: a first action that
    only closes the gripper stays.
    """
    marked = np.zeros(len(actions), bool)
    for index in range(len(actions) - 1):
        if actions[index, :6].any() or actions[index, 6] != actions[index + 1, 6]:
            break
        marked[index] = True
    return marked


def _chunk_steps(recording: Recording, options: StepOptions, sentence: str | None) -> tuple[Steps, int]:
    """Make one step of each executed action; returns the steps and how many were lost."""
    labelled = labelled_steps(recording, options.actions, options.rate, options.max_skew, sentence)
    states = states_at(recording, recording.image_stamps[labelled.frames], options.alignment)
    actions = labelled.actions
    if len(actions):
        in_ee = options.ee_frame != "" and labelled.frame == options.ee_frame
        if not in_ee and recording.frame and labelled.frame not in ("", recording.frame):
            raise BadBag(
                f"actions are in frame {labelled.frame!r}, poses in {recording.frame!r}; if the first is the end "
                f"effector's frame, use --ee-frame {labelled.frame}"
            )
        if in_ee != (options.action_frame == "end_effector"):
            change = to_base if in_ee else to_end_effector
            actions = np.concatenate(
                [change(actions[:, :6], quaternions_to_matrices(states[:, 3:7])), actions[:, 6:]], axis=1
            )
    steps = Steps(labelled.frames, states, actions, sentence or recording.instruction, labelled.left_out)
    return steps, sum(number for reason, number in labelled.left_out.items() if reason != "not executed")


def _achieved_steps(recording: Recording, options: StepOptions) -> tuple[Steps, int]:
    """Sample frames at the control rate; the action of a step is the robot's motion until the next one.

    The gripper value is the newest command where commands are recorded (a gripper that holds something measures half
    open), else the opening measured at the next step. Returns the steps and how many were lost.
    """
    if options.rate is None:
        raise ValueError("--actions achieved needs --rate, the control rate [Hz] at which the poses are sampled")
    rate, stamps = options.rate, recording.image_stamps
    streams = (recording.ee_pose, recording.gripper)
    begin = max(stamps[0], *(int(stream.stamps[0]) for stream in streams))
    end = min(stamps[-1], *(int(stream.stamps[-1]) for stream in streams))
    count = int((end - begin) * NS * rate) + 1
    if end <= begin or count < 2:
        raise BadBag(f"images, poses and gripper overlap for {(end - begin) * NS:.2f} s; two steps need {1 / rate} s")
    grid = begin + np.round(np.arange(count) / (rate * NS)).astype(np.int64)
    frames = nearest(stamps, grid)
    # A frame too far from its time (or nearest to two times) is a gap in the video; the action across it is a jump.
    in_time = np.abs(stamps[frames] - grid) * NS <= max(options.max_skew, 0.5 / rate)
    in_time[1:] &= ~((np.diff(frames) == 0) & in_time[:-1])
    states = states_at(recording, stamps[frames], options.alignment)
    motion = pose_differences(states)
    if options.action_frame == "end_effector":
        motion = to_end_effector(motion, quaternions_to_matrices(states[:-1, 3:7]))
    gripper = states[1:, 7]
    if recording.gripper_command is not None:
        commands = recording.gripper_command
        newest = np.searchsorted(commands.stamps, stamps[frames[1:]], side="right") - 1
        gripper = np.where(newest >= 0, commands.values[newest, 0], gripper)
    actions = np.concatenate([motion, gripper[:, None]], axis=1)
    steps = Steps(frames[:-1], states[:-1], actions, recording.instruction)
    whole = in_time[:-1] & in_time[1:]
    return steps.only(whole, "at a gap in the video"), int((~whole).sum())
