"""The safety gate: a fail-closed state machine between a policy's chunks and a robot's motion.

Pure: a `Gate` is a value, every function returns a new one. Motion is allowed in EXECUTING only, and EXECUTING is
entered only by `admit`, which asks every permission and every limit anew. Times are in nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from openvla_ros.safety.limits import Limits, limit_action, malformed
from openvla_ros.safety.watchdogs import Now, Seen, Watchdogs, clock_jumped, stale

MODES = ("blocking", "streaming")
SHORTEST, LONGEST = 0.001, 60.0  # [s] periods between two actions that make sense
MAX_PLAN = 20.0  # [s] of actions in a chunk: nobody has looked since its one image
FIRST = "first"  # the source whose chunk is the first to be accepted


class State(IntEnum):
    """The same numbers as openvla_msgs/SafetyState."""

    INACTIVE = 0
    HOLD = 1
    READY = 2
    EXECUTING = 3
    ESTOP = 4


@dataclass(frozen=True)
class Chunk:
    """One or more actions of a source, and the image they answer. Rows: 3 m, 3 rad, gripper 0 … 1."""

    actions: tuple[tuple[float, ...], ...]
    frame: str
    stamp_ns: int
    observation_ns: int
    sequence: int
    source: str
    period: float


@dataclass(frozen=True)
class GateConfig:
    """What the gate enforces."""

    limits: Limits
    watchdogs: Watchdogs
    mode: str = "blocking"
    sources: tuple[str, ...] = ("policy", "expert")  # who may be in command, one at a time
    source: str = FIRST  # who is at the start
    frames: tuple[str, ...] = ("base",)  # frames that deltas may be expressed in
    max_actions: int = 64  # [1] a chunk's length

    def __post_init__(self) -> None:
        """An unknown mode is refused when the configuration is made."""
        if self.mode not in MODES:
            raise ValueError(f"control mode '{self.mode}' is unknown; choices: {', '.join(MODES)}")
        if not self.sources or not all(name.strip() and name != FIRST for name in self.sources):
            raise ValueError(f"sources {list(self.sources)}: give each source that may command a name (not '{FIRST}')")
        if self.source not in (FIRST, *self.sources):
            raise ValueError(f"source '{self.source}' is none of {', '.join((FIRST, *self.sources))}")


@dataclass(frozen=True)
class Inputs:
    """What the gate looks at each time: the clocks, the permissions, the newest of what the robot said."""

    now: Now
    active: bool = False
    forbidden: str = "not enabled"  # why the operator does not permit motion; '' when he does
    state: Seen | None = None  # newest measured pose
    outside: str = ""  # why motion may not begin at the measured pose; '' when it may
    stopping: bool = False  # the target has not come to rest yet


@dataclass(frozen=True)
class Gate:
    """The gate's state, with everything that safety/state says."""

    state: State = State.INACTIVE
    reason: str = "not active"
    e_stop: bool = False  # latched by a press, opened by `reset_e_stop` once released
    e_stop_pressed: bool = False
    clipped: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    refused_count: int = 0
    ready_since_ns: int = 0
    executed_observation_ns: int = 0
    executed_sequence: int = 0
    newest: Chunk | None = None  # the newest accepted chunk
    newest_at: Now | None = None  # when it was accepted
    clock: Now | None = None  # the last look at the clocks
    source: str = ""  # who is in command; '' until the first accepted chunk says so
    reset_by: str = ""  # who opened the emergency stop last,
    reset_ns: int = 0  # and when [node clock]


def begin(gate: Gate, config: GateConfig) -> Gate:
    """A gate for a new activation. The emergency stop and who reset it are remembered."""
    return Gate(
        e_stop=gate.e_stop,
        e_stop_pressed=gate.e_stop_pressed,
        reset_by=gate.reset_by,
        reset_ns=gate.reset_ns,
        source="" if config.source == FIRST else config.source,
    )


def update(gate: Gate, config: GateConfig, inputs: Inputs) -> Gate:
    """Look at the clocks and the permissions; called at least at the restream rate.

    Leaves EXECUTING as soon as one thing is not in order. Comes back to READY, never to EXECUTING.
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
        if why := _silent(gate, config, inputs):  # streaming went quiet: only a new chunk ends this hold
            known = gate.state is State.HOLD and gate.reason.split(":")[0] == why.split(":")[0]
            return replace(gate, state=State.HOLD, reason=gate.reason if known else why)
        return ready(gate, inputs.state.stamp if inputs.state else inputs.now.node, "waiting for an action")
    if gate.state is State.EXECUTING and config.mode == "streaming":
        why = _silent(gate, config, inputs)
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
    dogs = config.watchdogs
    old = stale("robot state", inputs.state, inputs.now, dogs.state, dogs.future)
    why = old or inputs.outside
    return (State.HOLD, why) if why else (None, "")


def _silent(gate: Gate, config: GateConfig, inputs: Inputs) -> str:
    """Streaming only: why the chunk in play is too old to go on with."""
    if config.mode != "streaming" or gate.newest is None or gate.newest_at is None:
        return ""
    dogs, came = config.watchdogs, gate.newest_at
    return stale("action", Seen(came.node, came), inputs.now, dogs.action, dogs.future) or stale(
        "observation", Seen(gate.newest.observation_ns, came), inputs.now, dogs.observation, dogs.future
    )


def ready(gate: Gate, since_ns: int, reason: str = "") -> Gate:
    """READY from `since_ns` on. `ready_since` always grows, so that each READY is a new invitation."""
    since_ns = max(since_ns, gate.ready_since_ns + 1)
    return replace(gate, state=State.READY, reason=reason, ready_since_ns=since_ns, refused=())


def admit(gate: Gate, config: GateConfig, inputs: Inputs, chunk: Chunk) -> tuple[Gate, tuple[tuple[float, ...], ...]]:
    """Judge a chunk. Accepted: EXECUTING, and the actions within the limits. Refused: (), and why is in the gate."""
    gate = update(gate, config, inputs)
    if not chunk.actions and chunk.source == gate.source and gate.state is State.EXECUTING:
        # Whoever commands wants to stop now, not at the end of what is under way.
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
    """A chunk was refused: say so, and invite another one on a fresh image if the gate was READY.

    A stranger's chunk changes no invitation: else it could keep the source in command from ever being in time.
    """
    count = gate.refused_count + 1
    if gate.state is State.READY and name != "source":
        gate = ready(gate, inputs.now.node)
    if gate.state in (State.READY, State.EXECUTING):
        gate = replace(gate, reason=f"refused: {why}")
    return replace(gate, refused=(name,), refused_count=count)


def _refusal(gate: Gate, config: GateConfig, inputs: Inputs, chunk: Chunk) -> tuple[str, str] | None:
    """(name, reason) of the first thing wrong with a chunk; None when nothing is."""
    blocking, dogs = config.mode == "blocking", config.watchdogs
    if gate.state in (State.INACTIVE, State.ESTOP):
        return "state", gate.reason
    if chunk.source not in config.sources:
        return "source", f"source '{chunk.source}' may not command; allowed: {', '.join(config.sources)}"
    if gate.source and chunk.source != gate.source:
        return "source", f"source '{chunk.source}' is not in command, '{gate.source}' is"
    if gate.state is State.HOLD and (blocking or not _quiet_only(gate, config, inputs)):
        return "state", gate.reason
    if gate.state is State.EXECUTING and blocking:
        return "busy", f"chunk {chunk.sequence} came while another one is being executed"
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
    if wrong := stale("observation", Seen(chunk.observation_ns, now), now, dogs.observation, dogs.future):
        return "observation_age", wrong
    if wrong := stale("action", Seen(chunk.stamp_ns, now), now, dogs.action, dogs.future):
        return "action_age", wrong
    if blocking and chunk.observation_ns < gate.ready_since_ns:
        early = (gate.ready_since_ns - chunk.observation_ns) / 1e9
        return "observation", f"the image is from {early:.3f} s before the last action was executed"
    if newest is not None and not blocking and chunk.observation_ns < newest.observation_ns:
        return "observation", "the image is older than that of the chunk before"
    return None


def _quiet_only(gate: Gate, config: GateConfig, inputs: Inputs) -> bool:
    """Whether a hold is only for want of a new chunk, so that a new chunk ends it."""
    return bool(_silent(gate, config, inputs)) and not inputs.stopping and not _blocked(gate, config, inputs, "")[1]


def executed(gate: Gate, ready_ns: int, note: str = "") -> Gate:
    """The newest chunk is executed to its end: READY again, for images stamped from `ready_ns` on."""
    if gate.state is not State.EXECUTING or gate.newest is None:
        return gate
    return ready(streamed(gate), ready_ns, note)


def streamed(gate: Gate) -> Gate:
    """Streaming: the newest chunk's actions are all sent; motion goes on as soon as the next chunk comes."""
    if gate.newest is None:
        return gate
    return replace(gate, executed_observation_ns=gate.newest.observation_ns, executed_sequence=gate.newest.sequence)


def hold(gate: Gate, reason: str) -> Gate:
    """Stop now, for a reason from outside; `update` decides when it is over."""
    return gate if gate.state in (State.INACTIVE, State.ESTOP) else replace(gate, state=State.HOLD, reason=reason)


def press_e_stop(gate: Gate, pressed: bool) -> Gate:
    """The emergency stop's button changed. A press latches; a release alone frees nothing."""
    if pressed:
        return replace(gate, e_stop=True, e_stop_pressed=True, state=State.ESTOP, reason="emergency stop pressed")
    reason = "emergency stop released, waiting for a reset" if gate.e_stop else gate.reason
    return replace(gate, e_stop_pressed=False, reason=reason)


def latch_e_stop(gate: Gate) -> Gate:
    """An emergency stop by word, which has no button to be released: it says nothing of the real one's."""
    return replace(gate, e_stop=True, state=State.ESTOP, reason=_pressed(gate))


def reset_e_stop(gate: Gate, operator: str, now_ns: int) -> tuple[Gate, str]:
    """The operator opens the latch, by name; refused while the button is still pressed. The gate and what was done."""
    operator = " ".join(operator.split())
    if not operator:
        return gate, "an emergency stop is reset by somebody: give the operator's name"
    if not gate.e_stop:
        return gate, "the emergency stop was not set"
    if gate.e_stop_pressed:
        return gate, "the emergency stop is still pressed; release it first"
    said = f"emergency stop reset by {operator}"
    return replace(gate, e_stop=False, state=State.HOLD, reason=said, reset_by=operator, reset_ns=now_ns), said


def switch_source(gate: Gate, config: GateConfig, source: str) -> tuple[Gate, bool, str]:
    """Put another source in command, stopping first. The gate, whether `source` commands now, and what was done."""
    if source not in config.sources:
        return gate, False, f"source '{source}' may not command; allowed: {', '.join(config.sources)}"
    if source == gate.source:
        return gate, True, f"'{source}' is in command already"
    said = f"command goes from '{gate.source or 'nobody'}' to '{source}'"
    # The chunk in play is the other's: what its successor sends is not compared with it.
    return replace(hold(gate, said), source=source, newest=None, newest_at=None), True, said
