"""Runs one episode on a stack whose scene was reset, and judges it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from openvla_msgs.action import RunInstruction

from openvla_evaluation.plan import Trial
from openvla_evaluation.report import outcomes
from openvla_evaluation.report.outcomes import Episode, Step
from openvla_ros.evaluation.episode_log import stamp_key
from openvla_ros.evaluation.stack_client import Goal, StackClient, StackError

SCORE_DELAY = 0.8  # [s, wall clock] in which the score of the last action may arrive
CANCEL_TIMEOUT = 10.0  # [s]

# Receives the number of actions so far, and the newest one with the newest image.
OnStep = Callable[[int, Step], None]


@dataclass(frozen=True)
class Limits:
    """When an episode ends."""

    max_steps: int = 80
    stall: float = 45.0  # [s, wall clock] without an action; the episode then counts as a fault
    stop_at_any: bool = True  # False: only lifting the target ends the episode early (corrective demonstrations)


class EpisodeRunner:
    """Runs episodes one after the other on one stack.

    Args:
        client: The stack's client.
        limits: When an episode ends.
    """

    def __init__(self, client: StackClient, limits: Limits) -> None:
        self._client, self._limits = client, limits

    def run(self, index: int, trial: Trial, on_step: OnStep = lambda count, step: None) -> Episode:
        """Run the policy, or watch the acting expert, until the episode is decided.

        Ctrl-C ends the episode as `interrupted` instead of raising, so that its steps are kept. Raises what the
        client's `watch` raises.

        Args:
            index: The episode's number in the series.
            trial: The scene that was reset before, the instruction and its target.
            on_step: Called when an action or an image is new.

        Returns:
            The judged episode.
        """
        started = time.monotonic()
        outcome = reason = ""
        goal = None
        try:
            goal = self._client.send_goal(trial.instruction, self._limits.max_steps)
            reason = self.follow(trial.target, goal, on_step)
        except KeyboardInterrupt:
            outcome, reason = outcomes.INTERRUPTED, "stopped by a person"
        except StackError as error:
            outcome, reason = outcomes.FAULT, str(error)
        finally:
            self.end(goal)
        return self._judged(index, trial, outcome, reason, time.monotonic() - started)

    def follow(self, target: str, goal: Goal | None, on_step: OnStep) -> str:
        """Watch an episode until it is decided.

        Args:
            target: The object to lift.
            goal: The running instruction; None when the expert acts.
            on_step: Called when an action or an image is new.

        Returns:
            Why the episode ended.

        Raises:
            StackError: The policy failed, or no action came for the stall limit.
        """
        client, limits = self._client, self._limits
        count, seen, newest = 0, (0, 0), time.monotonic()
        while True:
            client.check()
            client.pause()
            with client.changed:
                log = client.log
                received, lifted = (len(log.chunks), len(log.images)), sorted(log.lifted)
                step = log.newest_step() if received[0] and received != seen else None
            if received[0] > count:
                count, newest = received[0], time.monotonic()
            if step is not None:
                seen = received
                on_step(count, step)
            if lifted and (limits.stop_at_any or target in lifted):
                return f"lifted: {', '.join(lifted)}"
            if goal is not None and goal.result is not None:
                self._await_last_score()
                if goal.result.outcome == RunInstruction.Result.FAULT:
                    raise StackError(f"the policy failed: {goal.result.reason}")
                return goal.result.reason or "all steps executed"
            if goal is None and self.executed_all(limits.max_steps):
                self._await_last_score()
                return f"{limits.max_steps} steps executed"
            if time.monotonic() - newest > limits.stall:
                raise StackError(f"no action for {limits.stall:.0f} s; {client.state_text()}")

    def end(self, goal: Goal | None) -> None:
        """Cancel a running goal and wait for its end, so that nothing acts on the next scene by its instruction."""
        if goal is None or goal.result is not None or not self._client.is_open:
            return
        goal.cancel()
        deadline = time.monotonic() + CANCEL_TIMEOUT
        while goal.result is None and time.monotonic() < deadline:
            self._client.pause()

    def executed_all(self, count: int) -> bool:
        """Whether `count` actions were sent and the bridge has executed the last of them."""
        with self._client.changed:
            log = self._client.log
            if len(log.chunks) < count:
                return False
            last = stamp_key(log.chunks[count - 1].observation_stamp)
            return log.safety is not None and stamp_key(log.safety.executed_observation_stamp) >= last

    def _await_last_score(self) -> None:
        """Give the last action time to score: a cube counts only after it stayed up for a moment."""
        deadline = time.monotonic() + SCORE_DELAY
        while not self._client.log.lifted and time.monotonic() < deadline:
            self._client.pause()

    def _judged(self, index: int, trial: Trial, outcome: str, reason: str, duration: float) -> Episode:
        with self._client.changed:
            log = self._client.log.copy()
        lifted = tuple(sorted(log.lifted))
        return Episode(
            index=index,
            seed=trial.seed,
            instruction=trial.instruction,
            target=trial.target,
            outcome=outcome or outcomes.judge(trial.target, lifted),
            reason=reason,
            lifted=lifted,
            count=len(log.chunks),
            duration=duration,
            latencies=tuple(chunk.latency_total for chunk in log.chunks),
            inference=tuple(chunk.latency_inference for chunk in log.chunks),
            refused=log.refused,
            steps=log.steps(),
        )
