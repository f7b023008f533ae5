"""Any sequence of chunks, gaps, faults, clock steps and operator requests, with every output judged."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import ClassVar

import pytest
from bridge_robot import CONFIG, DOWN, LIMITS, START, Bench
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from openvla_policy.contract.action import StampedChunk
from openvla_ros.control.bridge_config import CoreConfig
from openvla_ros.geometry import Bounds, Pose, distance
from openvla_ros.safety.gate import State
from openvla_ros.safety.permission import PermissionConfig
from openvla_ros.safety.watchdogs import NS
from openvla_ros.safety.zones import Cone, Zones

SAME = ("frame", "stamp_ns", "observation_ns", "sequence", "source", "period")
bad = st.sampled_from([math.nan, math.inf, -math.inf, 1e300])
value = st.one_of(st.floats(-0.1, 0.1), st.floats(-2.0, 2.0), st.just(0.0))
action = st.tuples(value, value, value, value, value, value, st.floats(-0.5, 1.5))
ways = st.lists(st.tuples(*[st.floats(-0.06, 0.06)] * 3, *[st.floats(-0.3, 0.3)] * 3), min_size=1, max_size=5)


def bounds(speeds):
    """Bounds from which a stop takes less than 0.4 s, of any shape."""
    return st.builds(lambda v, a, j: Bounds(v, a * v, j * a * v), speeds, st.floats(8.0, 40.0), st.floats(18.0, 60.0))


configs = st.builds(
    lambda mode, half, cone, move, turn, factor, scale, ensemble, first, count, period, simulated, over: CoreConfig(
        gate=replace(
            CONFIG.gate, mode=mode,
            limits=replace(
                LIMITS,
                zones=Zones((0.45 - half, -half, 0.25 - half), (0.45 + half, half, 0.25 + half),
                            LIMITS.zones.keep_out, cone),
                move=move, turn=turn, stop_factor=factor, scale=scale, stop_time=0.4, on_limit=over,
            ),
        ),
        permission=CONFIG.permission, max_state_speed=20.0, max_following_error=(0.08, 0.5), gripper_first=first,
        ensemble_decay=0.1 if ensemble else None, actions_per_chunk=0 if ensemble else count, period=period,
        simulated_time=simulated,
    ),
    st.sampled_from(["blocking", "streaming"]), st.floats(0.04, 0.3),
    st.sampled_from([Cone(), Cone(angle=0.3), Cone(angle=1.0, yaw_low=-0.5, yaw_high=0.7)]),
    bounds(st.floats(0.1, 1.0)), bounds(st.floats(0.5, 3.0)), st.floats(1.75, 4.0), st.floats(0.2, 1.0), st.booleans(),
    st.booleans(), st.integers(0, 2), st.sampled_from([0.02, 0.02, 0.01, 0.004]), st.booleans(),
    st.sampled_from(["clip", "clip", "refuse"]),
)  # fmt: skip


class AnyFault(RuleBasedStateMachine):
    """In any order of events, what comes out is permitted, within the limits, and stops in time."""

    ran: ClassVar[Counter[str]] = Counter()  # over all sequences

    @initialize(config=configs, deadman=st.booleans(), watched=st.booleans())
    def begin(self, config, deadman, watched):
        permission = PermissionConfig("deadman" if deadman else "switch", 0.3, 0.5 if watched else 0.0)
        self.bench = Bench(replace(config, permission=permission))
        self.deadman, self.held_at, self.held, self.repeats = deadman, -(10**12), False, True
        self.watched, self.reported_at, self.reporting = watched, -(10**12), True
        self.enabled = self.active = self.latched = self.pressed = self.faulty = False
        self.source = ""
        self.state_at, self.forbidden_ticks = -(10**12), 0
        self.newest = None  # of the newest accepted chunk: age of its observation then [s], steady clock [ns]
        self.reach = None  # blocking: where the arm was when a chunk was accepted, and how far it may go [m]
        self.stamps = {}  # the newest accepted stamp of each source
        self.bench.call("enable", True)
        self.bench.call("activate")
        self.enabled = self.active = True
        self.hold_button(True)
        self.ticks(3, 0.0)
        self.ran["sequences"] += 1

    def permitted(self) -> bool:
        """Whether the operator permits motion and the robot reports its state, by an independent account."""
        since = (self.bench.steady - self.state_at) / NS
        held = self.held and (self.bench.steady - self.held_at) / NS <= 0.3
        reported = (self.bench.steady - self.reported_at) / NS <= 0.5
        buttons = self.enabled and not self.latched and (held or not self.deadman) and (reported or not self.watched)
        return buttons and self.active and not self.faulty and since <= 0.21

    def fresh(self):
        """Streaming control: whether the newest chunk is fresh enough to continue, by an independent account."""
        age, at = self.newest
        since, dogs = (self.bench.steady - at) / NS, self.bench.config.gate.watchdogs
        return since <= dogs.action + 1e-6 and age + since <= dogs.observation + 1e-6

    def sent(self):
        """Number of commands so far, to the arm and to the gripper."""
        return len(self.bench.targets), len(self.bench.openings)

    def judged(self, *what):
        """Pass an event other than a tick: it may not send anything without permission."""
        allowed, before = self.permitted(), self.sent()
        answer = self.bench.call(*what)
        assert allowed or self.sent() == before, f"{what[0]} sent something without permission"
        return answer

    @rule(count=st.integers(1, 12), jitter=st.floats(-0.4, 0.4))
    def ticks(self, count, jitter):
        period = self.bench.config.period
        for i in range(count):
            self.one_tick(period * (1 + jitter * (1 if i % 2 else -1)))

    @rule(late=st.floats(0.0, 1.5))
    def a_late_tick(self, late):
        self.one_tick(late)

    def one_tick(self, dt):
        bench, limits = self.bench, self.bench.config.gate.limits
        if self.held and self.repeats:
            self.hold_button(True)
        if self.watched and self.reporting:
            self.e_stop(self.pressed)
        count = len(bench.targets)
        bench.steady += round(dt * NS)
        if bench.talks:
            self.state_at = bench.steady
            bench.measured(self.judged)
        openings = len(bench.openings)
        bench.ticked()
        self.judge_reach(count)
        executing = bench.state is State.EXECUTING
        if executing:
            assert self.permitted(), "moves without permission"
            assert bench.core.blocking or self.fresh(), "continues with a stale chunk"
        assert self.permitted() or len(bench.openings) == openings, "the gripper was commanded without permission"
        self.forbidden_ticks = 0 if executing else self.forbidden_ticks + 1
        # Each tick sends one step at least, late ticks too.
        if self.forbidden_ticks > limits.stop_time / bench.config.period:
            assert not bench.core.stream.braking, "not stopped in time"
            assert len(bench.targets) == count, "moves long after it had to stop"

    @rule(actions=st.lists(action, min_size=1, max_size=4), late=st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0, -0.2]),
          seen=st.sampled_from([0.0, 0.0, 0.1, 0.7, -0.2]), source=st.sampled_from(["policy", "policy", "expert", "x"]),
          frame=st.sampled_from(["base", "base", "base", "camera"]), back=st.sampled_from([0, 0, 0, 1, 5]),
          period=st.sampled_from([0.2, 0.1, 0.05, 0.0, math.nan]))  # fmt: skip
    def a_chunk(self, actions, late, seen, source, frame, back, period):
        now = self.bench.now.node
        taken = self.send(actions, stamp_ns=now - round(late * NS), observation_ns=now - round(seen * NS),
                          sequence=self.bench.sequence - back, source=source, frame=frame, period=period)  # fmt: skip
        if taken:
            assert source in ("policy", "expert") and frame == "base" and period > 0 and late <= 0.4 and seen <= 0.6

    @rule(ago=st.floats(0.0011, 0.3))
    def an_image_from_before_the_last_motion_was_over(self, ago):
        """`send` judges whether it may be accepted; in streaming it may if it is not older than the previous one."""
        before = self.bench.sent_at - round(ago * NS)
        self.send([(0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)], observation_ns=before, source=self.source or "policy")

    @rule(times=st.integers(1, 3))
    def the_same_chunk_comes_again(self, times):
        """Duplicated and reordered messages: DDS can deliver twice, a bag is played, a queue is reordered."""
        for chunk in self.bench.sent_chunks[-times:]:
            self.send(chunk.actions, **{name: getattr(chunk, name) for name in SAME})

    @rule(actions=st.lists(action, min_size=1, max_size=6), count=st.integers(0, 20))
    def a_good_chunk_and_some_time(self, actions, count):
        self.send(actions, source=self.source or "policy")
        self.ticks(max(1, count), 0.0)

    @rule(actions=st.lists(action, min_size=1, max_size=2), index=st.integers(0, 6), wrong=bad, short=st.booleans())
    def a_broken_chunk(self, actions, index, wrong, short):
        broken = list(actions[0])
        broken[index] = wrong
        rows = [*actions[1:], tuple(broken[:6] if short else broken)]
        taken = self.send(rows, source=self.source or "policy")
        assert not taken or (not short and math.isfinite(wrong)), "a malformed action was accepted"

    def send(self, rows, **changes):
        bench, allowed, before, moved = self.bench, self.permitted(), self.sent(), self.bench.sent_at
        followed = bench.command  # the controller's target until it receives another one
        taken = bench.send(*rows, **changes)
        assert allowed or (not taken and self.sent() == before), "a chunk was accepted without permission"
        if not taken:
            return False
        self.forbidden_ticks = 0  # the stop's time counts from here, also if permission ends before a tick
        chunk = bench.sent_chunks[-1]
        self.source = self.source or chunk.source
        assert chunk.source == self.source, "another source was in command"
        assert chunk.stamp_ns > self.stamps.get(chunk.source, -(10**18)), "an old chunk was accepted, or one twice"
        self.stamps[chunk.source] = chunk.stamp_ns
        if bench.core.blocking:
            assert chunk.observation_ns >= moved - 1, "its image was taken before the last motion ended"
            limits, here = bench.config.gate.limits, bench.core.robot.pose
            ways = [min(limits.max_translation, limits.scale * math.hypot(*row[:3])) for row in chunk.actions]
            if bench.config.ensemble_decay is not None:  # a mean with earlier chunks
                ways = [limits.max_translation] * len(ways)
            lag = max(distance(followed, here), bench.config.tolerance[0])
            self.reach = here, lag + sum(ways) + 1e-6
            self.judge_reach(before[0])
        self.newest = (bench.now.node - chunk.observation_ns) / NS, bench.steady
        return True

    def judge_reach(self, count):
        """Targets after the first `count` are no farther away than the scaled and capped actions lead."""
        if self.reach is not None:
            here, far = self.reach
            for pose in self.bench.targets[count:]:
                led = distance(pose, here)
                assert led <= far, f"{led:.4f} m from where the arm was, but the accepted chunk leads {far:.4f} m"

    def everything_is_put_in_order_and_it_works_for_a_while(self, ways, count, jitter):
        self.e_stop(False)
        self.reset("Ada")
        if not self.active:
            self.lifecycle(True)
        self.enable(True)
        self.the_robots_own_fault("")
        self.repeats = self.reporting = self.bench.talks = True
        self.hold_button(True)
        self.ticks(12, 0.0)
        moves, config = (State.READY, State.EXECUTING), self.bench.config
        if self.bench.state not in moves:
            self.ticks(round(config.gate.limits.stop_time / config.period), 0.0)  # it may have to come to rest first
        there = self.bench.state in moves or self.bench.core.gate.reason.startswith(("the robot stands at", "no fresh"))
        assert there, f"it is in order, but: {self.bench.core.gate.reason}"
        for way in ways:
            self.send([(*way, 1.0)] * 2, source=self.source or "policy", period=0.1)
            self.ticks(count, jitter)

    # Three rules for it: most others stop the arm, and faults during motion matter most.
    in_order = rule(ways=ways, count=st.integers(1, 14), jitter=st.floats(-0.4, 0.4))
    it_works = in_order(everything_is_put_in_order_and_it_works_for_a_while)
    it_works_again = in_order(everything_is_put_in_order_and_it_works_for_a_while)
    it_works_once_more = in_order(everything_is_put_in_order_and_it_works_for_a_while)

    @rule()
    def the_button_falls_silent(self):
        self.repeats = False

    @rule()
    def the_emergency_stop_falls_silent(self):
        self.reporting = False

    @rule(pressed=st.booleans())
    def e_stop(self, pressed):
        self.pressed, self.latched, self.reported_at = pressed, self.latched or pressed, self.bench.steady
        self.judged("e_stop", pressed)

    @rule(operator=st.sampled_from(["Ada", "", "  "]))
    def reset(self, operator):
        open_now = self.judged("reset_e_stop", operator).accepted
        self.latched = self.latched and (self.pressed or not operator.strip())
        assert open_now == (not self.latched and bool(operator.strip()))

    @rule(on=st.booleans())
    def enable(self, on):
        self.enabled = on
        self.judged("enable", on)

    @rule(held=st.booleans())
    def hold_button(self, held):
        self.held, self.held_at = held, self.bench.steady
        self.judged("hold_button", held)

    @rule(reason=st.sampled_from(["", "reflex"]))
    def the_robots_own_fault(self, reason):
        self.faulty = bool(reason)
        self.judged("fault", reason)
        assert not reason or (self.bench.state is not State.EXECUTING and not self.bench.core.stream.braking)

    @rule(source=st.sampled_from(["policy", "expert"]))
    def a_request_to_stop(self, source):
        now = self.bench.now.node
        self.judged("chunk", StampedChunk((), "", now, now, 0, source, 0.0))
        assert self.bench.state is not State.EXECUTING or source != self.source

    @rule(on=st.booleans())
    def lifecycle(self, on):
        self.active = on
        self.judged("activate" if on else "deactivate")
        if on:
            self.source = ""
            self.stamps.clear()

    @rule(source=st.sampled_from(["policy", "expert", "robbie"]))
    def switch(self, source):
        done = self.judged("switch_source", source).accepted
        assert done == (source != "robbie")
        if done and source != self.source:
            self.source = source
            self.stamps.clear()

    @rule(step=st.one_of(st.floats(-5.0, 5.0), st.sampled_from([-3600.0, 3600.0])))
    def the_clock_is_set(self, step):
        self.bench.offset += round(step * NS)
        self.bench.offset = max(self.bench.offset, 10_000 * NS)
        self.bench.sent_at = -(10**18)  # by another clock
        self.bench.call("tick")
        if step < -1e-6 or step > 0.5:
            assert self.bench.state is not State.EXECUTING

    @rule(talks=st.booleans())
    def the_robot(self, talks):
        self.bench.talks = talks

    @rule(x=st.floats(-0.2, 0.2), y=st.floats(-0.2, 0.2))
    def the_robot_is_moved_by_hand(self, x, y):
        bench, self.reach = self.bench, None
        bench.pose = bench.command = Pose.of((0.45 + x, y, 0.25), DOWN)
        self.judged("robot_restarted", bench.now.node)

    @rule(lag=st.floats(0.0, 3.0))
    def an_old_measurement(self, lag):
        self.reach = None
        self.judged("robot_pose", START, self.bench.now.node - round(lag * NS))
        if lag <= 0.2:
            self.state_at = self.bench.steady

    @invariant()
    def a_stop_has_a_reason(self):
        if not hasattr(self, "bench"):
            return
        self.ran["events"] += 1
        self.ran["moving"] += self.bench.state is State.EXECUTING
        if self.bench.state in (State.HOLD, State.ESTOP, State.INACTIVE):
            assert self.bench.core.gate.reason
            assert (self.bench.state is State.ESTOP) == self.bench.core.gate.e_stop

    def teardown(self):
        if hasattr(self, "bench"):
            self.ran["targets"] += len(self.bench.targets)


QUICK = settings(max_examples=120, stateful_step_count=30, suppress_health_check=list(HealthCheck), print_blob=True)
TestAnyFault = AnyFault.TestCase
TestAnyFault.settings = QUICK


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("batch", range(10))  # Hypothesis keeps each sequence in memory: gigabytes in one run
def test_a_thousand_sequences(batch, capsys):
    AnyFault.ran.clear()
    run_state_machine_as_test(AnyFault, settings=settings(QUICK, max_examples=1_000, database=None))
    ran = AnyFault.ran
    with capsys.disabled():
        print(f"\n{ran['sequences']} sequences of {ran['events']} events, {ran['moving']} with the arm in motion; "
              f"{ran['targets']} targets judged")  # fmt: skip
    assert ran["sequences"] >= 1_000
    assert ran["targets"] > 30 * ran["sequences"], "the arm hardly moved"
