"""One base for the managed (lifecycle) nodes: parameters from a table, one-line errors, diagnostics, clean ends.

A node subclasses `ManagedNode`, lists its parameters in `PARAMETERS` and writes `configure`, `activate`,
`deactivate` and `release`. Whatever these raise ends in exactly one clear line in the log and a failed transition.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, ClassVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.executors import ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn as Result
from rclpy.parameter import Parameter as RosParameter

from openvla_ros.nodes.common.graph import Mismatches
from openvla_ros.parameters import Parameter, Value, check, unknown_key

RCLError = _rclpy.RCLError
# Parameters that rclpy itself declares; a YAML file may set them for any node.
_OF_RCLPY = ("use_sim_time", "start_type_description_service", "qos_overrides.")
_AUTOSTART = Parameter("autostart", False, "Configure and activate at start, without a lifecycle manager")


class ManagedNode(LifecycleNode):
    """A lifecycle node whose parameters are a table and whose failures are one line each."""

    PARAMETERS: ClassVar[tuple[Parameter, ...]] = ()

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.exit_code = 0
        self.fault = ""  # the newest failure, one line
        self.active = False
        self.configured = False
        self.closing = False  # the process is ending: nobody is left to log to
        self.steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._rows = {row.name: row for row in (*self.PARAMETERS, _AUTOSTART)}
        self._refused: dict[str, str] = {}  # parameter -> why its given value was not taken
        self._owned: list[tuple[Callable[[Any], Any], Any]] = []
        self._declare()
        self.add_on_set_parameters_callback(self._on_set)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._mismatches = Mismatches(self)
        # Also the heartbeat without which an idle rclpy process can sleep through its first SIGTERM.
        self._heartbeat = self.create_timer(1.0, self._beat_once_a_second, clock=self.steady_clock)

    # ---- what a node writes ----------------------------------------------------------------------

    def configure(self) -> None:
        """Read parameters, load, make publishers and subscriptions; raise with a one-line message to refuse."""

    def activate(self) -> None:
        """Start acting; raise to refuse."""

    def deactivate(self) -> None:
        """Stop acting, quickly."""

    def release(self) -> None:
        """Give back what configure took; called in any state, also after a configure that failed half-way."""

    def diagnose(self) -> tuple[bool, str, dict[str, object]]:
        """The node's health: fine or not, one line, and values worth showing."""
        return not self.fault, self.fault, {}

    # ---- parameters ------------------------------------------------------------------------------

    def value(self, name: str) -> Any:
        """The present value of a declared parameter."""
        value = self.get_parameter(name).value
        return list(value) if isinstance(self._rows[name].default, list) else value

    def _declare(self) -> None:
        given = {name: p.value for name, p in self._parameter_overrides.items()}
        for row in self._rows.values():
            value: Value = row.default
            if row.name in given:
                try:
                    value = check(row, given[row.name])
                except ValueError as error:
                    self._refused[row.name] = str(error)
            self.declare_parameter(row.name, value, _descriptor(row), ignore_override=True)
        for name in given:
            if name not in self._rows and not name.startswith(_OF_RCLPY):
                self._refused[name] = unknown_key(name, self._rows, self.get_name())

    def _on_set(self, parameters: list[RosParameter]) -> SetParametersResult:
        for parameter in parameters:
            row = self._rows.get(parameter.name)
            if row is None:
                continue
            if self.configured and not row.live:
                reason = (
                    f"'{row.name}' is read when '{self.get_name()}' is configured: deactivate and clean it up first "
                    f"(ros2 lifecycle set {self.get_fully_qualified_name()} cleanup), then configure it again"
                )
                return SetParametersResult(successful=False, reason=reason)
            try:
                check(row, parameter.value)
            except ValueError as error:
                return SetParametersResult(successful=False, reason=str(error))
            self._refused.pop(row.name, None)
        return SetParametersResult(successful=True)

    # ---- things to own: made in configure, destroyed by cleanup ----------------------------------

    def create_publisher(self, *arguments: Any, **options: Any) -> Any:
        """As rclpy's, without its events: `Mismatches` tells what they would, and not at every turn of the executor."""
        options.setdefault("event_callbacks", PublisherEventCallbacks(use_default_callbacks=False))
        return super().create_publisher(*arguments, **options)

    def create_subscription(self, *arguments: Any, **options: Any) -> Any:
        """As rclpy's, likewise."""
        options.setdefault("event_callbacks", SubscriptionEventCallbacks(use_default_callbacks=False))
        return super().create_subscription(*arguments, **options)

    def publisher(self, message: type, topic: str, qos: Any) -> Any:
        """A publisher that cleanup destroys."""
        return self._own(self.destroy_publisher, self.create_publisher(message, topic, qos))

    def subscribe(self, message: type, topic: str, callback: Callable[..., None], qos: Any, **options: Any) -> Any:
        """A subscription that cleanup destroys."""
        made = self.create_subscription(message, topic, callback, qos, **options)
        return self._own(self.destroy_subscription, made)

    def serve(self, service: type, name: str, callback: Callable[..., Any]) -> Any:
        """A service that cleanup destroys."""
        return self._own(self.destroy_service, self.create_service(service, name, callback))

    def timer(self, period: float, callback: Callable[[], None], *, steady: bool = False) -> Any:
        """A timer [s] on the node's clock (simulated time where that is used), or on the wall's."""
        clock = self.steady_clock if steady else self.get_clock()
        return self._own(self.destroy_timer, self.create_timer(period, callback, clock=clock))

    def _own(self, destroy: Callable[[Any], Any], made: Any) -> Any:
        self._owned.append((destroy, made))
        return made

    def _destroy_owned(self) -> None:
        while self._owned:
            destroy, made = self._owned.pop()
            destroy(made)

    def now_ns(self) -> int:
        """The node's clock [ns]: simulated time when use_sim_time is set."""
        return int(self.get_clock().now().nanoseconds)

    # ---- lifecycle -------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> Result:  # noqa: D102
        def configure() -> None:
            if self._refused:
                raise ValueError("; ".join(self._refused.values()))
            self.configure()

        result = self._attempt("configure", configure)
        self.configured = result is Result.SUCCESS
        if not self.configured:
            self._attempt("release", self.release)
            self._destroy_owned()
        return result

    def on_activate(self, state: LifecycleState) -> Result:  # noqa: D102
        result = self._attempt("activate", self.activate)
        self.active = result is Result.SUCCESS
        return super().on_activate(state) if self.active else result

    def on_deactivate(self, state: LifecycleState) -> Result:  # noqa: D102
        self.active = False
        self._attempt("deactivate", self.deactivate)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> Result:  # noqa: D102
        result = self._attempt("cleanup", self.release)
        self._destroy_owned()
        self.configured = False
        return result

    def on_shutdown(self, state: LifecycleState) -> Result:  # noqa: D102
        self.close()
        return Result.SUCCESS

    def on_error(self, state: LifecycleState) -> Result:  # noqa: D102
        self.close()
        return Result.SUCCESS

    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> Any:  # noqa: N802
        """Refuse a transition that the present state does not have. rclpy lets it end the whole process."""
        try:
            return super()._LifecycleNodeMixin__change_state(transition_id)  # type: ignore[misc]
        except RCLError:
            if not self.context.ok():
                raise
            state = self._state_machine.current_state[1]
            self.get_logger().warning(f"transition {transition_id} refused: it does not exist in state '{state}'")
            return Result.FAILURE

    def close(self) -> None:
        """Stop and give everything back, from whatever state."""
        self.closing = True
        if self.active:
            self.active = False
            self._attempt("deactivate", self.deactivate)
        self._attempt("release", self.release)
        self._destroy_owned()

    def destroy_node(self) -> None:
        """As rclpy's, and the lifecycle services with it, which rclpy forgets.

        They would keep the node's DDS participant: 18 MB of shared memory that nobody gives back after `os._exit`, and
        peers that hear no goodbye.
        """
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    def _attempt(self, what: str, function: Callable[[], None]) -> Result:
        try:
            function()
        except Exception as error:
            if not rclpy.ok(context=self.context):
                return Result.FAILURE  # the process is ending: nothing to report, and nobody to report it to
            self.fault = f"{what} failed: {one_line(error)}"
            self.get_logger().error(self.fault)
            self.get_logger().debug(traceback.format_exc())
            return Result.FAILURE
        if what in ("configure", "activate"):
            self.fault = ""
        return Result.SUCCESS

    # ---- diagnostics -----------------------------------------------------------------------------

    def _beat_once_a_second(self) -> None:
        self.publish_diagnostics()
        for mismatch in self._mismatches.look():
            self.get_logger().warning(mismatch)

    def publish_diagnostics(self) -> None:
        """Publish the node's health on /diagnostics."""
        fine, message, values = self.diagnose()
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK if fine else DiagnosticStatus.WARN,
            name=str(self.get_fully_qualified_name()),
            message=str(message),
            values=[KeyValue(key=str(k), value=str(v)) for k, v in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        try:
            self._diagnostics.publish(array)
        except RCLError:
            if self.context.ok():
                raise

    def _autostart(self) -> None:
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() is not Result.SUCCESS:
                self.exit_code = 1
                raise ExternalShutdownException  # leaves spin; `run` returns the exit code


def one_line(error: BaseException) -> str:
    """An exception as one line for a person; its type only where the message alone would not say what is wrong."""
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    plain = isinstance(error, (ValueError, OSError, RuntimeError, LookupError, ImportError, TimeoutError))
    return text if plain and len(text) > 12 else f"{type(error).__name__}: {text}"


def _descriptor(row: Parameter) -> ParameterDescriptor:
    unit = f" [{row.unit}]" if row.unit else ""
    made = ParameterDescriptor(description=f"{row.description}{unit}", additional_constraints=row.constraint)
    sample = row.default[0] if isinstance(row.default, list) and row.default else row.default
    if (row.low is not None or row.high is not None) and type(sample) in (int, float):
        kind = float if type(sample) is float else int
        low = kind(row.low) if row.low is not None else (-1.7e308 if kind is float else -(2**63))
        high = kind(row.high) if row.high is not None else (1.7e308 if kind is float else 2**63 - 1)
        if kind is float:
            made.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
        else:
            made.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
    return made
