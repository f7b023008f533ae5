"""Declaration of a node's parameters in ROS, from the dataclass that describes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from openvla_ros.parameters import NodeParameters, ParameterRow, Value, build, check, rows, unknown_parameter

N = TypeVar("N", bound=NodeParameters)
# Parameters that rclpy itself declares; a YAML file may set them for any node.
OF_RCLPY = ("use_sim_time", "start_type_description_service", "qos_overrides.")


class DeclaredParameters(Generic[N]):
    """The parameters that a node has declared.

    Attributes:
        values: Present values, as the node's typed configuration.
        rejected: Given parameters that could not be accepted, with the reason; their defaults are in effect.
    """

    def __init__(self, node: Node, config: type[N], given: Mapping[str, Parameter]) -> None:
        """Declare the parameters.

        Args:
            node: The node that gets them.
            config: Class of the node's parameters.
            given: Overrides of the defaults, from the command line and YAML files.
        """
        self._node, self._config = node, config
        self._rows = {row.name: row for row in rows(config)}
        self.rejected: dict[str, str] = {}
        self._accepted: dict[str, Value] = {}
        for name, parameter in given.items():
            if name in self._rows:
                try:
                    self._accepted[name] = check(self._rows[name], parameter.value)
                except ValueError as error:
                    self.rejected[name] = str(error)
            elif not name.startswith(OF_RCLPY):
                self.rejected[name] = unknown_parameter(name, config, node.get_name())
        for row in self._rows.values():
            value = self._accepted.get(row.name, row.default)
            node.declare_parameter(row.name, value, _descriptor(row), ignore_override=True)
        self.values = build(config, self._accepted)

    def update(self, parameters: Iterable[Parameter], *, configured: bool) -> str:
        """Take over parameters that are about to be set, unless one of them may not be.

        Args:
            parameters: The parameters; those that are not in the node's configuration are ignored.
            configured: Whether the node is configured, so that only live parameters may change.

        Returns:
            Why the change is rejected; '' when it is accepted.
        """
        changes: dict[str, Value] = {}
        for parameter in parameters:
            row = self._rows.get(parameter.name)
            if row is None:
                continue
            if configured and not row.live:
                return (
                    f"'{row.name}' is read when '{self._node.get_name()}' is configured: deactivate and clean it up "
                    f"first (ros2 lifecycle set {self._node.get_fully_qualified_name()} cleanup), then configure it "
                    "again"
                )
            try:
                changes[row.name] = check(row, parameter.value)
            except ValueError as error:
                return str(error)
        self._accepted |= changes
        self.values = build(self._config, self._accepted)
        for name in changes:
            self.rejected.pop(name, None)
        return ""


def _descriptor(row: ParameterRow) -> ParameterDescriptor:
    unit = f" [{row.unit}]" if row.unit else ""
    descriptor = ParameterDescriptor(description=f"{row.description}{unit}", additional_constraints=row.constraint)
    if row.low is None and row.high is None:
        return descriptor
    if row.element is float:
        low = -1.7e308 if row.low is None else float(row.low)
        high = 1.7e308 if row.high is None else float(row.high)
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    elif row.element is int:
        least = -(2**63) if row.low is None else int(row.low)
        most = 2**63 - 1 if row.high is None else int(row.high)
        descriptor.integer_range = [IntegerRange(from_value=least, to_value=most, step=0)]
    return descriptor
