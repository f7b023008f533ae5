"""Base of the managed (lifecycle) nodes: typed parameters, one-line errors, diagnostics, orderly shutdown.

A node subclasses `ManagedNode`, describes its parameters in a dataclass and writes `configure`, `activate`,
`deactivate` and `release`. An exception in one of these becomes one line in the log and a failed transition.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.action import ActionServer
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.executors import ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn as Result
from rclpy.parameter import Parameter

from openvla_ros.nodes.common.declared_parameters import DeclaredParameters
from openvla_ros.nodes.common.graph import Mismatches
from openvla_ros.parameters import ManagedNodeParameters

RCLError = _rclpy.RCLError
N = TypeVar("N", bound=ManagedNodeParameters)


class ManagedNode(LifecycleNode, Generic[N]):
    """A lifecycle node with typed parameters, whose failures are one line each.

    Attributes:
        active: Whether the node is active.
        configured: Whether the node is configured, active or not.
        closing: Whether the process is ending, so that nothing may be published or logged.
        fault: The newest failure, in one line; '' without one.
        exit_code: Exit status of the process.
        steady_clock: Clock for what must not follow simulated time.
    """

    def __init__(self, parameters: type[N]) -> None:
        """Declare the parameters; the node is unconfigured.

        Args:
            parameters: Class of the node's parameters, which also gives the node's name.
        """
        super().__init__(parameters.node)
        self.exit_code = 0
        self.fault = ""
        self.active = False
        self.configured = False
        self.closing = False
        self.steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._owned: list[tuple[Callable[[Any], Any], Any]] = []
        self._declared = DeclaredParameters(self, parameters, self._parameter_overrides)
        self.add_on_set_parameters_callback(self._on_set)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._mismatches = Mismatches(self)
        # Also wakes the executor: an idle rclpy process can miss its first SIGTERM without it.
        self._heartbeat = self.create_timer(1.0, self._publish_health, clock=self.steady_clock)

    # ---- overridden by the nodes -----------------------------------------------------------------

    def configure(self) -> None:
        """Load, and create publishers and subscriptions; an exception, with its message, refuses the transition."""

    def activate(self) -> None:
        """Start to act; an exception refuses the transition."""

    def deactivate(self) -> None:
        """Stop acting, quickly."""

    def release(self) -> None:
        """Free what `configure` acquired; called in any state, also after a `configure` that failed half-way."""

    def diagnose(self) -> tuple[bool, str, dict[str, object]]:
        """The node's health: whether it is fine, one line, and values for /diagnostics."""
        return not self.fault, self.fault, {}

    # ---- parameters ------------------------------------------------------------------------------

    @property
    def parameters(self) -> N:
        """Present values of the node's parameters; a live parameter that changes makes a new object."""
        return self._declared.values

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        reason = self._declared.update(parameters, configured=self.configured)
        return SetParametersResult(successful=not reason, reason=reason)

    # ---- entities: created in configure, destroyed by cleanup ------------------------------------

    def create_publisher(self, *arguments: Any, **options: Any) -> Any:
        """Create a publisher without event callbacks: `Mismatches` reports the same without load on the executor."""
        options.setdefault("event_callbacks", PublisherEventCallbacks(use_default_callbacks=False))
        return super().create_publisher(*arguments, **options)

    def create_subscription(self, *arguments: Any, **options: Any) -> Any:
        """Create a subscription without event callbacks, like `create_publisher`."""
        options.setdefault("event_callbacks", SubscriptionEventCallbacks(use_default_callbacks=False))
        return super().create_subscription(*arguments, **options)

    def publisher(self, message: type, topic: str, qos: Any) -> Any:
        """A publisher that cleanup destroys."""
        return self.own(self.destroy_publisher, self.create_publisher(message, topic, qos))

    def subscribe(self, message: type, topic: str, callback: Callable[..., None], qos: Any, **options: Any) -> Any:
        """A subscription that cleanup destroys."""
        made = self.create_subscription(message, topic, callback, qos, **options)
        return self.own(self.destroy_subscription, made)

    def serve(self, service: type, name: str, callback: Callable[..., Any]) -> Any:
        """A service that cleanup destroys."""
        return self.own(self.destroy_service, self.create_service(service, name, callback))

    def serve_action(self, action: type, name: str, execute: Callable[..., Any], **callbacks: Any) -> Any:
        """An action server that cleanup destroys."""
        return self.own(lambda server: server.destroy(), ActionServer(self, action, name, execute, **callbacks))

    def timer(self, period: float, callback: Callable[[], None], *, steady: bool = False) -> Any:
        """A timer that cleanup destroys.

        Args:
            period: Time between two calls [s].
            callback: Function to call.
            steady: Whether the period is of the steady clock and not of the node's, which may be simulated time.

        Returns:
            The timer.
        """
        clock = self.steady_clock if steady else self.get_clock()
        return self.own(self.destroy_timer, self.create_timer(period, callback, clock=clock))

    def own(self, destroy: Callable[[Any], Any], made: Any) -> Any:
        """Register an entity for cleanup, which calls `destroy(made)`; returns the entity."""
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

    def on_configure(self, state: LifecycleState) -> Result:
        def configure() -> None:
            if self._declared.rejected:
                raise ValueError("; ".join(self._declared.rejected.values()))
            self.configure()

        result = self._attempt("configure", configure)
        self.configured = result is Result.SUCCESS
        if not self.configured:
            self._attempt("release", self.release)
            self._destroy_owned()
        return result

    def on_activate(self, state: LifecycleState) -> Result:
        result = self._attempt("activate", self.activate)
        self.active = result is Result.SUCCESS
        return super().on_activate(state) if self.active else result

    def on_deactivate(self, state: LifecycleState) -> Result:
        self.active = False
        self._attempt("deactivate", self.deactivate)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> Result:
        result = self._attempt("cleanup", self.release)
        self._destroy_owned()
        self.configured = False
        return result

    def on_shutdown(self, state: LifecycleState) -> Result:
        self.close()
        return Result.SUCCESS

    def on_error(self, state: LifecycleState) -> Result:
        self.close()
        return Result.SUCCESS

    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> Any:
        """Refuse a transition that the present state does not have: in rclpy alone it would end the process."""
        try:
            return super()._LifecycleNodeMixin__change_state(transition_id)  # type: ignore[misc]
        except RCLError:
            if not self.context.ok():
                raise
            state = self._state_machine.current_state[1]
            self.get_logger().warning(f"transition {transition_id} refused: state '{state}' does not have it")
            return Result.FAILURE

    def close(self) -> None:
        """Stop and free everything, in any state."""
        self.closing = True
        if self.active:
            self.active = False
            self._attempt("deactivate", self.deactivate)
        self._attempt("release", self.release)
        self._destroy_owned()

    def destroy_node(self) -> None:
        """Destroy the node and its lifecycle services, which rclpy leaves.

        They would keep the DDS participant alive: 18 MB of shared memory that `os._exit` does not free, and peers that
        wait for the liveliness timeout instead of being notified.
        """
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    def _attempt(self, what: str, function: Callable[[], None]) -> Result:
        try:
            function()
        except Exception as error:
            if not rclpy.ok(context=self.context):
                return Result.FAILURE  # the process is ending, and /rosout is gone
            self.fault = f"{what} failed: {one_line(error)}"
            self.get_logger().error(self.fault)
            self.get_logger().debug(traceback.format_exc())
            return Result.FAILURE
        if what in ("configure", "activate"):
            self.fault = ""
        return Result.SUCCESS

    # ---- diagnostics -----------------------------------------------------------------------------

    def _publish_health(self) -> None:
        self.publish_diagnostics()
        for mismatch in self._mismatches.update():
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

    def autostart(self) -> None:
        """Configure and activate where the parameter `autostart` says so; a failure ends the process with status 1.

        Raises:
            ExternalShutdownException: A transition failed.
        """
        if not self.parameters.autostart:
            return
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() is not Result.SUCCESS:
                self.exit_code = 1
                raise ExternalShutdownException


def one_line(error: BaseException) -> str:
    """An exception as one line; with its type where the message alone does not say what is wrong."""
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    plain = isinstance(error, (ValueError, OSError, RuntimeError, LookupError, ImportError, TimeoutError))
    return text if plain and len(text) > 12 else f"{type(error).__name__}: {text}"
