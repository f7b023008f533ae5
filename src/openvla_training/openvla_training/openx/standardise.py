"""From a dataset's own steps to the one form all of them are trained in: seven action numbers, a state, a sentence."""

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
    """T standardised steps. `kept` (T,) are their places in the recorded episode."""

    actions: np.ndarray  # float32 (T, 7), dataset units
    states: np.ndarray | None  # float32 (T, S)
    kept: np.ndarray  # int64 (T,)


def standardise(row: Dataset, steps: Mapping[str, np.ndarray]) -> Trajectory:
    """Turn the recorded arrays (T, …) of an episode into a trajectory.

    Raises:
        ValueError: the row does not fit the data, or a value is not a number.
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
            raise ValueError(f"dataset {row.name!r}: the filter reached_state needs a `state` whose first six move")
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
    """Which of (T, 7) actions neither move nor change the gripper since the last action that is kept, bool (T,)."""
    still = np.linalg.norm(actions[:, :MOTION], axis=1) < _STILL_MOTION
    result = np.zeros(len(actions), bool)
    gripper: float | None = None
    for index, action in enumerate(actions):
        result[index] = still[index] and (gripper is None or action[-1] == gripper)
        if not result[index]:
            gripper = action[-1]
    return result


def is_moving(normalised: np.ndarray, statistics: FieldStatistics) -> np.ndarray:
    """Which of (T, 7) normalised actions move, bool (T,): differ from where a motion of zero is normalised to."""
    low, high = statistics.q01[:MOTION], statistics.q99[:MOTION]
    zero = 2 * (0 - low) / (high - low + 1e-8) - 1
    zero[(statistics.min == statistics.max)[:MOTION]] = 0  # as `normalise` has it for what never changes
    return (np.abs(normalised[:, :MOTION] - zero) > _STILL_TOKEN).any(axis=1)


def chunks(values: np.ndarray, back: int, ahead: int, absolute: np.ndarray | None = None) -> np.ndarray:
    """For each of T steps the values `back` steps before to `ahead` steps after, (T, back + 1 + ahead, D).

    Before the first step stands the first; behind the last, the last, or, where `absolute` (D,) says which columns
    are states, zero for the others: no more motion (reference: rlds/traj_transforms.py, chunk_act_obs).
    """
    count = len(values)
    places = np.arange(count)[:, None] + np.arange(-back, ahead + 1)
    result = values[np.clip(places, 0, count - 1)]
    if absolute is not None:
        result = np.where((places > count - 1)[..., None] & ~absolute, np.zeros((), values.dtype), result)
    return result


def sentences(row: Dataset, steps: Mapping[str, np.ndarray], which: np.random.Generator | None) -> list[str]:
    """The sentence of each step as it is recorded; empty where there is none.

    Of several wordings (`row.language`) the first that says something (the reference reads the first alone), or, with a
    generator, one drawn for the whole trajectory among those that do.
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
