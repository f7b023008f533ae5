"""Streams of different rates on one clock: the samples of a frame, and their distance in time from it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from openvla_training.bags.episodes import NS, Recording, Stream
from openvla_training.rotations import slerp

Alignment = Literal["nearest", "interpolate"]
Times = NDArray[np.int64]


def nearest(stamps: Times, at: Times) -> NDArray[np.int64]:
    """Find the index of the nearest of the sorted `stamps` [ns] for each time [ns]; of a tie, the earlier one."""
    right = np.clip(np.searchsorted(stamps, at), 1, max(len(stamps) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(stamps) - 1)
    return np.where(at - stamps[left] <= stamps[right] - at, left, right)


def distance(stamps: Times, at: Times) -> NDArray[np.float64]:
    """Compute the time from each of `at` [ns] to the nearest of the stamps [ns], in s."""
    return np.abs(stamps[nearest(stamps, at)] - at) * NS


def states_at(recording: Recording, at: Times, alignment: Alignment) -> NDArray[np.float64]:
    """Take the states of an episode at given times.

    Args:
        recording: The episode.
        at: The times [ns] (T,).
        alignment: `nearest` sample, or `interpolate`: position and opening along a line, the attitude along the shorter
            arc; before the first and after the last sample, that sample.

    Returns:
        x y z [m], quaternion x y z w, opening [0..1], (T, 8).
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
    """Compute the time from each of `at` [ns] to the nearest sample [s] (T,), by stream (state and further cameras)."""
    found = {"ee_pose": recording.ee_pose.stamps, "gripper": recording.gripper.stamps}
    found |= {key: camera.stamps for key, camera in recording.cameras.items()}
    return {name: distance(stamps, at) for name, stamps in found.items()}


def _between(stream: Stream, at: Times) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Find the samples before and after each time, and the fraction of the way between them."""
    stamps = stream.stamps
    right = np.clip(np.searchsorted(stamps, at), 1, max(len(stamps) - 1, 1))
    left, right = right - 1, np.minimum(right, len(stamps) - 1)
    gap = np.maximum(stamps[right] - stamps[left], 1)
    return left, right, np.clip((at - stamps[left]) / gap, 0.0, 1.0)
