"""A node's parameters as a table: name, default, unit, range or choices, description. Checked here, with no ROS.

The table is the one place where a parameter is declared; `nodes.base` turns a row into a descriptor for
`ros2 param describe` and refuses values that the row does not allow.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Scalar = bool | int | float | str
Value = Scalar | list[bool] | list[int] | list[float] | list[str]


@dataclass(frozen=True)
class Parameter:
    """One row of a node's table. The default's type is the parameter's type; lists keep one element type.

    low and high bound numbers (each element of a list); choices bound strings; length fixes a list's length.
    live parameters take effect at once, all others at the next configure.
    """

    name: str
    default: Value
    description: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    length: int | None = None
    live: bool = False

    @property
    def constraint(self) -> str:
        """What the row allows, for a person: `0.1 … 50 Hz`, `one of blocking, streaming`."""
        parts = []
        if self.choices:
            parts.append("one of " + ", ".join(repr(c) for c in self.choices))
        if self.low is not None or self.high is not None:
            low = "-∞" if self.low is None else f"{self.low:g}"
            high = "∞" if self.high is None else f"{self.high:g}"
            parts.append(f"{low} … {high}{' ' + self.unit if self.unit not in ('', '1') else ''}")
        if self.length is not None:
            parts.append(f"{self.length} values")
        return ", ".join(parts)


def check(row: Parameter, value: object) -> Value:
    """`value` as the row's type, or ValueError in one line naming parameter, value and what is allowed.

    Integers are taken for real numbers (YAML's `rate: 5`), nothing else is converted.
    """
    sample = row.default[0] if isinstance(row.default, list) and row.default else row.default
    if isinstance(row.default, list):
        if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
            raise ValueError(_refusal(row, value, f"a list of {_type_name(sample)}"))
        items = [_check_one(row, v, sample, value) for v in value]
        if row.length is not None and len(items) != row.length:
            raise ValueError(_refusal(row, value, f"{row.length} values, not {len(items)}"))
        return items  # type: ignore[return-value]
    return _check_one(row, value, sample, value)


def _check_one(row: Parameter, value: object, sample: object, shown: object) -> Scalar:
    wanted = type(sample)
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise ValueError(_refusal(row, shown, f"a {_type_name(sample)}"))
    assert isinstance(value, (bool, int, float, str))
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(_refusal(row, shown, "a finite number"))
    below = row.low is not None and not isinstance(value, str) and value < row.low
    above = row.high is not None and not isinstance(value, str) and value > row.high
    if below or above or (row.choices and value not in row.choices):
        raise ValueError(_refusal(row, shown, row.constraint))
    return value


def _refusal(row: Parameter, value: object, wanted: str) -> str:
    shown = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return f"parameter '{row.name}' is {shown!r}; it must be {wanted} ({row.description.rstrip('.')})"


def _type_name(sample: object) -> str:
    return {bool: "bool (true or false)", int: "whole number", float: "number", str: "text"}[type(sample)]


def unknown_key(name: str, known: Iterable[str], node: str) -> str:
    """The line that refuses a YAML key which no row declares, with the nearest names that exist."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    near = near or [k for k in known if k.split(".")[0] == name.split(".")[0]][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has: {', '.join(known)}"
    return f"unknown parameter '{name}' for node '{node}'; {hint}"
