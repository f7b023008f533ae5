"""One goal of the run_instruction action: counts executed actions and says when, and how, it is over."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from openvla_msgs.action import RunInstruction
from rclpy.task import Future

from openvla_ros.nodes.common import conversions


class Run:
    """A goal in progress. All calls come from the executor's thread."""

    def __init__(self, goal: Any, now_ns: int, stall_timeout: float) -> None:
        self.goal, self.instruction = goal, str(goal.request.instruction)
        self.ended: Future = Future()
        self._max_steps, self._timeout = int(goal.request.max_steps), float(goal.request.timeout)
        self._start_ns, self._stall = now_ns, stall_timeout
        self._progress = time.monotonic()
        self._steps = 0
        self._times: deque[float] = deque(maxlen=10)

    def executed(self, action: Any, latency: float, now_ns: int) -> None:
        """One more action was executed: feedback, and the end if it was the last."""
        self._steps += 1
        self._progress = time.monotonic()
        self._times.append(self._progress)
        feedback = RunInstruction.Feedback()
        feedback.step, feedback.action = self._steps, action
        feedback.rate, feedback.latency = (
            conversions.number(rate(self._times), "rate"),
            conversions.number(latency, "latency"),
        )
        self.goal.publish_feedback(feedback)
        if self._max_steps and self._steps >= self._max_steps:
            self.end(RunInstruction.Result.COMPLETED_STEPS, f"{self._steps} actions executed", now_ns)

    def check(self, now_ns: int, reason: str) -> None:
        """End the run when it is cancelled, its time is up, or nothing was executed for long (for `reason`)."""
        result = RunInstruction.Result
        waited = time.monotonic() - self._progress
        if self.goal.is_cancel_requested:
            self.end(result.CANCELLED, "cancelled", now_ns)
        elif self._timeout > 0 and (now_ns - self._start_ns) * 1e-9 >= self._timeout:
            self.end(result.TIMEOUT, f"time-out of {self._timeout:g} s", now_ns)
        elif waited >= self._stall:
            self.end(result.FAULT, f"no action was executed for {waited:.0f} s: {reason or 'no reason known'}", now_ns)

    def end(self, outcome: int, reason: str, now_ns: int) -> None:
        """Settle the result; the first one counts."""
        if self.ended.done():
            return
        result = RunInstruction.Result()
        result.outcome, result.reason, result.steps = int(outcome), str(reason), self._steps
        result.duration = conversions.number((now_ns - self._start_ns) * 1e-9, "duration")
        self.ended.set_result(result)


def rate(times: deque[float]) -> float:
    """Events a second over the stamps kept [s]; 0 with fewer than two."""
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0
