"""Streams of different rates on one clock: what goes with a frame, and how far in time it lies from it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from openvla_training.bags.episodes import NS, Recording, Stream
from openvla_training.rotations import slerp

Alignment = Literal["nearest", "interpolate"]
Times = NDArray[np.int64]


def nearest(stamps: Times, at: Times) -> NDArray[np.int64]:
    """Return for each time in ``at`` the index of the nearest of the sorted ``stamps`` (the earlier one of a tie)."""
    right = np.clip(np.searchsorted(stamps, at), 1, max(len(stamps) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(stamps) - 1)
    return np.where(at - stamps[left] <= stamps[right] - at, left, right)


def distance(stamps: Times, at: Times) -> NDArray[np.float64]:
    """Time from each of ``at`` to the nearest of the stamps [s]."""
    return np.abs(stamps[nearest(stamps, at)] - at) * NS


def states_at(recording: Recording, at: Times, alignment: str) -> NDArray[np.float64]:
    """Return the states (T, 8) at the times: the samples nearest to them, or between the two around each.

    Interpolated are position and opening along a line, the attitude along the shorter arc; before the first and
    after the last sample that sample stands.
    """
    if alignment == "nearest":
        columns = [stream.values[nearest(stream.stamps, at)] for stream in (recording.ee_pose, recording.gripper)]
        return np.concatenate(columns, axis=1)
    pose, opening = recording.ee_pose, recording.gripper
    left, right, share = _between(pose, at)
    position = pose.values[left, :3] + share[:, None] * (pose.values[right, :3] - pose.values[left, :3])
    attitude = slerp(pose.values[left, 3:], pose.values[right, 3:], share)
    left, right, share = _between(opening, at)
    value = opening.values[left] + share[:, None] * (opening.values[right] - opening.values[left])
    return np.concatenate([position, attitude, value], axis=1)


def skews(recording: Recording, at: Times) -> dict[str, NDArray[np.float64]]:
    """By stream (ee_pose, gripper, further cameras): time from each of ``at`` to its nearest sample [s] (T,)."""
    found = {"ee_pose": recording.ee_pose.stamps, "gripper": recording.gripper.stamps}
    found |= {key: camera.stamps for key, camera in recording.cameras.items()}
    return {name: distance(stamps, at) for name, stamps in found.items()}


def _between(stream: Stream, at: Times) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Indices of the samples before and after each time, and the share of the way between them."""
    stamps = stream.stamps
    right = np.clip(np.searchsorted(stamps, at), 1, max(len(stamps) - 1, 1))
    left, right = right - 1, np.minimum(right, len(stamps) - 1)
    gap = np.maximum(stamps[right] - stamps[left], 1)
    return left, right, np.clip((at - stamps[left]) / gap, 0.0, 1.0)
