"""The bridge without ROS: chunks, measurements and the operator's wishes in; targets and openings out.

Composes the gate (`safety`) and the motion (`robots`), which do not know each other. Holds everything that changes, so
that a test can put any sequence of events through it. Every method takes the present moment; nothing here looks at a
clock. Targets come out while the gate is EXECUTING and while a motion that was permitted is braking, at no other time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from openvla_ros.control.action_schedule import Schedule
from openvla_ros.control.bridge_config import CoreConfig
from openvla_ros.control.motion import Arrival
from openvla_ros.control.target_pose import BASE, compose, leash
from openvla_ros.control.target_stream import MARGIN, TargetStream
from openvla_ros.control.trajectory import StreamError
from openvla_ros.geometry import IDENTITY, Pose, Quaternion, angle, distance
from openvla_ros.safety import gate as safety
from openvla_ros.safety.gate import Chunk, Gate, Inputs, State
from openvla_ros.safety.gripper_limits import Hand
from openvla_ros.safety.permission import Permission
from openvla_ros.safety.robot_state import RobotState
from openvla_ros.safety.watchdogs import Now, Seen
from openvla_ros.safety.zones import reachable

CATCH_UP = 2  # steps of the target that a late tick makes up for; what is later still is only later


@dataclass(frozen=True)
class Output:
    """One thing to send: a target pose for the time `stamp_ns` [node clock], or a gripper opening 0 … 1."""

    pose: Pose | None
    opening: float | None
    stamp_ns: int


class BridgeCore:
    """The state of one bridge."""

    def __init__(self, config: CoreConfig, gate: Gate | None = None) -> None:
        """gate: an earlier one, whose emergency stop goes on."""
        self.config, self.active = config, False
        self.gate = safety.begin(gate or Gate(), config.gate)
        self.permission = Permission()
        self.robot_fault = ""  # why the robot itself does not move; '' = it does
        self.outputs: list[Output] = []
        self.notes: list[str] = []  # what a person should read in the log
        self.refused: Counter[str] = Counter()  # chunks since activation, by the name of what refused
        self.clipped: Counter[str] = Counter()  # or clipped them
        self.robot = RobotState()
        self._stream = TargetStream(config.gate.limits, config.period, config.gate.mode == "blocking")
        self._schedule = Schedule(config.actions_per_chunk, config.ensemble_decay, self.blocking)
        self._hand = Hand()  # as commanded; its time is the motion clock's
        self._commanded: Pose | None = None  # where the last action was to end
        self._sent: Pose | None = None  # the newest target sent
        self._frame: tuple[str, Quaternion] = (BASE, IDENTITY)
        self._arrival: Arrival | None = None
        self._stood: Pose | None = None  # where the arm was when it came to rest after an action

    def take(self) -> tuple[list[Output], list[str]]:
        """What is to be sent, in this order, and what is to be logged since the last call."""
        taken = self.outputs, self.notes
        self.outputs, self.notes = [], []
        return taken

    @property
    def stopping(self) -> bool:
        """Whether the target is being brought to rest."""
        return self._stream.braking

    @property
    def blocking(self) -> bool:
        """Whether an action is executed to its end before the next is asked for."""
        return self.config.gate.mode == "blocking"

    def ages(self, now: Now) -> dict[str, float]:
        """How old what the watchdogs look at is by now [s], as far as there is any."""
        found = {"state": self.robot.seen}
        if self.gate.newest is not None and self.gate.newest_at is not None:
            came = self.gate.newest_at
            found |= {"action": Seen(came.node, came), "observation": Seen(self.gate.newest.observation_ns, came)}
        return {name: seen.age(now) for name, seen in found.items() if seen is not None}

    # ---- lifecycle and operator ------------------------------------------------------------------

    def activate(self, now: Now) -> None:
        """Motion may begin once every other permission is there, too."""
        self.active, self._hand = True, self._hand.forget()
        self.robot = replace(self.robot, not_before_ns=0)
        self.refused.clear()
        self.clipped.clear()
        self._set(safety.begin(self.gate, self.config.gate), now)
        self.look(now)

    def deactivate(self, now: Now) -> None:
        """Brake and hold."""
        self.active = False
        self.look(now)

    def enable(self, on: bool, now: Now) -> None:
        """The operator's switch."""
        self.permission = replace(self.permission, switched_on=on)
        self.look(now)

    def hold_button(self, held: bool, now: Now) -> None:
        """The deadman's button, as reported."""
        self.permission = self.permission.hold(held, now)
        self.look(now)

    def e_stop(self, pressed: bool, now: Now) -> None:
        """The emergency stop's button, as reported."""
        self.permission = replace(self.permission, e_stop_at=now)
        self._set(safety.press_e_stop(self.gate, pressed), now)

    def e_stop_by_word(self, now: Now) -> None:
        """An emergency stop that comes from no button: it waits for nothing but the reset."""
        self._set(safety.latch_e_stop(self.gate), now)

    def reset_e_stop(self, operator: str, now: Now) -> tuple[bool, str]:
        """Open the latch; whether it is open, and what was done."""
        gate, said = safety.reset_e_stop(self.gate, operator, now.node)
        if gate is not self.gate:
            self.notes.append(said)
        self._set(gate, now)
        return bool(operator.split()) and not gate.e_stop, said

    def fault(self, reason: str, now: Now) -> None:
        """The robot says why it does not move, or '' that it does. What it was to do is forgotten."""
        if reason == self.robot_fault:
            return
        self.robot_fault = reason
        if reason:
            self._restart(reason, now)
        self.look(now)

    def forget_hand(self) -> None:
        """What the hand was told last did not reach it."""
        self._hand = self._hand.forget()

    def cut(self, names: tuple[str, ...], now: Now) -> None:
        """Limits of the robot's own (its joints) cut the newest target."""
        if new := tuple(name for name in names if name not in self.gate.clipped):
            self._set(replace(self.gate, clipped=(*self.gate.clipped, *new)), now)

    def switch_source(self, source: str, now: Now) -> tuple[bool, str]:
        """Put another source in command; whether it commands, and what was done."""
        gate, done, said = safety.switch_source(self.gate, self.config.gate, source)
        self._set(gate, now)
        return done, said

    # ---- robot -----------------------------------------------------------------------------------

    def pose_seen(self, pose: Pose, stamp_ns: int, now: Now) -> bool:
        """A measured pose; whether it was taken. Older ones than the newest are ignored."""
        robot, jumped = self.robot.pose_seen(pose, stamp_ns, now, self.config.max_state_speed)
        if robot is self.robot:
            return False
        self.robot = robot
        if jumped:
            self._restart(jumped, now)
        elif self._displaced(pose):
            moved = "the arm was moved while it stood"
            self.notes.append(f"{moved}: the next motion starts from where it is now")
            self._rest()
            self._set(safety.hold(self.gate, moved), now)
        if self._arrival is not None:
            self._arrival = self._arrival.seen(self.config.arrival, pose, stamp_ns)
            self._look_and_go_on(now)
        return True

    def _displaced(self, pose: Pose) -> bool:
        """Whether the arm has left the place where it came to rest, away from its target, by more than the leash.

        Somebody pushed it, or its controller let go of it: a motion that began at the old target would be a jump. An
        arm that an obstacle holds back stays where it is, or comes nearer, and is not meant.
        """
        at = self._stream.target
        under_way = self._arrival is not None and self.blocking
        if at is None or self._stream.busy or self._stream.moving or under_way:
            self._stood = None
            return False
        if self._stood is None:
            self._stood = pose
        far, turned = self.config.leash
        moved = distance(pose, at.pose) > distance(self._stood, at.pose) + far
        return moved or angle(pose, at.pose) > angle(self._stood, at.pose) + turned

    def gripper_seen(self, opening: float, stamp_ns: int, now: Now) -> None:
        """A measured gripper opening."""
        self.robot = replace(self.robot, opening=opening)
        if self._arrival is not None:
            self._arrival = self._arrival.gripper_seen(self.config.arrival, opening, stamp_ns)
            self._look_and_go_on(now)

    def restarted(self, stamp_ns: int, now: Now) -> None:
        """The robot's controller was restarted or its scene reset: its set-point is the measured pose now."""
        self.robot = self.robot.restarted(stamp_ns)
        self._restart("robot restarted", now)

    def _restart(self, reason: str, now: Now) -> None:
        self._hand = self._hand.forget()
        self._rest()  # nothing is left to brake: the old target means nothing to the robot any more
        self._set(safety.hold(self.gate, reason), now)

    # ---- actions ---------------------------------------------------------------------------------

    def chunk(self, chunk: Chunk, now: Now) -> None:
        """A chunk of actions, from whoever sends them."""
        self.look(now)
        gate, actions = safety.admit(self.gate, self.config.gate, self._inputs(now), chunk)
        if not actions:
            why = gate.reason.removeprefix("refused: ")
            self.notes.append(f"refused {chunk.source}'s chunk {chunk.sequence} ({gate.refused[0]}): {why}")
            self._set(gate, now)
            return
        self._frame = self.config.frames[chunk.frame]
        if self._stream.target is None:  # start anew from where the robot is, so that the first target is no jump
            assert self.robot.pose is not None
            self._commanded = self._stream.anchor(self.robot.pose, self._motion_ns(now))
            self._sent = self.robot.pose
        self._schedule.take(actions, chunk.period, chunk.observation_ns)
        if self._schedule.ensemble and not self.blocking and self.gate.state is State.EXECUTING and self._stream.busy:
            self._set(gate, now)
            return  # the action under way goes on; the next one hears of this chunk
        action = self._schedule.next(now.node)
        if action is None:
            self._set(safety.hold(gate, "the chunk predicts nothing for the present: it took too long"), now)
            return
        self._begin(gate, action, now, fresh=True)

    def _begin(self, gate: Gate, action: tuple[float, ...], now: Now, fresh: bool = False) -> None:
        """Put one action on its way. fresh: the first of a new chunk."""
        assert self.robot.pose is not None and self._stream.target is not None
        limits, at = self.config.gate.limits, self._stream.target
        told, names = self._hand.command(action[6], self.robot.opening, self._motion_ns(now), limits)
        split = told is not None and self.config.gripper_first and self.blocking and any(action[:6])
        if split:
            # In two: the hand alone, then, with the hand as it is then, the motion.
            self._schedule.put_back(action)
            action = (0.0,) * 6 + (action[6],)
        # The deltas add up on what was commanded. A new chunk in streaming: on where the target is by now, since the
        # image that asked for it was taken before the action before it was finished.
        base = at.pose if self._commanded is None or (fresh and not self.blocking) else self._commanded
        asked = compose(leash(base, self.robot.pose, *self.config.leash), action, *self._frame)
        goal, cut = reachable(at.pose, asked, limits.zones, self._stream.margin)
        if cut and limits.on_limit == "refuse":
            where = [round(v, 3) for v in asked.position]
            self._refuse(gate, cut[0], f"the target {where} is outside the limits ({', '.join(cut)})", now)
            return
        try:
            duration = self._stream.go(goal, self._schedule.period)
        except StreamError as error:
            self._refuse(gate, "trajectory", str(error), now)
            return
        self._commanded = goal
        if not split:
            self._schedule.begun()
        self._arrival = Arrival(goal, now.node, duration, told)
        self._set(replace(gate, clipped=tuple(dict.fromkeys((*gate.clipped, *names, *cut)))), now)
        if told is not None:
            self._hand = Hand(told, self._motion_ns(now))
            self.outputs.append(Output(None, told, now.node))
        self._send_due(now, 1)

    def _refuse(self, gate: Gate, name: str, why: str, now: Now) -> None:
        """An action turned out not to be executable: brake if it came in motion, and ask for another one."""
        self._schedule.drop()
        self._arrival = None
        self.notes.append(f"refused an action ({name}): {why}")
        gate = safety.refuse(gate, self._inputs(now), name, why)
        if not self._stream.busy and not self._stream.moving:
            self._set(replace(safety.ready(gate, now.node, gate.reason), refused=(name,)), now)
        else:
            self._set(safety.hold(gate, gate.reason), now)

    def _look_and_go_on(self, now: Now) -> None:
        """As `_go_on`, where it is not known that everything is still in order."""
        if not self._stream.busy:
            self.look(now)
            self._go_on(now)

    def _go_on(self, now: Now) -> None:
        """Go on to the next action, or say READY, as soon as this one is executed."""
        if self._arrival is None or self.gate.state is not State.EXECUTING or self._stream.busy:
            return
        note = ""
        if self.blocking:
            over, note = self._arrival.done(self.config.arrival, now.node)
            if not over:
                return
        more = self._schedule.waiting or not self.blocking
        if more and (action := self._schedule.next(now.node)) is not None:
            self._begin(self.gate, action, now)
            return
        assert self.robot.seen is not None
        if self.blocking:
            self._arrival = None
            self._set(safety.executed(self.gate, self.robot.seen.stamp, note), now)
            return
        self._set(safety.streamed(self.gate), now)
        if self._stream.moving and self._commanded is not None:
            try:  # nobody says how it goes on: to rest, where it was to go
                self._stream.go(self._commanded, 0.0)
            except StreamError as error:
                self._set(safety.hold(self.gate, str(error)), now)

    # ---- at the controller's rate ----------------------------------------------------------------

    def tick(self, now: Now) -> None:
        """Look at everything, and send the target's next step; called once a period."""
        self.look(now)
        self._send_due(now, CATCH_UP)
        self._go_on(now)

    def look(self, now: Now) -> None:
        """Let the gate look at clocks and permissions."""
        self._set(safety.update(self.gate, self.config.gate, self._inputs(now)), now)

    def _send_due(self, now: Now, most: int) -> None:
        """Send the targets that are due, at most so many."""
        at_ns = self._motion_ns(now)
        self._stream.catch_up(at_ns, most)
        # (Asked anew for each step: the end of a path may start the next one, which takes a step of its own.)
        while most > 0 and self._stream.due(at_ns):
            most -= 1
            if not self._stream.safe_ahead():
                clipped = tuple(dict.fromkeys((*self.gate.clipped, "way")))
                self._set(replace(safety.hold(self.gate, "the way ahead leaves the limits"), clipped=clipped), now)
                if self._stream.target is None:
                    return
            target, behind_ns = self._stream.step(at_ns)
            if target.pose != self._sent:  # a hand that moves alone needs no targets
                self._sent = target.pose
                self.outputs.append(Output(target.pose, None, max(0, now.node - behind_ns)))
            if not self._stream.busy:
                if self._stream.braking:
                    self._rest()
                    self.look(now)
                elif not self.blocking:
                    self._go_on(now)

    def _brake(self) -> None:
        """Bring the target to rest, and forget what was to come."""
        self._schedule.clear()
        self._arrival = None
        if self._stream.braking:
            return
        if why := self._stream.brake():
            self.notes.append(f"the target stops at once: {why}")
        if not self._stream.braking:
            self._rest()

    def _rest(self) -> None:
        """Forget the motion: the next one starts from the measured pose."""
        self._schedule.clear()
        self._stream.rest()
        self._arrival = self._commanded = self._stood = None

    def _motion_ns(self, now: Now) -> int:
        return now.node if self.config.simulated_time else now.steady

    # ---- the gate's state ------------------------------------------------------------------------

    def _inputs(self, now: Now) -> Inputs:
        return Inputs(
            now=now,
            active=self.active,
            forbidden=self.permission.missing(self.config.permission, now) or self.robot_fault,
            state=self.robot.seen,
            outside=self._outside() if self._stream.target is None else "",
            stopping=self._stream.braking,
        )

    def _outside(self) -> str:
        """Why motion may not begin where the robot is; '' when it may."""
        return self.robot.outside(self.config.gate.limits.zones, *self.config.tolerance, 2 * MARGIN)

    def _set(self, gate: Gate, now: Now) -> None:
        """Take over a new gate state, and do what its change asks for."""
        before, self.gate = self.gate, gate
        if gate.refused_count > before.refused_count:
            self.refused.update(gate.refused)
        if gate.clipped is not before.clipped:
            known = before.clipped if gate.newest is before.newest else ()
            self.clipped.update(name for name in gate.clipped if name not in known)
        if gate.state in (State.HOLD, State.ESTOP, State.INACTIVE) and before.state is not gate.state:
            if before.state is State.EXECUTING:
                self.notes.append(f"stopped: {gate.reason}")
            if before.state in (State.EXECUTING, State.READY):
                self._brake()
