"""The gate fails closed under any sequence of chunks, faults, permissions and clock steps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from openvla_policy.contract.action import StampedChunk
from openvla_ros.safety import gate as safety
from openvla_ros.safety.gate import Gate, GateConfig, Inputs, State
from openvla_ros.safety.limits import Limits
from openvla_ros.safety.permission import Permission, PermissionConfig
from openvla_ros.safety.watchdogs import Now, Seen, Watchdogs
from openvla_ros.safety.zones import Zones

NS = 1_000_000_000
LIMITS = Limits(Zones((0.2, -0.3, 0.0), (0.7, 0.3, 0.5)), max_translation=0.06, max_rotation=0.3)
WATCHDOGS = Watchdogs(observation=1.0, action=0.5, state=0.3, clock_jump=1.0, future=0.05)
CONFIG = GateConfig(LIMITS, WATCHDOGS, frames=("base",))
STREAMING = replace(CONFIG, mode="streaming")
STILL = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def at(ns: int) -> Now:
    return Now(ns, ns)


def fine(now: int, /, **changes) -> Inputs:
    return replace(Inputs(at(now), active=True, forbidden="", state=Seen(now, at(now))), **changes)


def chunk(now: int, sequence: int = 0, **changes) -> StampedChunk:
    return replace(StampedChunk((STILL,), "base", now, now, sequence, "policy", 0.2), **changes)


def ready(config: GateConfig = CONFIG, now: int = 10 * NS) -> Gate:
    gate = safety.update(Gate(), config, fine(now))
    assert gate.state is State.READY
    return gate


def test_the_gate_becomes_ready_when_every_check_passes():
    gate = safety.update(Gate(), CONFIG, Inputs(at(NS)))
    assert (gate.state, gate.reason) == (State.INACTIVE, "not active")
    gate = safety.update(gate, CONFIG, Inputs(at(NS), active=True))
    assert (gate.state, gate.reason) == (State.HOLD, "not enabled")
    gate = safety.update(gate, CONFIG, Inputs(at(NS), active=True, forbidden=""))
    assert (gate.state, gate.reason) == (State.HOLD, "no robot state yet")
    assert safety.update(gate, CONFIG, fine(NS)).state is State.READY


def test_blocking_handshake():
    now = 10 * NS
    gate, actions = safety.admit(ready(now=now), CONFIG, fine(now + 5), chunk(now + 5, 7))
    assert gate.state is State.EXECUTING and actions == (STILL,)
    gate = safety.executed(gate, now + 9)
    assert (gate.state, gate.ready_since_ns) == (State.READY, now + 9)
    assert (gate.executed_sequence, gate.executed_observation_ns) == (7, now + 5)
    # An image from before the end of the action shows an outdated scene.
    gate, actions = safety.admit(gate, CONFIG, fine(now + 20), chunk(now + 20, 8, observation_ns=now + 8))
    assert not actions and gate.refused == ("observation",) and gate.state is State.READY
    assert gate.ready_since_ns > now + 9, "a refusal asks for another chunk"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"actions": ()}, "length"),
        ({"actions": (STILL[:6],)}, "action"),
        ({"actions": (STILL, (math.nan, *STILL[1:]))}, "action"),
        ({"frame": "camera"}, "frame"),
        ({"source": "stranger"}, "source"),
        ({"period": 0.0}, "period"),
        ({"period": math.nan}, "period"),
        ({"stamp_ns": 9 * NS}, "action_age"),
        ({"observation_ns": 8 * NS}, "observation_age"),
        ({"observation_ns": 11 * NS}, "observation_age"),
        ({"stamp_ns": 12 * NS}, "action_age"),
    ],
)
def test_a_refused_chunk_names_the_failed_check(changes, name):
    now = 10 * NS
    gate, actions = safety.admit(ready(now=now), CONFIG, fine(now), chunk(now, **changes))
    assert not actions and gate.refused == (name,) and gate.refused_count == 1
    assert gate.state is State.READY and gate.reason.startswith("refused: ")


def test_a_chunk_without_actions_stops_its_source():
    now = 10 * NS
    for config in (CONFIG, STREAMING):
        moving, _ = safety.admit(ready(config), config, fine(now), chunk(now, 3))
        stopped, actions = safety.admit(moving, config, fine(now + 1), chunk(now + 1, 4, actions=()))
        assert (stopped.state, stopped.reason, actions) == (State.HOLD, "policy asked to stop", ())
        assert safety.update(stopped, config, fine(now + 2, stopping=True)).state is State.HOLD
        assert safety.update(stopped, config, fine(now + 2)).state is State.READY
        other, _ = safety.admit(moving, config, fine(now + 1), chunk(now + 1, 4, actions=(), source="expert"))
        assert other.state is State.EXECUTING


def test_a_repeated_or_older_chunk_is_refused():
    now = 10 * NS
    gate, _ = safety.admit(ready(STREAMING, now), STREAMING, fine(now), chunk(now, 3))
    for again in (chunk(now, 3), chunk(now - 1, 2)):
        refused, actions = safety.admit(gate, STREAMING, fine(now + 1), again)
        assert not actions and refused.refused == ("order",)


def test_clip_or_refuse():
    now, big = 10 * NS, (1.0, *STILL[1:])
    gate, actions = safety.admit(ready(), CONFIG, fine(now), chunk(now, actions=(big,)))
    assert gate.clipped == ("max_translation",) and actions[0][0] == pytest.approx(0.06)
    strict = replace(CONFIG, limits=replace(LIMITS, on_limit="refuse"))
    gate, actions = safety.admit(ready(strict), strict, fine(now), chunk(now, actions=(big,)))
    assert not actions and gate.refused == ("max_translation",)


@pytest.mark.parametrize(
    ("inputs", "state", "reason"),
    [
        ({"active": False}, State.INACTIVE, "not active"),
        ({"forbidden": "not enabled"}, State.HOLD, "not enabled"),
        ({"state": None}, State.HOLD, "no robot state yet"),
        ({"state": Seen(9 * NS, at(9 * NS))}, State.HOLD, "no fresh robot state: 1.10 s old, limit 0.3 s"),
        ({"state": Seen(9 * NS, at(10 * NS))}, State.HOLD, "no fresh robot state: 1.10 s old, limit 0.3 s"),
        ({"now": Now(9 * NS, 10 * NS)}, State.HOLD, "clock jumped -1.00 s"),
        ({"now": Now(14 * NS, 10 * NS)}, State.HOLD, "clock jumped +4.00 s"),
        ({"outside": "the robot stands outside"}, State.HOLD, "the robot stands outside"),
    ],
)
def test_a_lost_permission_stops_the_motion(inputs, state, reason):
    now = 10 * NS
    gate, _ = safety.admit(ready(), CONFIG, fine(now), chunk(now))
    assert gate.state is State.EXECUTING
    gate = safety.update(gate, CONFIG, fine(now + NS // 10, **({"state": Seen(now, at(now))} | inputs)))
    assert gate.state is state and gate.reason.startswith(reason)


def test_a_hold_lasts_until_the_target_has_come_to_rest():
    now = 10 * NS
    gate, _ = safety.admit(ready(), CONFIG, fine(now), chunk(now))
    gate = safety.hold(gate, "robot restarted")
    for inputs in (fine(now, stopping=True), fine(now + 1, stopping=True)):
        gate = safety.update(gate, CONFIG, inputs)
        assert (gate.state, gate.reason) == (State.HOLD, "robot restarted")
    assert safety.update(gate, CONFIG, fine(now + 2)).state is State.READY


def test_command_passes_to_another_source_after_a_stop():
    now = 10 * NS
    gate, actions = safety.admit(ready(STREAMING), STREAMING, fine(now), chunk(now))
    assert actions and gate.source == "policy", "the first source took command"
    stranger, actions = safety.admit(gate, STREAMING, fine(now + 1), chunk(now + 1, source="expert"))
    assert not actions and stranger.refused == ("source",) and "'policy' is" in stranger.reason
    assert stranger.state is State.EXECUTING, "and the motion continues"
    same, done, said = safety.switch_source(gate, STREAMING, "robbie")
    assert same is gate and not done and "allowed: policy, expert" in said
    gate, done, _ = safety.switch_source(gate, STREAMING, "expert")
    assert done and gate.state is State.HOLD and gate.source == "expert"
    gate = safety.update(gate, STREAMING, fine(now + 2))
    assert gate.state is State.READY
    _, actions = safety.admit(gate, STREAMING, fine(now + 3), chunk(now + 3, source="policy"))
    assert not actions
    # Stamps of the new source are not compared with those of the old one.
    gate, actions = safety.admit(gate, STREAMING, fine(now + 3), chunk(now - 5, source="expert"))
    assert actions and gate.state is State.EXECUTING
    with pytest.raises(ValueError, match="source 'robbie' is none of first, policy, expert"):
        replace(CONFIG, source="robbie")


def test_chunks_of_other_sources_do_not_renew_ready():
    gate = ready()
    invited = gate.ready_since_ns
    gate, _ = safety.admit(gate, CONFIG, fine(10 * NS + 9), chunk(10 * NS + 9, source="stranger"))
    assert gate.ready_since_ns == invited


@pytest.mark.parametrize("mode", ["deadman", "joystick"])
def test_a_button_must_be_held_and_reported(mode):
    config = PermissionConfig(mode, timeout=0.5)
    on = replace(Permission(), switched_on=True)
    assert on.missing(PermissionConfig(), at(0)) == "" and Permission().missing(config, at(0)) == "not enabled"
    assert on.missing(config, at(0)) == f"no message of the {mode}'s button for 0.5 s"
    held = on.hold(True, at(0))
    assert held.missing(config, Now(99 * NS, NS // 2)) == "", "on the steady clock"
    assert "no message" in held.missing(config, Now(0, NS // 2 + 1))
    assert held.hold(False, at(1)).missing(config, at(1)) == f"the {mode}'s button is not held"


def test_a_silent_emergency_stop_holds_if_configured():
    config, on = PermissionConfig(e_stop_timeout=1.0), replace(Permission(), switched_on=True)
    assert "no message on e_stop" in on.missing(config, at(0))
    reported = replace(on, e_stop_at=at(0))
    assert reported.missing(config, at(NS)) == ""
    assert "is the emergency stop connected" in reported.missing(config, at(NS + 1))


def test_an_emergency_stop_latches_until_released_and_reset():
    now = 10 * NS
    gate, _ = safety.admit(ready(), CONFIG, fine(now), chunk(now))
    gate = safety.press_e_stop(gate, True)
    assert gate.state is State.ESTOP
    gate, said = safety.reset_e_stop(gate, "Ada", now)
    assert gate.state is State.ESTOP and "still pressed" in said
    gate = safety.update(safety.press_e_stop(gate, False), CONFIG, fine(now + 1))
    assert gate.state is State.ESTOP and "waiting for a reset" in gate.reason
    gate, actions = safety.admit(gate, CONFIG, fine(now + 2), chunk(now + 2, 1))
    assert not actions and gate.refused == ("state",)
    unnamed, said = safety.reset_e_stop(gate, "  ", now)
    assert unnamed is gate and "operator's name" in said
    gate = safety.begin(gate, CONFIG)
    assert safety.update(gate, CONFIG, fine(now + 3)).state is State.ESTOP, "it outlives a new activation"
    gate, said = safety.reset_e_stop(gate, " Ada  Lovelace ", now + 3)
    assert said == "emergency stop reset by Ada Lovelace"
    assert (gate.reset_by, gate.reset_ns) == ("Ada Lovelace", now + 3)
    assert safety.update(gate, CONFIG, fine(now + 4)).state is State.READY


def test_streaming_holds_without_chunks_and_resumes_with_one():
    now = 10 * NS
    gate, _ = safety.admit(ready(STREAMING), STREAMING, fine(now), chunk(now))
    gate = safety.update(gate, STREAMING, fine(now + NS // 4))
    assert gate.state is State.EXECUTING
    gate = safety.update(gate, STREAMING, fine(now + 6 * NS // 10))
    assert gate.state is State.HOLD and gate.reason.startswith("no fresh action")
    # Another fault comes and goes: afterwards the reason names what is still missing.
    gate = safety.update(gate, STREAMING, fine(now + 6 * NS // 10, forbidden="not enabled"))
    assert gate.reason == "not enabled"
    gate = safety.update(gate, STREAMING, fine(now + 6 * NS // 10))
    assert gate.state is State.HOLD and gate.reason.startswith("no fresh action")
    back = now + 7 * NS // 10
    assert safety.update(gate, STREAMING, fine(back)).state is State.HOLD
    gate, actions = safety.admit(gate, STREAMING, fine(back), chunk(back, 1))
    assert gate.state is State.EXECUTING and actions


def test_new_chunks_of_an_old_observation_are_refused():
    now = 10 * NS
    gate, _ = safety.admit(ready(STREAMING), STREAMING, fine(now), chunk(now))
    for tenth in range(1, 14):
        at = now + tenth * NS // 10
        gate, _ = safety.admit(gate, STREAMING, fine(at), chunk(at, tenth, observation_ns=now))
    assert gate.state is State.HOLD and "observation" in gate.reason and gate.refused == ("observation_age",)


def test_blocking_reports_how_long_no_action_arrived():
    gate = safety.update(ready(), CONFIG, fine(10 * NS + NS // 2 + NS // 4))
    assert gate.state is State.READY and gate.reason == "holding: no action for 1 s"


class AnySequence(RuleBasedStateMachine):
    """Every order of events: EXECUTING only ever with every permission, outputs only ever within the limits."""

    @initialize(mode=st.sampled_from(["blocking", "streaming"]))
    def begin(self, mode):
        self.config = replace(CONFIG, mode=mode)
        self.gate, self.now, self.sequence = Gate(), 10 * NS, 0
        self.active = self.enabled = True
        self.state: Seen | None = None
        self.pressed = self.latched = False
        self.last_ready = 0

    def inputs(self) -> Inputs:
        return Inputs(at(self.now), self.active, "" if self.enabled else "not enabled", self.state)

    def update(self):
        self.gate = safety.update(self.gate, self.config, self.inputs())

    @rule(step=st.one_of(st.integers(0, NS // 5), st.integers(-3 * NS, 5 * NS)), seen=st.booleans())
    def time_passes(self, step, seen):
        before = self.now
        self.now = max(0, self.now + step)
        if seen:
            self.state = Seen(self.now, at(self.now))
        self.update()
        if self.now < before:
            assert self.gate.state is not State.EXECUTING, "the clock jumped"

    @rule(what=st.sampled_from(["active", "enabled"]), value=st.booleans())
    def permission(self, what, value):
        setattr(self, what, value)
        self.update()

    @rule(pressed=st.booleans())
    def e_stop(self, pressed):
        self.gate = safety.press_e_stop(self.gate, pressed)
        self.pressed, self.latched = pressed, self.latched or pressed

    @rule()
    def reset(self):
        self.gate, _ = safety.reset_e_stop(self.gate, "Ada", self.now)
        self.latched = self.latched and self.pressed

    @rule()
    def restart(self):
        self.gate = safety.hold(self.gate, "robot restarted")
        assert self.gate.state is not State.EXECUTING

    @rule()
    def arrived(self):
        self.gate = safety.executed(self.gate, self.now)

    @rule(
        action=st.lists(st.floats(-10, 10) | st.sampled_from([math.nan, math.inf]), min_size=6, max_size=8),
        late=st.integers(-NS // 10, 2 * NS), seen=st.integers(-NS // 10, 3 * NS), older=st.booleans(),
        frame=st.sampled_from(["base", "base", "camera"]), source=st.sampled_from(["policy", "policy", "stranger"]),
    )  # fmt: skip
    def a_chunk(self, action, late, seen, older, frame, source):
        self.sequence += -1 if older else 1
        came = StampedChunk((tuple(action),), frame, self.now - late, self.now - seen, self.sequence, source, 0.2)
        count = self.gate.refused_count
        self.gate, actions = safety.admit(self.gate, self.config, self.inputs(), came)
        assert bool(actions) == (self.gate.refused_count == count)
        if not actions:
            assert self.gate.refused and self.gate.reason
            return
        assert self.gate.state is State.EXECUTING
        assert self.active and self.enabled and not self.latched
        assert frame == "base" and source == "policy"
        assert late <= 0.5 * NS and seen <= NS
        assert self.state is not None and self.now - self.state.stamp <= 0.3 * NS
        for row in actions:
            assert all(map(math.isfinite, row)) and len(row) == 7
            assert math.hypot(*row[:3]) <= 0.06 + 1e-9 and max(map(abs, row[3:6])) <= 0.3 + 1e-9

    @invariant()
    def moving_means_permitted(self):
        if not hasattr(self, "gate"):
            return
        assert (self.gate.state is State.ESTOP) == self.gate.e_stop or not self.gate.e_stop
        if self.latched:
            assert self.gate.state is State.ESTOP
        if self.gate.state in (State.HOLD, State.ESTOP, State.INACTIVE):
            assert self.gate.reason, "a hold says why"
        now = safety.update(self.gate, self.config, self.inputs())
        if now.state is State.EXECUTING:
            assert self.active and self.enabled and not self.latched
            assert self.state is not None and self.now - self.state.stamp <= 0.3 * NS

    @invariant()
    def ready_since_never_decreases(self):
        if hasattr(self, "gate"):
            assert self.gate.ready_since_ns >= self.last_ready
            self.last_ready = self.gate.ready_since_ns


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=200, stateful_step_count=40)
