"""Statistics of a dataset's actions, and normalisation by them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from openvla_policy.contract.action import ACTION_DIM

Kind = Literal["bounds_q99", "bounds", "normal"]
_VECTORS = ("mean", "std", "max", "min", "q01", "q99")


@dataclass(frozen=True, eq=False)
class FieldStatistics:
    """Statistics of one vector (action or proprioception), each float64 (D,), in the dataset's units.

    `mask` says which dimensions are normalised; None: all of them. None is written as absent, as in some released
    checkpoints.
    """

    mean: np.ndarray
    std: np.ndarray
    max: np.ndarray
    min: np.ndarray
    q01: np.ndarray
    q99: np.ndarray
    mask: np.ndarray | None = None

    @property
    def dim(self) -> int:
        """Length of the vector."""
        return len(self.q01)

    def normalise(self, values: np.ndarray, kind: Kind = "bounds_q99") -> np.ndarray:
        """Normalise a vector (reference: prismatic/vla/datasets/rlds/utils/data_utils.py).

        Args:
            values: (..., D) in the dataset's units.
            kind: By quantiles or by bounds to [-1, 1], or to zero mean and unit variance (`normal`).

        Returns:
            (..., D) in the dtype of `values`. Dimensions that never change (min == max) become 0; masked-out
            dimensions are unchanged unless they never change.
        """
        values = self._checked(values)
        mask = np.ones(self.dim, bool) if self.mask is None else self.mask
        dtype = values.dtype
        if kind == "normal":
            scaled = (values - self.mean.astype(dtype)) / (self.std + 1e-8).astype(dtype)
            return np.where(mask, scaled, values)
        low, high = (self.q01, self.q99) if kind == "bounds_q99" else (self.min, self.max)
        scaled = 2 * (values - low.astype(dtype)) / (high - low + 1e-8).astype(dtype) - 1
        scaled = np.where(mask, np.clip(scaled, -1, 1), values)
        return np.where(self.min == self.max, np.zeros((), dtype), scaled)

    def unnormalise(self, values: np.ndarray) -> np.ndarray:
        """(..., D) in [-1, 1] -> dataset units, float64 (reference: modeling_prismatic.py, predict_action)."""
        values = self._checked(values)
        mask = np.ones(self.dim, bool) if self.mask is None else self.mask
        return np.where(mask, 0.5 * (values + 1) * (self.q99 - self.q01) + self.q01, values)

    def _checked(self, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values)
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float64)
        if values.ndim == 0 or values.shape[-1] != self.dim:
            raise ValueError(f"expected (..., {self.dim}) values for these statistics, got {values.shape}")
        return values

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "statistics") -> FieldStatistics:
        """Read `{"q01": [...], "q99": [...], ...}`. Only the quantiles are required; errors name `where`."""
        absent = [key for key in ("q01", "q99") if key not in data]
        if absent:
            found = ", ".join(sorted(data)) or "nothing"
            raise ValueError(f"{where}: {' and '.join(absent)} missing; found {found}")
        q01, q99 = (np.asarray(data[key], dtype=np.float64) for key in ("q01", "q99"))
        if q01.shape != q99.shape:
            raise ValueError(f"{where}.q99: expected {q01.size} numbers as in q01, got {q99.size}")
        fallback = {"mean": (q01 + q99) / 2, "std": np.ones_like(q01), "max": q99, "min": q01}
        vectors = {key: np.asarray(data.get(key, fallback.get(key)), dtype=np.float64) for key in fallback}
        vectors |= {"q01": q01, "q99": q99}
        if data.get("mask") is not None:
            vectors["mask"] = np.asarray(data["mask"], dtype=bool)
        for key, vector in vectors.items():
            if vector.shape != q01.shape or vector.ndim != 1:
                raise ValueError(f"{where}.{key}: expected {len(q01)} numbers, got shape {vector.shape}")
            if not np.isfinite(vector).all():
                raise ValueError(f"{where}.{key}: a value is not finite: {vector.tolist()}")
        return cls(**vectors)

    def to_json(self) -> dict[str, Any]:
        """The form that `from_json` reads."""
        data: dict[str, Any] = {key: getattr(self, key).tolist() for key in _VECTORS}
        if self.mask is not None:
            data["mask"] = self.mask.tolist()
        return data


@dataclass(frozen=True, eq=False)
class Statistics:
    """One dataset's entry of `norm_stats` / dataset_statistics.json."""

    action: FieldStatistics
    proprio: FieldStatistics | None = None
    num_transitions: int = 0
    num_trajectories: int = 0

    def normalise(self, actions: np.ndarray, kind: Kind = "bounds_q99") -> np.ndarray:
        """Actions (..., D) in dataset units -> [-1, 1]."""
        return self.action.normalise(actions, kind)

    def unnormalise(self, actions: np.ndarray) -> np.ndarray:
        """Actions (..., D) in [-1, 1] -> dataset units."""
        return self.action.unnormalise(actions)

    @property
    def hash(self) -> str:
        """16 hex digits that identify the un-normalisation: of q01, q99 and mask."""
        mask = self.action.mask
        text = json.dumps([self.action.q01.tolist(), self.action.q99.tolist(), None if mask is None else mask.tolist()])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "statistics") -> Statistics:
        """Read one dataset's `{"action": {...}, "proprio": {...}, "num_transitions": ...}`."""
        if not isinstance(data, Mapping) or "action" not in data:
            raise ValueError(f"{where}: expected an object with an 'action' entry")
        proprio = data.get("proprio")
        return cls(
            action=FieldStatistics.from_json(data["action"], f"{where}.action"),
            proprio=None if proprio is None else FieldStatistics.from_json(proprio, f"{where}.proprio"),
            num_transitions=int(data.get("num_transitions", 0)),
            num_trajectories=int(data.get("num_trajectories", 0)),
        )

    def to_json(self) -> dict[str, Any]:
        """The form that `from_json` reads, with the keys that the reference writes."""
        data: dict[str, Any] = {"action": self.action.to_json()}
        if self.proprio is not None:
            data["proprio"] = self.proprio.to_json()
        return data | {"num_transitions": self.num_transitions, "num_trajectories": self.num_trajectories}

    def with_mask(self, mask: Iterable[bool]) -> Statistics:
        """Replace the action mask (False for a gripper that is absolute already)."""
        return replace(self, action=replace(self.action, mask=np.asarray(list(mask), dtype=bool)))


def compute(
    actions: Iterable[np.ndarray],
    proprios: Iterable[np.ndarray] | None = None,
    mask: Iterable[bool] | None = None,
) -> Statistics:
    """Compute statistics over trajectories, to the last digit as the reference (quantiles in float64, others float32).

    Args:
        actions: (T_i, D) of each trajectory.
        proprios: (T_i, P) of each trajectory. None: no statistics of the proprioception.
        mask: Which of the D numbers are normalised. None: all.

    Returns:
        The statistics.

    Raises:
        ValueError: There is no trajectory, or a value is not finite.
    """
    trajectories = [np.asarray(a, dtype=np.float32) for a in actions]
    if not trajectories:
        raise ValueError("statistics: no trajectory was given")
    statistics = Statistics(
        action=_describe(trajectories),
        proprio=None if proprios is None else _describe([np.asarray(p, np.float32) for p in proprios]),
        num_transitions=sum(len(a) for a in trajectories),
        num_trajectories=len(trajectories),
    )
    return statistics if mask is None else statistics.with_mask(mask)


def choose(statistics: Mapping[str, Statistics], key: str | None) -> tuple[str, Statistics]:
    """Choose the statistics for un-normalisation.

    Args:
        statistics: Those of a checkpoint, by name.
        key: Name of one (`unnorm_key`). None: the only one.

    Returns:
        Name and statistics.

    Raises:
        ValueError: There are none, or the name is missing or unknown.
    """
    if not statistics:
        raise ValueError(
            "the checkpoint has no action statistics (config.json norm_stats or dataset_statistics.json); "
            "without them its tokens have no meaning in metres"
        )
    if key is None and len(statistics) == 1:
        key = next(iter(statistics))
    if key is None or key not in statistics:
        problem = "is not set" if key is None else f"{key!r} is unknown"
        raise ValueError(f"unnorm_key {problem}; this checkpoint has: {', '.join(sorted(statistics))}")
    entry = statistics[key]
    if entry.action.dim != ACTION_DIM:
        raise ValueError(f"unnorm_key {key!r}: {entry.action.dim} numbers, actions have {ACTION_DIM}")
    return key, entry


def _describe(trajectories: list[np.ndarray]) -> FieldStatistics:
    values = np.concatenate(trajectories)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"statistics: {len(values)} values, of which some are missing or not finite")
    return FieldStatistics(
        mean=values.mean(0).astype(np.float64),
        std=values.std(0).astype(np.float64),
        max=values.max(0).astype(np.float64),
        min=values.min(0).astype(np.float64),
        q01=_quantile(values, 0.01),
        q99=_quantile(values, 0.99),
    )


def _quantile(values: np.ndarray, q: float) -> np.ndarray:
    """np.quantile as NumPy 1, which the reference uses, computes it on float32: float32 gap, float64 weight."""
    # NumPy 2 computes all of it in float32, which changes the last digits.
    ordered = np.sort(values, axis=0)
    position = q * (len(ordered) - 1)
    below = int(np.floor(position))
    above = min(below + 1, len(ordered) - 1)
    weight = np.float64(position - below)
    low, gap = ordered[below], ordered[above] - ordered[below]
    # NumPy interpolates from the nearer end, for symmetry.
    if weight >= 0.5:
        return ordered[above].astype(np.float64) - gap.astype(np.float64) * (1 - weight)
    return low.astype(np.float64) + gap.astype(np.float64) * weight
