"""Parameters of the ROS nodes, declared once: dataclasses whose fields carry unit, range and description.

A node's parameters are one frozen dataclass. A group of parameters is a field that is a dataclass itself and gives its
name to the dotted parameters in it:

    @dataclass(frozen=True)
    class LimitParameters:
        speed: float = parameter(0.5, "Highest speed of the target", "m/s", 1e-3, 3.0)  # parameter `limit.speed`

    @dataclass(frozen=True)
    class ArmParameters(ManagedNodeParameters):
        node: ClassVar[str] = "arm_node"
        limit: LimitParameters = field(default_factory=LimitParameters)

`rows` lists the parameters of such a class, for the declaration in ROS and for the reference pages; `build` makes the
typed object from which a node builds its components. This module imports no ROS.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, TypeVar

from openvla_policy.suggestions import did_you_mean

Scalar = bool | int | float | str
Value = Scalar | list[bool] | list[int] | list[float] | list[str]

_NAME, _ABOUT = "parameter name", "parameter"  # keys of a field's metadata
_TYPE_NAMES = {bool: "bool", int: "int", float: "double", str: "string"}


T = TypeVar("T")


def parameter(
    default: T,
    description: str,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    *,
    choices: tuple[str, ...] = (),
    length: int | None = None,
    live: bool = False,
    name: str | None = None,
) -> T:
    """A field of a dataclass that is a parameter of a node.

    Args:
        default: Default, whose type is the parameter's; a tuple is a list in ROS and YAML.
        description: One line for `ros2 param describe` and the reference page.
        unit: Unit of the value, such as `m/s`; `1` or '' where there is none.
        low: Smallest value allowed, of each element of a list.
        high: Largest value allowed, of each element of a list.
        choices: Values allowed for a string.
        length: Number of elements of a list.
        live: Whether a change takes effect at once; all other parameters are read when the node is configured.
        name: Name within the group where it is not the field's name; '' gives the parameter the group's own name.

    Returns:
        The field.
    """
    about = {"description": description, "unit": unit, "low": low, "high": high, "choices": choices, "length": length,
             "live": live}  # fmt: skip
    made: Any = field(default=default, metadata={_NAME: name, _ABOUT: about})
    return made


@dataclass(frozen=True)
class ParameterRow:
    """One parameter of a node: its full name, its default, and what `parameter` says of it."""

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
    def element(self) -> type:
        """Type of the value, of a list's elements."""
        return type(self.default[0]) if isinstance(self.default, list) else type(self.default)

    @property
    def type(self) -> str:
        """Type in ROS' words: `double`, `string[]`, `double[3]`."""
        length = "" if self.length is None else self.length
        return _TYPE_NAMES[self.element] + (f"[{length}]" if isinstance(self.default, list) else "")

    @property
    def range(self) -> str:
        """Range of a number without its unit, `0.1 … 50`; '' where there is none."""
        if self.low is None and self.high is None:
            return ""
        low = "-∞" if self.low is None else f"{self.low:g}"
        high = "∞" if self.high is None else f"{self.high:g}"
        return f"{low} … {high}"

    @property
    def constraint(self) -> str:
        """Everything that limits the value, in one line: `0.1 … 50 Hz`, `one of 'blocking', 'streaming'`."""
        unit = f" {self.unit}" if self.unit not in ("", "1") else ""
        parts = (
            "one of " + ", ".join(map(repr, self.choices)) if self.choices else "",
            self.range and self.range + unit,
            f"{self.length} values" if self.length is not None else "",
        )
        return ", ".join(filter(None, parts))


@dataclass(frozen=True)
class NodeParameters:
    """Base of the parameters of a node."""

    node: ClassVar[str]  # name of the node
    moved: ClassVar[Mapping[str, str]] = {}  # parameters of earlier versions -> what to set instead


@dataclass(frozen=True)
class ManagedNodeParameters(NodeParameters):
    """Base of the parameters of a managed (lifecycle) node."""

    autostart: bool = parameter(False, "Configure and activate at start, without a lifecycle manager")


N = TypeVar("N", bound=NodeParameters)


def rows(config: type) -> list[ParameterRow]:
    """Parameters of a node, in the order of the fields of their class."""
    return list(_rows(config(), ""))


def build(config: type[N], values: Mapping[str, object]) -> N:
    """The typed configuration of a node: the defaults of its class with some parameters set.

    Args:
        config: Class of the node's parameters.
        values: Values by full parameter name.

    Returns:
        The configuration.

    Raises:
        ValueError: A name is unknown or a value is not allowed; in one line, with the choices.
    """
    known = [row.name for row in rows(config)]
    for name in values:
        if name not in known:
            raise ValueError(unknown_parameter(name, config, config.node))
    return _with_values(config(), "", values)


def _rows(group: Any, prefix: str) -> Iterator[ParameterRow]:
    for name, value, row in _members(group, prefix):
        if row is None:
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield row


def _with_values(group: N, prefix: str, values: Mapping[str, object]) -> N:
    changes: dict[str, Any] = {}
    for name, default, row in _members(group, prefix):
        if row is None:
            changes[name] = _with_values(default, f"{prefix}{name}.", values)
        elif row.name in values:
            value = check(row, values[row.name])
            changes[name] = tuple(value) if isinstance(value, list) else value
    return replace(group, **changes)


def _members(group: Any, prefix: str) -> Iterator[tuple[str, Any, ParameterRow | None]]:
    """Fields of a group with their values, and with a row where they are parameters and not groups."""
    for member in fields(group):
        value = getattr(group, member.name)
        if is_dataclass(value):
            yield member.name, value, None
            continue
        name = member.metadata[_NAME]
        full = (prefix + (member.name if name is None else name)).removesuffix(".")
        default = list(value) if isinstance(value, tuple) else value
        yield member.name, value, ParameterRow(full, default, **member.metadata[_ABOUT])


def check(row: ParameterRow, value: object) -> Value:
    """The value as the parameter's type. An int is accepted for a double (`rate: 5` in YAML), nothing else converted.

    Args:
        row: The parameter.
        value: The value given.

    Returns:
        The value.

    Raises:
        ValueError: The value has another type or is not allowed; names parameter, value and what is allowed.
    """
    if not isinstance(row.default, list):
        return _check_one(row, value, value)
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ValueError(_rejection(row, value, f"a list of {_type_name(row)}"))
    items = [_check_one(row, item, value) for item in value]
    if row.length is not None and len(items) != row.length:
        raise ValueError(_rejection(row, value, f"{row.length} values, not {len(items)}"))
    return items  # type: ignore[return-value]


def _check_one(row: ParameterRow, value: object, whole: object) -> Scalar:
    if row.element is float and type(value) is int:
        value = float(value)
    if type(value) is not row.element:
        raise ValueError(_rejection(row, whole, f"a {_type_name(row)}"))
    assert isinstance(value, (bool, int, float, str))
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(_rejection(row, whole, "a finite number"))
    below = row.low is not None and not isinstance(value, str) and value < row.low
    above = row.high is not None and not isinstance(value, str) and value > row.high
    if below or above or (row.choices and value not in row.choices):
        raise ValueError(_rejection(row, whole, row.constraint))
    return value


def _rejection(row: ParameterRow, value: object, wanted: str) -> str:
    given = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return f"parameter '{row.name}' is {given!r}; it must be {wanted} ({row.description.rstrip('.')})"


def _type_name(row: ParameterRow) -> str:
    return {bool: "bool (true or false)", int: "whole number", float: "number", str: "text"}[row.element]


def unknown_parameter(name: str, config: type[NodeParameters], node: str) -> str:
    """Error message for a name that is no parameter of a node: where it moved, or the nearest names that are."""
    if name in config.moved:
        return f"parameter '{name}' of node '{node}' has moved: {config.moved[name]}"
    known = sorted(row.name for row in rows(config))
    group = [other for other in known if other.split(".")[0] == name.split(".")[0]][:3]
    otherwise = f"did you mean {' or '.join(group)}?" if group else f"it has: {', '.join(known)}"
    return f"unknown parameter '{name}' for node '{node}'; {did_you_mean(name, known, otherwise=otherwise)}"
