"""What the bridge core answers to one event, as a value that the node applies."""

from __future__ import annotations

from dataclasses import dataclass

from openvla_ros.geometry import Pose
from openvla_ros.safety.gate import Gate


@dataclass(frozen=True)
class TargetCommand:
    """A target pose of the end effector.

    Attributes:
        pose: Target in the base frame.
        stamp_ns: Time on the node's clock at which the target is due [ns].
    """

    pose: Pose
    stamp_ns: int


@dataclass(frozen=True)
class GripperCommand:
    """An opening for the gripper to reach.

    Attributes:
        opening: 0 closed … 1 open.
        goal: Number under which the node reports what becomes of the action goal, if the command is one.
    """

    opening: float
    goal: int


@dataclass(frozen=True)
class CancelGoal:
    """An action goal to cancel, if its server has accepted it.

    Attributes:
        goal: Number of the goal.
        reason: What to log; empty if a newer command replaces the goal.
    """

    goal: int
    reason: str = ""


@dataclass(frozen=True)
class GoalCommands:
    """What to send to the robot's actions.

    Attributes:
        cancel: Goals to cancel first.
        gripper: Command to send to the gripper.
        recovery: Number of the goal under which to request the robot's own error recovery.
    """

    cancel: tuple[CancelGoal, ...] = ()
    gripper: GripperCommand | None = None
    recovery: int | None = None


@dataclass(frozen=True)
class Commands:
    """What to do after one event, in the order of the fields.

    Attributes:
        state: State of the gate after the event.
        braking: Whether the target is being brought to rest.
        moving: Whether targets may be sent to a controller: the gate is EXECUTING and the stream has begun.
        targets: Targets to send, oldest first.
        goals: What to send to the gripper and to the robot's other actions.
        stream_ended: Whether the stream of targets has ended: the adapter forgets the last target.
        notes: Lines for the log.
        accepted: Whether a request was granted; of a measured pose, whether it was newer than the one before.
        message: Answer to a request, in one line.
    """

    state: Gate
    braking: bool = False
    moving: bool = False
    targets: tuple[TargetCommand, ...] = ()
    goals: GoalCommands = GoalCommands()
    stream_ended: bool = False
    notes: tuple[str, ...] = ()
    accepted: bool = True
    message: str = ""
