"""The safety gate: a fail-closed state machine between the chunks of a policy and the motion of a robot.

Pure: a `Gate` is a value, and every function returns a new one. Motion is allowed in EXECUTING only, and EXECUTING is
entered only by `admit`, which checks every permission and every limit again. Times are in nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from openvla_policy.contract.action import Actions, StampedChunk
from openvla_ros.safety.limits import Limits, limit_action, malformed
from openvla_ros.safety.watchdogs import Now, Seen, Watchdogs, clock_jumped, stale

MODES = ("blocking", "streaming")
SHORTEST, LONGEST = 0.001, 60.0  # [s] range of the period between two actions
MAX_PLAN = 20.0  # [s] longest time from a chunk's one observation to its last action
FIRST = "first"  # the source of the first accepted chunk takes command


class State(IntEnum):
    """The same numbers as openvla_msgs/SafetyState."""

    INACTIVE = 0
    HOLD = 1
    READY = 2
    EXECUTING = 3
    ESTOP = 4


@dataclass(frozen=True)
class GateConfig:
    """What the gate enforces."""

    limits: Limits
    watchdogs: Watchdogs
    mode: str = "blocking"
    sources: tuple[str, ...] = ("policy", "expert")  # names that may be in command, one at a time
    source: str = FIRST  # in command at the start
    frames: tuple[str, ...] = ("base",)  # frames that deltas may be expressed in
    max_actions: int = 64  # [1] of a chunk

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ValueError: The control mode or the source is unknown, or a source has no name.
        """
        if self.mode not in MODES:
            raise ValueError(f"control mode '{self.mode}' is unknown; choices: {', '.join(MODES)}")
        if not self.sources or not all(name.strip() and name != FIRST for name in self.sources):
            raise ValueError(f"sources {list(self.sources)}: give each source a name (not '{FIRST}')")
        if self.source not in (FIRST, *self.sources):
            raise ValueError(f"source '{self.source}' is none of {', '.join((FIRST, *self.sources))}")


@dataclass(frozen=True)
class Inputs:
    """What the gate checks each time: clocks, permissions and the newest state of the robot."""

    now: Now
    active: bool = False
    forbidden: str = "not enabled"  # why motion is not permitted; '' if it is
    state: Seen | None = None  # newest measured pose
    outside: str = ""  # why motion may not begin at the measured pose; '' if it may
    stopping: bool = False  # the target is being brought to rest


@dataclass(frozen=True)
class Gate:
    """State of the gate, with everything that safety/state reports."""

    state: State = State.INACTIVE
    reason: str = "not active"
    e_stop: bool = False  # latched: set by a press, opened by `reset_e_stop` after the release
    e_stop_pressed: bool = False
    clipped: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    refused_count: int = 0
    ready_since_ns: int = 0
    executed_observation_ns: int = 0
    executed_sequence: int = 0
    newest: StampedChunk | None = None  # the newest accepted chunk
    newest_at: Now | None = None  # when it was accepted
    clock: Now | None = None  # at the last update
    source: str = ""  # in command; '' until the first chunk is accepted
    reset_by: str = ""  # operator who reset the emergency stop last
    reset_ns: int = 0  # time of that reset [ns, node clock]


def begin(gate: Gate, config: GateConfig) -> Gate:
    """A gate for a new activation. The emergency stop and its last reset are kept."""
    return Gate(
        e_stop=gate.e_stop,
        e_stop_pressed=gate.e_stop_pressed,
        reset_by=gate.reset_by,
        reset_ns=gate.reset_ns,
        source="" if config.source == FIRST else config.source,
    )


def update(gate: Gate, config: GateConfig, inputs: Inputs) -> Gate:
    """Check the clocks and the permissions; to be called at least at the restream rate.

    EXECUTING ends as soon as one check fails. A gate that has stopped returns to READY, never to EXECUTING.

    Args:
        gate: State of the gate.
        config: What it enforces.
        inputs: Clocks, permissions and the robot's state.

    Returns:
        The new state.
    """
    jump = clock_jumped(gate.clock, inputs.now, config.watchdogs.clock_jump)
    gate = replace(gate, clock=inputs.now)
    state, why = _blocked(gate, config, inputs, jump)
    if state is not None:
        return replace(gate, state=state, reason=why)
    if gate.state in (State.INACTIVE, State.HOLD, State.ESTOP):
        if inputs.stopping:
            reason = gate.reason if gate.state is State.HOLD else "the target is still being stopped"
            return replace(gate, state=State.HOLD, reason=reason)
        if why := _chunk_stale(gate, config, inputs):  # only a new chunk ends this hold
            known = gate.state is State.HOLD and gate.reason.split(":")[0] == why.split(":")[0]
            return replace(gate, state=State.HOLD, reason=gate.reason if known else why)
        return ready(gate, inputs.state.stamp if inputs.state else inputs.now.node, "waiting for an action")
    if gate.state is State.EXECUTING and config.mode == "streaming":
        why = _chunk_stale(gate, config, inputs)
        if why:
            return replace(gate, state=State.HOLD, reason=why)
    if gate.state is State.READY and config.mode == "blocking" and not gate.refused:
        since = (inputs.now.node - gate.ready_since_ns) / 1e9
        if since > config.watchdogs.action:
            return replace(gate, reason=f"holding: no action for {since:.0f} s")
    return gate


def _pressed(gate: Gate) -> str:
    return f"emergency stop {'pressed' if gate.e_stop_pressed else 'released, waiting for a reset'}"


def _blocked(gate: Gate, config: GateConfig, inputs: Inputs, jump: str) -> tuple[State | None, str]:
    if gate.e_stop:
        return State.ESTOP, _pressed(gate)
    if not inputs.active:
        return State.INACTIVE, "not active"
    if inputs.forbidden:
        return State.HOLD, inputs.forbidden
    if jump:
        return State.HOLD, jump
    limits = config.watchdogs
    old = stale("robot state", inputs.state, inputs.now, limits.state, limits.future)
    why = old or inputs.outside
    return (State.HOLD, why) if why else (None, "")


def _chunk_stale(gate: Gate, config: GateConfig, inputs: Inputs) -> str:
    """Streaming control: why the newest chunk is too old to continue with; '' otherwise."""
    if config.mode != "streaming" or gate.newest is None or gate.newest_at is None:
        return ""
    limits, arrived = config.watchdogs, gate.newest_at
    return stale("action", Seen(arrived.node, arrived), inputs.now, limits.action, limits.future) or stale(
        "observation", Seen(gate.newest.observation_ns, arrived), inputs.now, limits.observation, limits.future
    )


def ready(gate: Gate, since_ns: int, reason: str = "") -> Gate:
    """READY from `since_ns` on. `ready_since` always grows, so that each READY asks for a new action."""
    since_ns = max(since_ns, gate.ready_since_ns + 1)
    return replace(gate, state=State.READY, reason=reason, ready_since_ns=since_ns, refused=())


def admit(gate: Gate, config: GateConfig, inputs: Inputs, chunk: StampedChunk) -> tuple[Gate, Actions]:
    """Accept or refuse a chunk.

    Args:
        gate: State of the gate.
        config: What it enforces.
        inputs: Clocks, permissions and the robot's state.
        chunk: The chunk. Without actions it asks for a stop of what its source is doing.

    Returns:
        The new state, and the actions within the limits: EXECUTING if accepted, () if refused for the state's reason.
    """
    gate = update(gate, config, inputs)
    if not chunk.actions and chunk.source == gate.source and gate.state is State.EXECUTING:
        # The source in command asks to stop now, not at the end of its action.
        return replace(hold(gate, f"{chunk.source} asked to stop"), refused=("stop",)), ()
    refused = _refusal(gate, config, inputs, chunk)
    allowed: list[tuple[float, ...]] = []
    clipped: dict[str, None] = {}  # an ordered set
    if not refused:
        for action in chunk.actions:
            kept, names = limit_action(action, config.limits)
            allowed.append(kept)
            clipped.update(dict.fromkeys(names))
        if clipped and config.limits.on_limit == "refuse":
            refused = (next(iter(clipped)), f"the action is over {' and '.join(clipped)}")
    if refused:
        return refuse(gate, inputs, *refused), ()
    gate = replace(
        gate,
        state=State.EXECUTING,
        reason="",
        clipped=tuple(clipped),
        refused=(),
        newest=chunk,
        newest_at=inputs.now,
        source=chunk.source,
    )
    return gate, tuple(allowed)


def refuse(gate: Gate, inputs: Inputs, name: str, why: str) -> Gate:
    """Report a refused chunk, and ask for another one on a fresh image if the gate was READY.

    The chunk of a source that is not in command does not renew READY: it could keep the source in command from ever
    being in time.

    Args:
        gate: State of the gate.
        inputs: Clocks, permissions and the robot's state.
        name: Name of what refused it.
        why: The reason, in one line.

    Returns:
        The new state.
    """
    count = gate.refused_count + 1
    if gate.state is State.READY and name != "source":
        gate = ready(gate, inputs.now.node)
    if gate.state in (State.READY, State.EXECUTING):
        gate = replace(gate, reason=f"refused: {why}")
    return replace(gate, refused=(name,), refused_count=count)


def _refusal(gate: Gate, config: GateConfig, inputs: Inputs, chunk: StampedChunk) -> tuple[str, str] | None:
    """(name, reason) of the first check that a chunk fails; None if it passes all."""
    blocking, limits = config.mode == "blocking", config.watchdogs
    if gate.state in (State.INACTIVE, State.ESTOP):
        return "state", gate.reason
    if chunk.source not in config.sources:
        return "source", f"source '{chunk.source}' is not allowed to command; allowed: {', '.join(config.sources)}"
    if gate.source and chunk.source != gate.source:
        return "source", f"source '{chunk.source}' is not in command, '{gate.source}' is"
    if gate.state is State.HOLD and (blocking or not _held_for_chunk(gate, config, inputs)):
        return "state", gate.reason
    if gate.state is State.EXECUTING and blocking:
        return "busy", f"chunk {chunk.sequence} arrived while another one is being executed"
    if chunk.frame not in config.frames:
        return "frame", f"frame '{chunk.frame}' is not one of {', '.join(config.frames)}"
    if not 1 <= len(chunk.actions) <= config.max_actions:
        return "length", f"chunk has {len(chunk.actions)} actions, not 1 … {config.max_actions}"
    if not SHORTEST <= chunk.period <= LONGEST:
        return "period", f"period is {chunk.period} s, not {SHORTEST} … {LONGEST:g} s"
    if (planned := (len(chunk.actions) - 1) * chunk.period) > MAX_PLAN:
        return "length", f"chunk plans {planned:g} s ahead of its image, limit {MAX_PLAN:g} s"
    for action in chunk.actions:
        if wrong := malformed(action):
            return "action", wrong
    newest = gate.newest
    if newest is not None and chunk.source == newest.source and chunk.stamp_ns <= newest.stamp_ns:
        return "order", f"chunk {chunk.sequence} is not newer than chunk {newest.sequence}"
    now = inputs.now
    if wrong := stale("observation", Seen(chunk.observation_ns, now), now, limits.observation, limits.future):
        return "observation_age", wrong
    if wrong := stale("action", Seen(chunk.stamp_ns, now), now, limits.action, limits.future):
        return "action_age", wrong
    if blocking and chunk.observation_ns < gate.ready_since_ns:
        early = (gate.ready_since_ns - chunk.observation_ns) / 1e9
        return "observation", f"the image was taken {early:.3f} s before the last action was executed"
    if newest is not None and not blocking and chunk.observation_ns < newest.observation_ns:
        return "observation", "the image is older than that of the previous chunk"
    return None


def _held_for_chunk(gate: Gate, config: GateConfig, inputs: Inputs) -> bool:
    """Whether the gate holds only because there is no fresh chunk, so that a new chunk ends the hold."""
    blocked = inputs.stopping or _blocked(gate, config, inputs, "")[1]
    return bool(_chunk_stale(gate, config, inputs)) and not blocked


def executed(gate: Gate, ready_ns: int, note: str = "") -> Gate:
    """The newest chunk is executed: READY again, for images stamped from `ready_ns` on."""
    if gate.state is not State.EXECUTING or gate.newest is None:
        return gate
    return ready(streamed(gate), ready_ns, note)


def streamed(gate: Gate) -> Gate:
    """Streaming control: all actions of the newest chunk are sent; the next chunk continues the motion."""
    if gate.newest is None:
        return gate
    return replace(gate, executed_observation_ns=gate.newest.observation_ns, executed_sequence=gate.newest.sequence)


def hold(gate: Gate, reason: str) -> Gate:
    """Stop now, for a reason outside the gate; `update` ends the hold."""
    return gate if gate.state in (State.INACTIVE, State.ESTOP) else replace(gate, state=State.HOLD, reason=reason)


def press_e_stop(gate: Gate, pressed: bool) -> Gate:
    """The emergency stop's button changed. A press latches; a release alone does not open the latch."""
    if pressed:
        return replace(gate, e_stop=True, e_stop_pressed=True, state=State.ESTOP, reason="emergency stop pressed")
    reason = "emergency stop released, waiting for a reset" if gate.e_stop else gate.reason
    return replace(gate, e_stop_pressed=False, reason=reason)


def latch_e_stop(gate: Gate) -> Gate:
    """An emergency stop from a service, which has no button to release: the state of the real button is unchanged."""
    return replace(gate, e_stop=True, state=State.ESTOP, reason=_pressed(gate))


def reset_e_stop(gate: Gate, operator: str, now_ns: int) -> tuple[Gate, str]:
    """The operator opens the latch; refused while the button is pressed.

    Args:
        gate: State of the gate.
        operator: Name of the operator.
        now_ns: Time on the node's clock [ns].

    Returns:
        The new state (the same object if nothing was reset), and what was done, in one line.
    """
    operator = " ".join(operator.split())
    if not operator:
        return gate, "an emergency stop is reset by name: give the operator's name"
    if not gate.e_stop:
        return gate, "the emergency stop was not set"
    if gate.e_stop_pressed:
        return gate, "the emergency stop is still pressed; release it first"
    message = f"emergency stop reset by {operator}"
    return replace(gate, e_stop=False, state=State.HOLD, reason=message, reset_by=operator, reset_ns=now_ns), message


def switch_source(gate: Gate, config: GateConfig, source: str) -> tuple[Gate, bool, str]:
    """Put another source in command, after a stop.

    Args:
        gate: State of the gate.
        config: What it enforces.
        source: Name of the source.

    Returns:
        The new state, whether `source` is in command now, and what was done, in one line.
    """
    if source not in config.sources:
        return gate, False, f"source '{source}' is not allowed to command; allowed: {', '.join(config.sources)}"
    if source == gate.source:
        return gate, True, f"'{source}' is in command already"
    message = f"command passes from '{gate.source or 'no source'}' to '{source}'"
    # The newest chunk is the other source's: chunks of the new one are not compared with it.
    return replace(hold(gate, message), source=source, newest=None, newest_at=None), True, message


def ages(gate: Gate, state: Seen | None, now: Now) -> dict[str, float]:
    """Age [s] of what the watchdogs check, by name, as far as there is any. state: the newest measured pose."""
    seen = {"state": state}
    if gate.newest is not None and gate.newest_at is not None:
        seen["action"] = Seen(gate.newest_at.node, gate.newest_at)
        seen["observation"] = Seen(gate.newest.observation_ns, gate.newest_at)
    return {name: one.age(now) for name, one in seen.items() if one is not None}
