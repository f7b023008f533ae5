"""Standardisation: from a dataset's own steps to the common form, seven action numbers, a state and an instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from openvla_policy.contract.action import ACTION_DIM
from openvla_policy.contract.statistics import FieldStatistics
from openvla_training.openx.dataset import Dataset, check_width
from openvla_training.openx.expressions import evaluate

MOTION = ACTION_DIM - 1  # the columns that move; the last is the gripper
ABSOLUTE = np.array([False] * MOTION + [True])  # which columns are states rather than changes
_STILL_TOKEN = 1e-5  # of a normalised motion (reference: oxe/utils/droid_utils.py, zero_action_filter)
_STILL_MOTION = 1e-4  # of an action (reference: experiments/robot/libero/regenerate_libero_dataset.py)


@dataclass(frozen=True)
class Trajectory:
    """T standardised steps; `kept` (T,) are their indices in the recorded episode."""

    actions: np.ndarray  # float32 (T, 7), dataset units
    states: np.ndarray | None  # float32 (T, S)
    kept: np.ndarray  # int64 (T,)


def standardise(row: Dataset, steps: Mapping[str, np.ndarray]) -> Trajectory:
    """Turn a recorded episode into a trajectory.

    Args:
        row: The dataset's row.
        steps: The recorded arrays (T, …) by key.

    Returns:
        The trajectory, with the steps that the row's filters keep.

    Raises:
        ValueError: The row does not match the data, or a value is not a number.
    """
    count = len(next(iter(steps.values())))
    kept = np.arange(count)
    if "first_step" in row.filters:
        kept = kept[1:]
    steps = {key: value[kept[0] :] if len(kept) else value[:0] for key, value in steps.items()}
    count = len(kept)
    actions = _join([evaluate(e, steps, count, row.gripper) for e in row.action_expressions])
    states = [evaluate(e, steps, count, row.gripper) for e in row.state_expressions]
    state = _join(states) if states else None
    if "reached_state" in row.filters:
        if state is None:
            raise ValueError(
                f"dataset {row.name!r}: the filter reached_state needs a `state`, six columns of pose first"
            )
        moved = state[1:, :MOTION] - state[:-1, :MOTION]
        actions = np.concatenate([moved, actions[:-1, MOTION:]], axis=1)
        state, kept = state[:-1], kept[:-1]
    check_width(row, actions.shape[1])
    if not np.isfinite(actions).all():
        raise ValueError(f"dataset {row.name!r}: step {kept[np.argwhere(~np.isfinite(actions))[0][0]]} is not a number")
    keep = np.ones(len(actions), bool)
    if "no_ops" in row.filters:
        keep &= ~is_no_op(actions)
    return Trajectory(actions[keep], None if state is None else state[keep], kept[keep])


def _join(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts, axis=1).astype(np.float32)


def is_no_op(actions: np.ndarray) -> np.ndarray:
    """Mark the actions (T, 7) that neither move nor change the gripper since the last unmarked one, bool (T,)."""
    still = np.linalg.norm(actions[:, :MOTION], axis=1) < _STILL_MOTION
    result = np.zeros(len(actions), bool)
    gripper: float | None = None
    for index, action in enumerate(actions):
        result[index] = still[index] and (gripper is None or action[-1] == gripper)
        if not result[index]:
            gripper = action[-1]
    return result


def is_moving(normalised: np.ndarray, statistics: FieldStatistics) -> np.ndarray:
    """Mark the normalised actions (T, 7) that differ from a motion of zero after normalisation, bool (T,)."""
    low, high = statistics.q01[:MOTION], statistics.q99[:MOTION]
    zero = 2 * (0 - low) / (high - low + 1e-8) - 1
    zero[(statistics.min == statistics.max)[:MOTION]] = 0  # as `normalise` treats dimensions that never change
    return (np.abs(normalised[:, :MOTION] - zero) > _STILL_TOKEN).any(axis=1)


def chunks(values: np.ndarray, back: int, ahead: int, absolute: np.ndarray | None = None) -> np.ndarray:
    """Gather the values around each step (reference: rlds/traj_transforms.py, chunk_act_obs).

    Args:
        values: Values of T steps (T, D).
        back: Number of steps before.
        ahead: Number of steps after.
        absolute: Which columns are states, bool (D,); the other columns, motions, are zero after the last step. None
            repeats the last step in all columns.

    Returns:
        (T, back + 1 + ahead, D); before the first step the first one is repeated.
    """
    count = len(values)
    places = np.arange(count)[:, None] + np.arange(-back, ahead + 1)
    result = values[np.clip(places, 0, count - 1)]
    if absolute is not None:
        result = np.where((places > count - 1)[..., None] & ~absolute, np.zeros((), values.dtype), result)
    return result


def sentences(row: Dataset, steps: Mapping[str, np.ndarray], which: np.random.Generator | None) -> list[str]:
    """Read the instruction of each step.

    Args:
        row: The dataset's row; `language` may name several wordings.
        steps: The recorded arrays (T, …) by key.
        which: Draws one wording for the whole trajectory among those that are not empty; None takes the first of them
            (the reference reads only the first one).

    Returns:
        T sentences as recorded, empty where there is none.
    """
    found = []
    for key in row.language:
        values = steps[key]
        if row.characters:
            texts = ["".join(map(chr, line)).split("\0")[0] for line in values]
        else:
            texts = [value.decode("utf-8", "replace") for value in values]
        texts = [text if text.strip() else "" for text in texts]
        if any(texts):
            found.append(texts)
    if not found:
        return [""] * len(steps[row.language[0]])
    return found[0 if which is None else int(which.integers(len(found)))]
