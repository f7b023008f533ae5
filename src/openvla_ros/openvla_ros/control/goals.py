"""Action goals of the robot: its gripper's, one at a time, and its error recovery's.

A gripper does one thing at a time, and its driver takes the end of one goal for the end of the next. A command that
comes while a goal is under way therefore cancels that goal and waits until it has ended. A gripper that is commanded
by messages has no goals, and gets every command at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count

from openvla_ros.control.commands import CancelGoal, GoalCommands, GripperCommand
from openvla_ros.safety.gripper_limits import GripperLimiter
from openvla_ros.safety.limits import Limits
from openvla_ros.safety.watchdogs import NS, Now

NOTHING = GoalCommands()
CANCEL_TIME = 1.0  # [s] a driver has to end a cancelled goal before the goal is given up


@dataclass(frozen=True)
class ActionGoal:
    """A goal under way.

    Attributes:
        number: Number of the goal.
        timeout: Longest time it may take [s].
        deadline_ns: End of that time, or of `CANCEL_TIME` once it is cancelled [ns, steady clock].
        cancelled: Whether it is to be cancelled; if its server has not accepted it yet, as soon as that is the case.
    """

    number: int
    timeout: float
    deadline_ns: int
    cancelled: bool = False


class GoalControl:
    """The gripper's newest command, the goals under way, and the command that waits for a goal's end."""

    def __init__(self, limits: Limits, gripper_timeout: float | None, recovery_timeout: float) -> None:
        """Begin with nothing commanded.

        Args:
            limits: Hysteresis and shortest interval of the gripper's commands.
            gripper_timeout: Longest time of a gripper goal [s]; None if commands are messages without a result.
            recovery_timeout: Longest time of a recovery goal [s].
        """
        self._limits = limits
        self._gripper_timeout, self._recovery_timeout = gripper_timeout, recovery_timeout
        self._limiter = GripperLimiter()  # its time is the motion clock's
        self._gripper: ActionGoal | None = None
        self._recovery: ActionGoal | None = None
        self._pending: GripperCommand | None = None  # waits for the gripper's goal to end
        self._rejected = False  # the newest command did not reach the gripper
        self._numbers = count(1)
        self._commands = NOTHING

    def drain(self) -> GoalCommands:
        """Take what is to be sent and cancelled."""
        commands, self._commands = self._commands, NOTHING
        return commands

    # ---- commands --------------------------------------------------------------------------------

    def opening_due(self, asked: float, measured: float | None, motion_ns: int) -> tuple[float | None, tuple[str, ...]]:
        """The opening to command for an action.

        Args:
            asked: Opening that the action asks for, 0 … 1.
            measured: Measured opening, 0 … 1; None if there is no measurement.
            motion_ns: Time on the motion clock [ns].

        Returns:
            The opening, None if nothing is to be commanded; and `gripper_rate` if the last change is too recent.
        """
        return self._limiter.command(asked, measured, motion_ns, self._limits)

    def command_gripper(self, opening: float, motion_ns: int, now: Now) -> None:
        """Command an opening; it waits while an earlier goal has to end first."""
        self._limiter = GripperLimiter(opening, motion_ns)
        command = GripperCommand(opening, next(self._numbers))
        if self._gripper is None:
            self._send(command, now)
        else:
            self._pending = command
            self._gripper = self._cancel(self._gripper, now)

    def clear_gripper(self) -> None:
        """What was commanded is not known to hold any more: the next opening asked for is commanded."""
        self._limiter = self._limiter.clear()
        self._rejected = False

    def recover(self, now: Now) -> bool:
        """Request the robot's error recovery; False while one is under way."""
        if self._recovery is not None:
            return False
        self._recovery = _begin(next(self._numbers), self._recovery_timeout, now)
        self._commands = replace(self._commands, recovery=self._recovery.number)
        return True

    def settle(self, *, stopped: bool, between_actions: bool) -> None:
        """Drop commands that are not carried out, so that a later action repeats them.

        Args:
            stopped: The gate holds: a pending command is not sent. (A gripper that opened now could drop something.)
            between_actions: No action is under way whose motion may wait for the gripper.
        """
        if stopped and self._pending is not None:
            self._pending = None
            self.clear_gripper()
        if between_actions and self._rejected:
            self.clear_gripper()

    # ---- what becomes of goals -------------------------------------------------------------------

    def accepted(self, number: int) -> None:
        """A server accepted a goal: one that was cancelled meanwhile can be cancelled now."""
        for goal in (self._gripper, self._recovery):
            if goal is not None and goal.number == number and goal.cancelled:
                self._ask_to_cancel(CancelGoal(number))

    def ended(self, number: int, now: Now, *, reached_server: bool, failure: str) -> str:
        """A goal ended, or was refused. Goals that were given up are ignored.

        Args:
            number: Number of the goal.
            now: The present moment.
            reached_server: False if the goal was refused, or its action has no server.
            failure: Why it failed, in one line; '' if it did not.

        Returns:
            What to log: the failure, unless the goal was cancelled.
        """
        goal = next((one for one in (self._gripper, self._recovery) if one is not None and one.number == number), None)
        if goal is None:
            return ""
        if goal is self._recovery:
            self._recovery = None
        else:
            self._rejected |= not reached_server and self._pending is None
            self._end_gripper_goal(now)
        return "" if goal.cancelled else failure

    def check(self, now: Now) -> None:
        """Cancel goals that take too long, and give up those that do not end although they were cancelled."""
        if self._gripper is not None and now.steady > self._gripper.deadline_ns:
            if self._gripper.cancelled:
                self._end_gripper_goal(now)
            else:
                self._gripper = self._time_out(self._gripper, now)
        if self._recovery is not None and now.steady > self._recovery.deadline_ns:
            self._recovery = None if self._recovery.cancelled else self._time_out(self._recovery, now)

    def _end_gripper_goal(self, now: Now) -> None:
        self._gripper, pending, self._pending = None, self._pending, None
        if pending is not None:
            self._send(pending, now)

    def _send(self, command: GripperCommand, now: Now) -> None:
        self._commands = replace(self._commands, gripper=command)
        if self._gripper_timeout is not None:
            self._gripper = _begin(command.goal, self._gripper_timeout, now)

    def _time_out(self, goal: ActionGoal, now: Now) -> ActionGoal:
        return self._cancel(goal, now, f"took longer than {goal.timeout:g} s: cancelled")

    def _cancel(self, goal: ActionGoal, now: Now, reason: str = "") -> ActionGoal:
        if goal.cancelled:
            return goal
        self._ask_to_cancel(CancelGoal(goal.number, reason))
        return replace(goal, cancelled=True, deadline_ns=now.steady + round(CANCEL_TIME * NS))

    def _ask_to_cancel(self, cancel: CancelGoal) -> None:
        self._commands = replace(self._commands, cancel=(*self._commands.cancel, cancel))


def _begin(number: int, timeout: float, now: Now) -> ActionGoal:
    return ActionGoal(number, timeout, now.steady + round(timeout * NS))
