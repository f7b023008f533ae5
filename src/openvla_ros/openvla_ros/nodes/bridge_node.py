"""Executes action chunks on a robot: newest chunk → schedule → safety gate → target pose → restream → adapter.

The node holds the clock, the topics and the newest measurements; every decision is made by the pure functions of
`openvla_ros.safety` and `openvla_ros.robots`. Targets are sent while the gate is EXECUTING, and at no other time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from openvla_msgs.msg import ActionChunk, SafetyState
from std_srvs.srv import SetBool, Trigger

from openvla_ros.nodes import messages
from openvla_ros.nodes.base import ManagedNode, main_of
from openvla_ros.nodes.bridge_parameters import PARAMETERS, arrival_config, gate_config
from openvla_ros.nodes.qos import COMMAND, LATCHED, SENSOR, STATE
from openvla_ros.robots import ADAPTERS
from openvla_ros.robots.adapter import Command
from openvla_ros.robots.motion import Arrival, plan
from openvla_ros.robots.target_pose import BASE, END_EFFECTOR, Pose, compose, distance, leash, towards
from openvla_ros.safety import gate as safety
from openvla_ros.safety.gate import Gate, Inputs, State
from openvla_ros.safety.limits import gripper_command, limit_position

STATE_JUMP = 0.05  # [m] smaller steps between two measured poses are never taken for a jump
HEARTBEAT = 0.1  # [s] safety/state is published at least this often


class BridgeNode(ManagedNode):
    """The bridge of one robot."""

    PARAMETERS = PARAMETERS

    def __init__(self) -> None:
        super().__init__("bridge_node")
        self._gate = Gate()
        self._forget()

    def _forget(self) -> None:
        self._measured: tuple[Pose, int] | None = None
        self._opening: float | None = None  # measured
        self._not_before_ns = 0  # measurements stamped earlier are from before the robot was restarted
        self._gripper: float | None = None  # commanded
        self._commanded: Pose | None = None  # where the last action was to end
        self._sent: Pose | None = None  # the newest target sent
        self._sent_ns = 0
        self._queue: deque[tuple[float, ...]] = deque()
        self._arrival: Arrival | None = None
        self._frame = BASE

    # ---- lifecycle -------------------------------------------------------------------------------

    def configure(self) -> None:  # noqa: D102
        self._config = gate_config(self.value)
        self._arriving = arrival_config(self.value)
        self._base_frame = self.value("base_frame")
        self._deltas = {self._base_frame: BASE, self.value("end_effector_frame"): END_EFFECTOR}
        self._adapter = ADAPTERS[self.value("robot")](self._base_frame)
        self._period = 1.0 / self.value("restream_rate")
        self._leash = (self.value("leash.translation"), self.value("leash.rotation"))
        self._max_state_speed, self._profile = self.value("max_state_speed"), self.value("profile")
        self._actions_per_chunk = self.value("actions_per_chunk")
        self._gripper_first = self.value("gripper.first") and self._config.mode == "blocking"
        self._gate = replace(Gate(), e_stop=self._gate.e_stop, e_stop_pressed=self._gate.e_stop_pressed)
        self._forget()
        self._commands = {
            topic: self.publisher(messages.MESSAGE_OF[kind], topic, COMMAND) for topic, kind in self._adapter.topics
        }
        self._safety = self.publisher(SafetyState, "safety/state", LATCHED)
        self.subscribe(messages.PoseStamped, "robot/ee_pose", self._on_pose, SENSOR)
        self.subscribe(messages.JointState, "gripper/state", self._on_gripper, SENSOR)
        self.subscribe(messages.Header, "robot/restarted", self._on_restarted, STATE)
        self.subscribe(messages.Bool, "e_stop", self._on_e_stop, STATE)
        self.subscribe(ActionChunk, "policy/action_chunk", self._on_chunk, STATE)
        self.serve(SetBool, "~/enable", self._on_enable)
        self.serve(Trigger, "~/reset_e_stop", self._on_reset_e_stop)
        self.timer(self._period, self._tick)
        self.timer(HEARTBEAT, self._beat, steady=True)
        self._set(safety.update(self._gate, self._config, self._inputs()))

    def activate(self) -> None:  # noqa: D102
        self._commanded = self._gripper = None
        self._gate = replace(self._gate, clock_ns=None)  # time spent inactive is no jump
        self.active = True
        self._set(safety.update(self._gate, self._config, self._inputs()))

    def deactivate(self) -> None:  # noqa: D102
        self._set(safety.update(self._gate, self._config, self._inputs()))

    def diagnose(self) -> tuple[bool, str, dict[str, object]]:  # noqa: D102
        gate = self._gate
        fine = not self.fault and gate.state not in (State.HOLD, State.ESTOP)
        values = {"refused": gate.refused_count, "clipped": ", ".join(gate.clipped), "executed": gate.executed_sequence}
        return fine, self.fault or f"{gate.state.name}: {gate.reason}", values

    # ---- what the robot and the operator say -----------------------------------------------------

    def _on_pose(self, message: messages.PoseStamped) -> None:
        try:
            pose, stamp_ns = messages.read_pose(message)
        except ValueError as error:
            self.get_logger().error(f"robot/ee_pose: {error}", throttle_duration_sec=1.0)
            return  # and the state grows stale, which holds
        before = self._measured
        if stamp_ns < self._not_before_ns or (before is not None and stamp_ns <= before[1]):
            return
        self._measured = (pose, stamp_ns)
        if before is not None and (jump := distance(before[0], pose)) > STATE_JUMP:
            elapsed = (stamp_ns - before[1]) * 1e-9
            if jump > self._max_state_speed * elapsed:
                self._restart(f"robot state jumped {jump:.3f} m in {elapsed:.3f} s: the robot was moved or restarted")
        if self._arrival is not None:
            self._arrival = self._arrival.seen(self._arriving, pose, stamp_ns)
            self._check_arrival()

    def _on_gripper(self, message: messages.JointState) -> None:
        try:
            opening, stamp_ns = messages.read_gripper(message)
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            return
        self._opening = opening
        if self._arrival is not None:
            self._arrival = self._arrival.gripper_seen(self._arriving, opening, stamp_ns)
            self._check_arrival()

    def _on_restarted(self, message: messages.Header) -> None:
        """The robot's controller was restarted or its scene reset: its set-point is the measured pose now."""
        self._not_before_ns = messages.stamp_ns(message.stamp)
        self._measured = None
        self._restart("robot restarted")

    def _restart(self, reason: str) -> None:
        self._gripper = None
        self._set(safety.hold(self._gate, reason))

    def _on_e_stop(self, message: messages.Bool) -> None:
        self._set(safety.press_e_stop(self._gate, bool(message.data)))

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        from rclpy.parameter import Parameter

        self.set_parameters([Parameter("enabled", value=bool(request.data))])
        self._set(safety.update(self._gate, self._config, self._inputs()))
        response.success, response.message = True, f"{self._gate.state.name}: {self._gate.reason}"
        return response

    def _on_reset_e_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        gate, response.message = safety.reset_e_stop(self._gate)
        response.success = not gate.e_stop
        self._set(gate)
        return response

    # ---- actions ---------------------------------------------------------------------------------

    def _on_chunk(self, message: ActionChunk) -> None:
        chunk, inputs = messages.read_chunk(message), self._inputs()
        self._set(safety.update(self._gate, self._config, inputs))
        gate, actions = safety.admit(self._gate, self._config, inputs, chunk)
        if not actions:
            name, reason = gate.refused[0], gate.reason.removeprefix("refused: ")
            self.get_logger().warning(f"refused {chunk.source}'s chunk {chunk.sequence} ({name}): {reason}")
            self._set(gate)
            return
        self._frame = self._deltas[chunk.frame]
        self._queue = deque(actions[: self._actions_per_chunk or None])
        self._chunk_period = chunk.period
        if self._commanded is None:  # streaming came back from a hold
            self._anchor()
        self._start(gate, self._queue.popleft())

    def _start(self, gate: Gate, action: tuple[float, ...]) -> None:
        """Put one action on its way."""
        assert self._measured is not None and self._commanded is not None and self._sent is not None
        now_ns, limits = self.now_ns(), self._config.limits
        # Blocking: the deltas add up on what was commanded. Streaming: on where the target is by now, since the
        # image that asked for this delta was taken before the one before it was finished.
        if distance(self._sent, self._measured[0]) > self._leash[0]:
            self._sent = self._measured[0]  # the arm was blocked, or its controller refused: start from where it is
        present = self._gripper if self._gripper is not None else self._opening
        wanted = gripper_command(action[6], 1.0 if present is None else present, limits)
        turned = self._gripper is None or wanted != self._gripper
        if turned and self._gripper_first and any(action[:6]):
            # In two: the hand alone, then, with the hand as it is then, the motion.
            self._queue.appendleft(action)
            action = (0.0,) * 6 + (action[6],)
        base = self._commanded if self._config.mode == "blocking" else self._sent
        goal = compose(leash(base, self._measured[0], *self._leash), action, self._frame)
        position, outside = limit_position(goal.position, limits)
        if outside and limits.on_limit == "refuse":
            why = f"the target {[round(v, 3) for v in goal.position]} is outside the workspace ({', '.join(outside)})"
            self._drop()
            self._set(safety.refuse(safety.ready(gate, now_ns), self._inputs(), outside[0], why))
            return
        self._commanded, self._gripper = Pose(position, goal.quaternion), wanted
        motion = plan(
            self._sent, self._commanded, now_ns, self._chunk_period, limits.max_speed, limits.max_turn, self._profile
        )
        self._arrival = Arrival(motion, wanted if turned else None)
        self._set(replace(gate, clipped=tuple(dict.fromkeys((*gate.clipped, *outside)))))
        if turned:
            self._send(self._adapter.gripper(wanted))

    def _check_arrival(self) -> None:
        """Go on to the next action, or say READY, as soon as this one is executed."""
        if self._arrival is None or self._gate.state is not State.EXECUTING or self._measured is None:
            return
        now_ns, note = self.now_ns(), ""
        if self._config.mode == "streaming":
            if not self._arrival.motion.over(now_ns):
                return
        else:
            over, note = self._arrival.done(self._arriving, now_ns)
            if not over or self._sent != self._arrival.motion.goal:
                return
        if self._queue:
            self._start(self._gate, self._queue.popleft())
        elif self._config.mode == "streaming":
            self._set(safety.streamed(self._gate))
        else:
            self._arrival = None
            self._set(safety.executed(self._gate, self._measured[1], note))

    # ---- at the controller's rate ----------------------------------------------------------------

    def _tick(self) -> None:
        if not self.active:
            return
        self._set(safety.update(self._gate, self._config, self._inputs()))
        if self._gate.state is not State.EXECUTING or self._arrival is None or self._sent is None:
            return
        now_ns, limits = self.now_ns(), self._config.limits
        # The last word on speed: whatever the plan says, and however late this tick is, the target moves no faster.
        step = min((now_ns - self._sent_ns) * 1e-9, 2 * self._period)
        wanted = self._arrival.motion.at(now_ns)
        if wanted != self._sent:
            self._sent, _ = towards(self._sent, wanted, limits.max_speed * step, limits.max_turn * step)
            self._send(self._adapter.target(self._sent, now_ns))
        self._sent_ns = now_ns
        self._check_arrival()

    def _send(self, commands: Sequence[tuple[str, Command]]) -> None:
        for topic, command in commands:
            self._commands[topic].publish(messages.command_message(command))

    def _beat(self) -> None:
        self._set(safety.update(self._gate, self._config, self._inputs()))
        self._publish()

    # ---- the gate's state ------------------------------------------------------------------------

    def _inputs(self) -> Inputs:
        return Inputs(
            now_ns=self.now_ns(),
            active=self.active,
            enabled=self.value("enabled"),
            state_ns=self._measured[1] if self._measured else None,
        )

    def _set(self, gate: Gate) -> None:
        """Take over a new gate state, do what its change asks for, and publish it when anything visible changed."""
        before, self._gate = self._gate, gate
        if gate.state is State.READY and before.state not in (State.READY, State.EXECUTING):
            self._drop()
            self._anchor()
        elif gate.state in (State.HOLD, State.ESTOP, State.INACTIVE) and before.state is not gate.state:
            self._drop()
            if before.state is State.EXECUTING and not self.closing:
                self.get_logger().warning(f"stopped: {gate.reason}")
        if replace(gate, clock_ns=None, newest_ns=None) != replace(before, clock_ns=None, newest_ns=None):
            self._publish()

    def _drop(self) -> None:
        """Forget the motion in play: the next one starts from the measured pose."""
        self._queue.clear()
        self._arrival = self._commanded = None

    def _anchor(self) -> None:
        """Start anew from where the robot is, so that the first target is no jump."""
        if self._measured is not None:
            self._commanded = self._sent = self._measured[0]
            self._sent_ns = self.now_ns()

    def _publish(self) -> None:
        at_ns = self.now_ns()
        self._safety.publish(messages.safety_message(self._gate, self._config.mode, self._base_frame, at_ns))


def main() -> None:
    """Entry point."""
    main_of(BridgeNode)


if __name__ == "__main__":
    main()
