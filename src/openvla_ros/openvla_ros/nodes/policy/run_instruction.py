"""The action `run_instruction`: follows one instruction until its steps are executed, its time is up or it fails."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from openvla_msgs.action import RunInstruction
from rclpy.action import CancelResponse, GoalResponse
from rclpy.task import Future

from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.lifecycle_node import ManagedNode

Outcome = RunInstruction.Result


class Run:
    """A goal in progress: counts executed actions and decides when, and how, it ends.

    All calls come from the executor's thread.

    Attributes:
        instruction: The sentence to follow, with single spaces.
        ended: Completes with the result of the action.
    """

    def __init__(self, goal: Any, now_ns: int, stall_timeout: float) -> None:
        """Start a run.

        Args:
            goal: Handle of the accepted goal.
            now_ns: Time on the node's clock [ns].
            stall_timeout: Longest time without an executed action [s, wall clock].
        """
        self._goal, self.instruction = goal, " ".join(str(goal.request.instruction).split())
        self.ended: Future = Future()
        self._max_steps, self._timeout = int(goal.request.max_steps), float(goal.request.timeout)
        self._start_ns, self._stall_timeout = now_ns, stall_timeout
        self._progress = time.monotonic()
        self._steps = 0
        self._times: deque[float] = deque(maxlen=10)

    def executed(self, action: Any, latency: float, now_ns: int) -> None:
        """Count an executed action: publish feedback, and end the run if it was the last.

        Args:
            action: The action, as an EndEffectorDelta.
            latency: From image received to chunk published [s].
            now_ns: Time on the node's clock [ns].
        """
        self._steps += 1
        self._progress = time.monotonic()
        self._times.append(self._progress)
        feedback = RunInstruction.Feedback(step=self._steps, action=action)
        feedback.rate = conversions.number(rate(self._times), "rate")
        feedback.latency = conversions.number(latency, "latency")
        self._goal.publish_feedback(feedback)
        if self._max_steps and self._steps >= self._max_steps:
            self.end(Outcome.COMPLETED_STEPS, f"{self._steps} actions executed", now_ns)

    def check(self, now_ns: int, reason: str) -> None:
        """End the run when it is cancelled, its time is up, or no action was executed for too long.

        Args:
            now_ns: Time on the node's clock [ns].
            reason: Why no action is executed; '' when unknown.
        """
        waited = time.monotonic() - self._progress
        if self._goal.is_cancel_requested:
            self.end(Outcome.CANCELLED, "cancelled", now_ns)
        elif self._timeout > 0 and (now_ns - self._start_ns) * 1e-9 >= self._timeout:
            self.end(Outcome.TIMEOUT, f"time-out of {self._timeout:g} s", now_ns)
        elif waited >= self._stall_timeout:
            why = reason or "reason unknown"
            self.end(Outcome.FAULT, f"no action was executed for {waited:.0f} s: {why}", now_ns)

    def end(self, outcome: int, reason: str, now_ns: int) -> None:
        """Set the result, unless there is one already.

        Args:
            outcome: One of the constants of RunInstruction's result.
            reason: Why the run ends, in one line.
            now_ns: Time on the node's clock [ns].
        """
        if self.ended.done():
            return
        result = RunInstruction.Result(outcome=int(outcome), reason=str(reason), steps=self._steps)
        result.duration = conversions.number((now_ns - self._start_ns) * 1e-9, "duration")
        self.ended.set_result(result)


class RunInstructionServer:
    """Action server that accepts one goal at a time.

    Attributes:
        run: The run in progress; None without one.
    """

    def __init__(
        self,
        node: ManagedNode[Any],
        stall_timeout: float,
        on_start: Callable[[str], None],
        on_end: Callable[[bool], None],
    ) -> None:
        """Create the server; the node's cleanup destroys it.

        Args:
            node: Node that offers the action and executes the instruction.
            stall_timeout: A run fails after this time without an executed action [s, wall clock].
            on_start: Called with the instruction of a run that starts.
            on_end: Called when a run ends, with whether all its steps were executed.
        """
        self.run: Run | None = None
        self._node, self._stall_timeout, self._on_start, self._on_end = node, stall_timeout, on_start, on_end
        node.serve_action(
            RunInstruction,
            "run_instruction",
            self._execute,
            goal_callback=self._on_goal,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )

    def executed(self, action: Any, latency: float) -> None:
        """Count an executed action of the run in progress, if there is one; arguments as of `Run.executed`."""
        if self.run is not None:
            self.run.executed(action, latency, self._node.now_ns())

    def check(self, reason: str) -> None:
        """End the run when a limit of it is reached; call it regularly.

        Args:
            reason: Why no action is executed; '' when unknown.
        """
        if self.run is not None:
            self.run.check(self._node.now_ns(), reason)
            if self.run.ended.done():
                self._close()

    def end(self, outcome: int, reason: str) -> None:
        """End the run in progress, if there is one; arguments as of `Run.end`."""
        if self.run is not None:
            self.run.end(outcome, reason, self._node.now_ns())
            self._close()

    def _on_goal(self, request: RunInstruction.Goal) -> GoalResponse:
        wrong = (
            "the policy is not active" if not self._node.active
            else "the instruction is empty" if not str(request.instruction).strip()
            else f"'{self.run.instruction}' is still running: cancel it first" if self.run is not None
            else "timeout is not a number from 0 up" if not request.timeout >= 0.0 else ""
        )  # fmt: skip
        if wrong:
            self._node.get_logger().warning(f"run_instruction refused: {wrong}")
        return GoalResponse.REJECT if wrong else GoalResponse.ACCEPT

    async def _execute(self, goal: Any) -> Any:
        if self.run is not None:  # two goals were accepted before the first began
            goal.abort()
            return Outcome(outcome=Outcome.FAULT, reason=f"'{self.run.instruction}' is still running")
        run = self.run = Run(goal, self._node.now_ns(), self._stall_timeout)
        self._on_start(run.instruction)
        result = await run.ended
        if self.run is run:
            self._close()
        finish = {
            Outcome.CANCELLED: goal.canceled if goal.is_cancel_requested else goal.abort,
            Outcome.FAULT: goal.abort,
        }
        finish.get(result.outcome, goal.succeed)()
        return result

    def _close(self) -> None:
        assert self.run is not None
        completed = self.run.ended.result().outcome == Outcome.COMPLETED_STEPS
        self.run = None
        self._on_end(completed)


def rate(times: deque[float]) -> float:
    """Events a second over the times kept [s]; 0 with fewer than two."""
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0
