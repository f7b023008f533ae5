"""Statistics of trials: success rates with standard error and interval, spreads of measured values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rate:
    """A share of successes, with the standard error that the paper reports and a 95 % Wilson interval.

    The standard error of 20 successes in 20 trials is zero, which claims too much; the interval does not.
    """

    successes: int
    trials: int

    @property
    def value(self) -> float:
        """The share of successes p = k/n; NaN without trials."""
        return self.successes / self.trials if self.trials else math.nan

    @property
    def standard_error(self) -> float:
        """Standard error of the share, √(p(1−p)/n), as in the tables of the OpenVLA paper (arXiv:2406.09246)."""
        return math.sqrt(self.value * (1.0 - self.value) / self.trials) if self.trials else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % score interval of the share (Wilson 1927, J. Am. Stat. Assoc. 22:209); (0, 1) without trials."""
        if not self.trials:
            return (0.0, 1.0)
        from scipy.stats import binomtest  # takes half a second to import

        interval = binomtest(self.successes, self.trials).proportion_ci(0.95, method="wilson")
        return (float(interval.low), float(interval.high))

    def to_json(self) -> dict[str, Any]:
        """The rate as summary.json holds it; null where there are no trials."""
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
    """Mean, median, 95th percentile (linear interpolation) and maximum, in the unit of the values.

    Args:
        values: What was measured, once a trial or a step.

    Returns:
        `mean`, `p50`, `p95` and `max`, rounded to 1e-5; None each where there are no values.
    """
    if not len(values):
        return dict.fromkeys(("mean", "p50", "p95", "max"))
    array = np.asarray(values, dtype=np.float64)
    p50, p95 = np.percentile(array, [50, 95])
    figures = {"mean": array.mean(), "p50": p50, "p95": p95, "max": array.max()}
    return {name: round(float(value), 5) for name, value in figures.items()}
