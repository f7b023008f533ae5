"""Statistics of trials: success rates with standard error and interval, spreads of measured values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rate:
    """A share of successes, with the standard error the paper reports and a 95 % Wilson interval.

    The standard error of 20 out of 20 is zero, which says too much; the interval does not.
    """

    successes: int
    trials: int

    @property
    def value(self) -> float:
        """The share of successes; NaN without trials."""
        return self.successes / self.trials if self.trials else float("nan")

    @property
    def standard_error(self) -> float:
        """Of the share, √(p(1−p)/n)."""
        if not self.trials:
            return float("nan")
        return math.sqrt(self.value * (1.0 - self.value) / self.trials)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share."""
        if not self.trials:
            return (0.0, 1.0)
        z, n, p = 1.959964, self.trials, self.value
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (max(0.0, centre - half), min(1.0, centre + half))

    def to_json(self) -> dict[str, Any]:
        """For summary.json; null where there were no trials."""
        if not self.trials:
            return {"successes": 0, "trials": 0, "value": None, "standard_error": None, "interval_95": None}
        return {
            "successes": self.successes,
            "trials": self.trials,
            "value": round(self.value, 4),
            "standard_error": round(self.standard_error, 4),
            "interval_95": [round(edge, 4) for edge in self.interval],
        }

    def __str__(self) -> str:
        if not self.trials:
            return "no finished episode"
        return f"{self.successes}/{self.trials} = {100 * self.value:.0f} ± {100 * self.standard_error:.0f} %"


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, median, 95th percentile and maximum [unit of the values], None where there are none."""
    if not len(values):
        return {"mean": None, "p50": None, "p95": None, "max": None}
    array = np.asarray(values, dtype=np.float64)
    return {
        "mean": round(float(array.mean()), 5),
        "p50": round(float(np.percentile(array, 50)), 5),
        "p95": round(float(np.percentile(array, 95)), 5),
        "max": round(float(array.max()), 5),
    }
