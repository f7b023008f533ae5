"""The bridge without ROS: an event comes in, `Commands` come out.

`BridgeCore` combines the safety gate with the action schedule, the target stream and the gripper's commands, and holds
all state that changes. Every event carries the present moment: nothing here reads a clock, so that a test can put any
sequence of events through it. Targets come out while the gate is EXECUTING, and while a permitted motion brakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from openvla_policy.contract.action import StampedChunk
from openvla_ros.control.action_schedule import Action, Schedule
from openvla_ros.control.bridge_config import CoreConfig
from openvla_ros.control.chunk_counters import ChunkCounters
from openvla_ros.control.commands import Commands, TargetCommand
from openvla_ros.control.displacement import DisplacementMonitor
from openvla_ros.control.goals import GoalControl
from openvla_ros.control.motion import Arrival
from openvla_ros.control.target_pose import BASE, compose, limit_following_error
from openvla_ros.control.target_stream import MARGIN, TargetStream
from openvla_ros.control.trajectory import TrajectoryError
from openvla_ros.geometry import IDENTITY, Pose, Quaternion
from openvla_ros.safety import gate as safety
from openvla_ros.safety.gate import Gate, Inputs, State
from openvla_ros.safety.permission import Permission
from openvla_ros.safety.robot_state import RobotState
from openvla_ros.safety.watchdogs import Now
from openvla_ros.safety.zones import reachable

CATCH_UP = 2  # targets that a late tick sends at most; what is later than that delays the motion
DISPLACED = "the arm was moved while it stood"
STOPPED = (State.HOLD, State.ESTOP, State.INACTIVE)


class BridgeCore:
    """The state of one bridge."""

    def __init__(self, config: CoreConfig, gate: Gate | None = None) -> None:
        """Begin inactive.

        Args:
            config: Limits, watchdogs and control mode.
            gate: State of an earlier gate, whose emergency stop stays latched.
        """
        self.config, self.active = config, False
        self.gate = safety.begin(gate or Gate(), config.gate)
        self.permission = Permission()
        self.robot_fault = ""  # why the robot itself does not move; '' if it does
        self.counters, self.robot = ChunkCounters(), RobotState()
        self.stream = TargetStream(config.gate.limits, config.period, self.blocking)  # only read by others
        self._schedule = Schedule(config.actions_per_chunk, config.ensemble_decay, self.blocking)
        self._goals = GoalControl(config.gate.limits, config.gripper_timeout, config.recovery_timeout)
        self._displacement = DisplacementMonitor(config.max_following_error)
        self._commanded: Pose | None = None  # where the newest action ends
        self._sent: Pose | None = None  # the newest target sent
        self._frame: tuple[str, Quaternion] = (BASE, IDENTITY)
        self._arrival: Arrival | None = None
        self._streaming = False  # targets were sent since the stream of targets last ended
        self._targets: list[TargetCommand] = []  # to be sent after the present event
        self._notes: list[str] = []  # to be logged after the present event

    @property
    def blocking(self) -> bool:
        """Whether an action is executed to its end before the next is asked for."""
        return self.config.gate.mode == "blocking"

    # ---- lifecycle and operator ------------------------------------------------------------------

    def activate(self, now: Now) -> Commands:
        """Permit motion as far as the lifecycle is concerned."""
        self.active = True
        self._goals.clear_gripper()
        self.robot = replace(self.robot, not_before_ns=0)
        self.counters.clear()
        self._set(safety.begin(self.gate, self.config.gate))
        return self._updated(now)

    def deactivate(self, now: Now) -> Commands:
        """Brake and hold."""
        self.active = False
        return self._updated(now)

    def enable(self, on: bool, now: Now) -> Commands:
        """Set the operator's switch."""
        self.permission = replace(self.permission, switched_on=on)
        return self._updated(now)

    def hold_button(self, held: bool, now: Now) -> Commands:
        """Take in a report of the deadman's button."""
        self.permission = self.permission.hold(held, now)
        return self._updated(now)

    def e_stop(self, pressed: bool, now: Now) -> Commands:
        """Take in a report of the emergency stop's button."""
        self.permission = replace(self.permission, e_stop_at=now)
        self._set(safety.press_e_stop(self.gate, pressed))
        return self._commands()

    def e_stop_from_service(self, now: Now) -> Commands:
        """Latch the emergency stop without a button: only the reset opens it, no release is needed."""
        self._set(safety.latch_e_stop(self.gate))
        return self._commands()

    def reset_e_stop(self, operator: str, now: Now) -> Commands:
        """Open the emergency stop's latch; accepted if it is open now."""
        gate, message = safety.reset_e_stop(self.gate, operator, now.node)
        if gate is not self.gate:
            self._notes.append(message)
        self._set(gate)
        return self._updated(now, accepted=bool(operator.split()) and not gate.e_stop, message=message)

    def switch_source(self, source: str, now: Now) -> Commands:
        """Put another source in command; accepted if it is in command now."""
        gate, accepted, message = safety.switch_source(self.gate, self.config.gate, source)
        self._set(gate)
        return self._updated(now, accepted=accepted, message=message)

    # ---- robot -----------------------------------------------------------------------------------

    def robot_pose(self, pose: Pose, stamp_ns: int, now: Now) -> Commands:
        """Take in a measured pose; accepted if it is newer than the one before."""
        robot, jumped = self.robot.pose_seen(pose, stamp_ns, now, self.config.max_state_speed)
        if robot is self.robot:
            return self._commands(accepted=False)
        self.robot = robot
        if jumped:
            self._restart(jumped)
        elif self._displaced(pose):
            self._notes.append(f"{DISPLACED}: the next motion starts from where it is now")
            self._rest()
            self._set(safety.hold(self.gate, DISPLACED))
        if self._arrival is not None:
            self._arrival = self._arrival.pose_measured(self.config.arrival, pose, stamp_ns)
            self._update_and_continue(now)
        return self._commands()

    def gripper_opening(self, opening: float, stamp_ns: int, now: Now) -> Commands:
        """Take in a measured gripper opening, 0 closed … 1 open."""
        self.robot = replace(self.robot, opening=opening)
        if self._arrival is not None:
            self._arrival = self._arrival.opening_measured(self.config.arrival, opening, stamp_ns)
            self._update_and_continue(now)
        return self._commands()

    def robot_restarted(self, stamp_ns: int, now: Now) -> Commands:
        """The robot's controller was restarted or its scene reset: its set-point is the measured pose now."""
        self.robot = self.robot.restarted(stamp_ns)
        self._restart("robot restarted")
        return self._commands()

    def fault(self, reason: str, now: Now) -> Commands:
        """The robot reports why it does not move, or '' that it does. The motion under way is dropped."""
        if reason == self.robot_fault:
            return self._commands()
        self.robot_fault = reason
        if reason:
            self._restart(reason)
        return self._updated(now)

    def target_clipped(self, names: Sequence[str], now: Now) -> Commands:
        """Limits of the robot's own, such as its joints', cut the newest target."""
        if new := tuple(dict.fromkeys(name for name in names if name not in self.gate.clipped)):
            self._set(replace(self.gate, clipped=(*self.gate.clipped, *new)))
        return self._commands()

    def recover(self, now: Now) -> Commands:
        """Request the robot's own error recovery; not accepted while one is under way."""
        accepted = self._goals.recover(now)
        return self._commands(accepted=accepted, message="" if accepted else "the recovery is already under way")

    def goal_accepted(self, number: int, now: Now) -> Commands:
        """The server of an action accepted a goal."""
        self._goals.accepted(number)
        return self._commands()

    def goal_ended(self, number: int, now: Now, *, reached_server: bool = True, failure: str = "") -> Commands:
        """A goal ended, with the reason if it failed, or (reached_server=False) it was refused or has no server."""
        if note := self._goals.ended(number, now, reached_server=reached_server, failure=failure):
            self._notes.append(note)
        return self._commands()

    def check_goals(self, now: Now) -> Commands:
        """Cancel the goals that are overdue; `tick` does, but ticks stop with a simulated clock."""
        self._goals.check(now)
        return self._commands()

    # ---- actions ---------------------------------------------------------------------------------

    def chunk(self, chunk: StampedChunk, now: Now) -> Commands:
        """Take in a chunk of actions from any source."""
        self._update(now)
        gate, actions = safety.admit(self.gate, self.config.gate, self._inputs(now), chunk)
        if not actions:
            reason = gate.reason.removeprefix("refused: ")
            note = f"refused chunk {chunk.sequence} of {chunk.source} ({gate.refused[0]}): {reason}"
            self._notes.append(note)
            self._set(gate)
            return self._commands()
        self._frame = self.config.frames[chunk.frame]
        if self.stream.target is None:  # start where the robot is, so that the first target is no jump
            assert self.robot.pose is not None
            self._commanded = self.stream.anchor(self.robot.pose, self._motion_ns(now))
            self._sent = self.robot.pose
        self._schedule.add(replace(chunk, actions=actions))
        in_motion = self.gate.state is State.EXECUTING and self.stream.busy
        if self._schedule.ensemble and not self.blocking and in_motion:
            self._set(gate)  # the action under way is finished; the next one takes this chunk into account
        elif (action := self._schedule.next(now.node)) is None:
            self._set(safety.hold(gate, "the chunk predicts nothing for the present: it took too long"))
        else:
            self._begin(gate, action, now, fresh=True)
        return self._commands()

    def tick(self, now: Now) -> Commands:
        """Check clocks and permissions, and send the target's next step; to be called once a period."""
        self._update(now)
        self._send_due(now, CATCH_UP)
        self._continue(now)
        return self.check_goals(now)

    # ---- motion ----------------------------------------------------------------------------------

    def _begin(self, gate: Gate, action: Action, now: Now, fresh: bool = False) -> None:
        """Begin to execute an action. fresh: it is the first of a new chunk."""
        assert self.robot.pose is not None and self.stream.target is not None
        limits, at = self.config.gate.limits, self.stream.target
        opening, names = self._goals.opening_due(action[6], self.robot.opening, self._motion_ns(now))
        split = opening is not None and self.config.gripper_first and self.blocking and any(action[:6])
        if split:  # the gripper alone, then the motion with the gripper as it is then
            self._schedule.put_back(action)
            action = (0.0,) * 6 + (action[6],)
        # Deltas add up on what was commanded. In streaming control a new chunk starts from the present target, since
        # its observation was made before the previous action was finished.
        base = at.pose if self._commanded is None or (fresh and not self.blocking) else self._commanded
        base = limit_following_error(base, self.robot.pose, *self.config.max_following_error)
        asked = compose(base, action, *self._frame)
        goal, cut = reachable(at.pose, asked, limits.zones, self.stream.margin)
        if cut and limits.on_limit == "refuse":
            where = [round(v, 3) for v in asked.position]
            self._refuse(gate, cut[0], f"the target {where} is outside the limits ({', '.join(cut)})", now)
            return
        try:
            duration = self.stream.go(goal, self._schedule.period)
        except TrajectoryError as error:
            self._refuse(gate, "trajectory", str(error), now)
            return
        self._commanded = goal
        if not split:
            self._schedule.begin()
        self._arrival = Arrival(goal, now.node, duration, opening)
        self._set(replace(gate, clipped=tuple(dict.fromkeys((*gate.clipped, *names, *cut)))))
        if opening is not None:
            self._goals.command_gripper(opening, self._motion_ns(now), now)
        self._send_due(now, 1)

    def _refuse(self, gate: Gate, name: str, reason: str, now: Now) -> None:
        """Refuse an action that cannot be executed: brake if in motion, and ask for another one."""
        self._schedule.drop()
        self._arrival = None
        self._notes.append(f"refused an action ({name}): {reason}")
        gate = safety.refuse(gate, self._inputs(now), name, reason)
        if not self.stream.busy and not self.stream.moving:
            self._set(replace(safety.ready(gate, now.node, gate.reason), refused=(name,)))
        else:
            self._set(safety.hold(gate, gate.reason))

    def _update_and_continue(self, now: Now) -> None:
        """As `_continue`, after a check of clocks and permissions."""
        if not self.stream.busy:
            self._update(now)
            self._continue(now)

    def _continue(self, now: Now) -> None:
        """Begin the next action, or become READY, as soon as the present one is executed."""
        if self._arrival is None or self.gate.state is not State.EXECUTING or self.stream.busy:
            return
        note = ""
        if self.blocking:
            done, note = self._arrival.done(self.config.arrival, now.node)
            if not done:
                return
        more = self._schedule.waiting or not self.blocking
        if more and (action := self._schedule.next(now.node)) is not None:
            self._begin(self.gate, action, now)
            return
        assert self.robot.seen is not None
        if self.blocking:
            self._arrival = None
            self._set(safety.executed(self.gate, self.robot.seen.stamp, note))
            return
        self._set(safety.streamed(self.gate))
        if self.stream.moving and self._commanded is not None:
            try:  # no further action is known: come to rest at the goal of this one
                self.stream.go(self._commanded, 0.0)
            except TrajectoryError as error:
                self._set(safety.hold(self.gate, str(error)))

    def _send_due(self, now: Now, most: int) -> None:
        """Send the targets that are due, at most `most`."""
        at_ns = self._motion_ns(now)
        self.stream.catch_up(at_ns, most)
        # (Checked again for each step: the end of a path may start the next one, which takes a step of its own.)
        while most > 0 and self.stream.due(at_ns):
            most -= 1
            if not self.stream.safe_ahead():
                clipped = tuple(dict.fromkeys((*self.gate.clipped, "way")))
                self._set(replace(safety.hold(self.gate, "the way ahead leaves the limits"), clipped=clipped))
                if self.stream.target is None:
                    return
            target, behind_ns = self.stream.step(at_ns)
            if target.pose != self._sent:  # a gripper that moves alone needs no targets
                self._sent, self._streaming = target.pose, True
                self._targets.append(TargetCommand(target.pose, max(0, now.node - behind_ns)))
            if not self.stream.busy:
                if self.stream.braking:
                    self._rest()
                    self._update(now)
                elif not self.blocking:
                    self._continue(now)

    def _brake(self) -> None:
        """Bring the target to rest, and drop the actions to come."""
        self._schedule.clear()
        self._arrival = None
        if self.stream.braking:
            return
        if reason := self.stream.brake():
            self._notes.append(f"the target stops at once: {reason}")
        if not self.stream.braking:
            self._rest()

    def _rest(self) -> None:
        """End the motion: the next one starts from the measured pose."""
        self._schedule.clear()
        self.stream.rest()
        self._displacement.reset()
        self._arrival = self._commanded = None

    def _restart(self, reason: str) -> None:
        """End the motion without braking: the target means nothing to the robot any more."""
        self._goals.clear_gripper()
        self._rest()
        self._set(safety.hold(self.gate, reason))

    def _displaced(self, pose: Pose) -> bool:
        """Whether an arm that is to stand at the newest target was moved away from it."""
        at = self.stream.target
        under_way = self.stream.busy or self.stream.moving or (self._arrival is not None and self.blocking)
        return self._displacement.displaced(pose, None if at is None or under_way else at.pose)

    def _motion_ns(self, now: Now) -> int:
        return now.node if self.config.simulated_time else now.steady

    # ---- the gate's state ------------------------------------------------------------------------

    def _inputs(self, now: Now) -> Inputs:
        tolerance, zones = self.config.tolerance, self.config.gate.limits.zones
        return Inputs(
            now=now,
            active=self.active,
            forbidden=self.permission.missing(self.config.permission, now) or self.robot_fault,
            state=self.robot.seen,
            outside="" if self.stream.target is not None else self.robot.outside(zones, *tolerance, 2 * MARGIN),
            stopping=self.stream.braking,
        )

    def _update(self, now: Now) -> None:
        """Let the gate check clocks and permissions."""
        self._set(safety.update(self.gate, self.config.gate, self._inputs(now)))

    def _set(self, gate: Gate) -> None:
        """Take over a new gate state, and brake if it asks for that."""
        before, self.gate = self.gate, gate
        self.counters.update(before, gate)
        if gate.state in STOPPED and before.state is not gate.state:
            if before.state is State.EXECUTING:
                self._notes.append(f"stopped: {gate.reason}")
            if before.state in (State.EXECUTING, State.READY):
                self._brake()

    def _updated(self, now: Now, *, accepted: bool = True, message: str = "") -> Commands:
        """The answer to an event after which clocks and permissions are to be checked."""
        self._update(now)
        return self._commands(accepted=accepted, message=message)

    def _commands(self, *, accepted: bool = True, message: str = "") -> Commands:
        """The answer to the present event."""
        executing = self.gate.state is State.EXECUTING
        ended = self._streaming and not executing and not self.stream.braking
        self._streaming = self._streaming and not ended
        # In blocking control not within an action: its motion may wait for the gripper (gripper_first).
        between_actions = not self.blocking or not executing
        self._goals.settle(stopped=self.gate.state in STOPPED, between_actions=between_actions)
        targets, self._targets = tuple(self._targets), []
        notes, self._notes = tuple(self._notes), []
        moving, braking = self._streaming and executing, self.stream.braking
        goals = self._goals.drain()
        return Commands(self.gate, braking, moving, targets, goals, ended, notes, accepted, message)
