"""The bridge without ROS: schedules, restarts, limits, and any sequence of events under an oracle's eyes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import yaml
from bridge_robot import CONFIG, DOWN, LIMITS, START, Bench, row, streaming
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from openvla_ros.geometry import Bounds, Pose, distance
from openvla_ros.nodes.bridge_core import CoreConfig
from openvla_ros.nodes.bridge_parameters import PARAMETERS, core_config
from openvla_ros.nodes.bringup import ROBOTS
from openvla_ros.safety.gate import State
from openvla_ros.safety.permission import PermissionConfig
from openvla_ros.safety.watchdogs import NS
from openvla_ros.safety.zones import Cone, Zones

STREAMING = streaming(CONFIG)


def test_blocking_executes_an_action_and_asks_for_the_next():
    bench = Bench().ready()
    assert bench.send(row(x=0.05, gripper=0.0)) and bench.state is State.EXECUTING
    assert bench.targets, "the first target goes out with the chunk, not with the next tick"
    assert not bench.send(row()), "busy"
    bench.run(30)
    assert bench.state is State.READY and distance(bench.command, Pose.of((0.5, 0.0, 0.25), DOWN)) < 1e-12
    assert [o for _, o in bench.openings] == [0.0]


def test_open_loop_receding_horizon_and_ensemble():
    three = (row(x=0.01), row(y=0.01), row(x=0.01))
    for config, wanted in (
        (CONFIG, (0.47, 0.01)),
        (replace(CONFIG, actions_per_chunk=1), (0.46, 0.0)),
        (replace(CONFIG, actions_per_chunk=2), (0.46, 0.01)),
        (replace(CONFIG, ensemble_decay=0.0), (0.46, 0.0)),
    ):
        bench = Bench(config).ready()
        assert bench.send(*three)
        bench.run(80)
        assert bench.state is State.READY and bench.command.position[:2] == pytest.approx(wanted), config
    # The second step is the mean of what both chunks say for it.
    assert bench.send(row(x=0.01, y=-0.01), row())
    bench.run(40)
    assert bench.command.position[:2] == pytest.approx((0.465, 0.0))
    with pytest.raises(ValueError, match="set actions_per_chunk to 0"):
        replace(CONFIG, ensemble_decay=0.0, actions_per_chunk=1)


def test_streaming_flows_on_and_comes_to_rest_at_the_goal_when_nobody_speaks():
    bench = Bench(STREAMING).ready()
    speeds = []
    for _ in range(6):
        assert bench.send(row(x=0.015))
        for _ in range(10):
            before = bench.command
            bench.tick()
            speeds.append(distance(before, bench.command) / 0.02)
    assert min(speeds[20:]) > 0.05, "no stop between two actions"
    bench.run(15)
    before = bench.command
    bench.run(15)
    assert bench.state is State.HOLD and bench.core.gate.reason.startswith("no fresh action")
    assert bench.command == before and not bench.core.stopping
    assert bench.send(row(x=-0.01)), "and goes on with the next chunk"


def test_streaming_ensemble_takes_what_the_chunks_say_for_the_present():
    bench = Bench(replace(STREAMING, ensemble_decay=0.0)).ready()
    for step in range(4):
        rows = [row(x=0.01, y=0.004 if step % 2 else -0.004)] * 5
        assert bench.send(*rows)
        bench.run(10)
    # The second slot begins a tick before the second chunk comes; from then on the mean of 2, 3, … chunks.
    assert bench.command.position[1] == pytest.approx(-0.004 - 0.004 + 0.0 - 0.004 / 3, abs=2e-4)
    assert bench.command.position[0] == pytest.approx(0.49, abs=2e-3)


@pytest.mark.parametrize("config", [CONFIG, STREAMING], ids=["blocking", "streaming"])
def test_every_stop_is_reached_in_time_and_the_next_motion_begins_where_the_robot_is(config):
    for stop in (("e_stop", True), ("enable", False), ("deactivate",), None):
        bench = Bench(config).ready()
        assert bench.send(*[row(x=0.06, yaw=0.3)] * 2)
        bench.run(6)
        if stop is None:
            bench.talks = False
            while bench.state is State.EXECUTING:
                bench.tick()
            assert bench.core.gate.reason.startswith("no fresh robot state")
        else:
            bench.call(*stop)
        count = len(bench.targets)
        bench.run(math.ceil(LIMITS.stop_time / config.period))
        assert not bench.core.stopping
        assert stop is None or len(bench.targets) > count, "it brakes, it does not freeze"
        end = bench.command
        bench.run(20)
        assert bench.command == end and bench.state is not State.EXECUTING
        bench.talks = True
        bench.pose = bench.command = Pose.of((0.4, 0.1, 0.3), DOWN)  # somebody moved it
        bench.call("restarted", bench.now.node)
        bench.call("e_stop", False)
        assert bench.call("reset_e_stop", "Ada")[0]
        bench.call("enable", True)
        bench.call("activate")
        bench.run(3)
        assert bench.state is State.READY and bench.send(row(x=0.01))
        bench.tick()
        assert distance(bench.targets[-1], bench.pose) < 0.01


def test_a_switched_source_stops_first():
    bench = Bench(STREAMING).ready()
    assert bench.send(*[row(x=0.05)] * 3)
    bench.run(5)
    assert not bench.send(row(), source="teleop") and bench.core.gate.refused == ("source",)
    assert bench.call("switch_source", "teleop") == (True, "command goes from 'policy' to 'teleop'")
    assert bench.core.stopping and not bench.send(row(), source="teleop")
    bench.run(15)
    assert bench.state is State.READY and bench.send(row(x=0.01), source="teleop") and not bench.send(row())


def test_the_hand_is_not_switched_faster_than_its_interval():
    config = replace(CONFIG, gate=replace(CONFIG.gate, limits=replace(LIMITS, gripper_interval=2.0)))
    bench = Bench(config).ready()
    for gripper in (0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        assert bench.send(row(gripper=gripper))
        seen = bench.core.gate.clipped
        bench.run(20)
        if gripper == 1.0 and len(bench.openings) == 1:
            assert seen == ("gripper_rate",)
    assert [o for _, o in bench.openings] == [0.0, 1.0]
    assert bench.openings[1][0] - bench.openings[0][0] >= 2 * NS


def test_it_does_not_begin_outside_its_limits_but_just_outside_it_does():
    for x, state in ((0.28, State.HOLD), (0.295, State.READY)):
        bench = Bench(CONFIG, Pose.of((x, 0.0, 0.25), DOWN))
        bench.core.enable(True, bench.now)
        bench.core.activate(bench.now)
        bench.run(3)
        assert bench.state is state, bench.core.gate.reason
    assert bench.send(row(x=-0.05))
    bench.run(20)
    assert bench.command.position[0] == pytest.approx(0.3) and "box_x" in bench.core.gate.clipped
    inside = Bench(CONFIG, Pose.of((0.53, 0.1, 0.2), DOWN))
    inside.core.enable(True, inside.now)
    inside.core.activate(inside.now)
    inside.run(3)
    assert inside.state is State.HOLD and "keep_out_post" in inside.core.gate.reason


@pytest.mark.parametrize("mode", ["blocking", "streaming"])
def test_pushing_against_a_keep_out_box_stops_before_it(mode):
    bench = Bench(CONFIG if mode == "blocking" else STREAMING, Pose.of((0.45, 0.1, 0.25), DOWN)).ready()
    for _ in range(12):
        bench.send(row(x=0.02))
        bench.run(10 if mode == "streaming" else 25)
    assert 0.49 < bench.command.position[0] < 0.5
    assert "keep_out_post" in bench.core.gate.clipped


def test_a_blocked_arm_is_not_wound_up():
    bench = Bench().ready()
    bench.run(2)
    for _ in range(8):
        assert bench.send(row(x=0.03)), bench.core.gate.reason
        for _ in range(120):
            bench.steady += round(0.02 * NS)
            bench.call("pose_seen", START, bench.now.node)  # it does not move
            bench.call("tick")
            if bench.state is State.READY:
                break
    assert distance(bench.command, START) <= 0.08 + 0.03 + 1e-9


def test_simulated_time_runs_the_motion_and_the_steady_clock_the_watchdogs():
    bench = Bench(replace(CONFIG, simulated_time=True)).ready()
    assert bench.send(row(x=0.05))
    for _ in range(30):  # ten times real time
        bench.offset += round(0.018 * NS)
        bench.tick(0.002)
    assert bench.state is State.READY and bench.command.position[0] == pytest.approx(0.5)
    # The machine stalls for a moment: a second of simulated time passes at once, and nobody is to blame.
    assert bench.send(row(x=0.02))
    bench.tick()
    bench.offset += round(0.4 * NS)
    bench.tick(0.1)
    assert bench.state is State.EXECUTING
    bench.talks = False
    for _ in range(30):
        bench.tick(0.01)
    assert bench.state is State.HOLD and "robot state" in bench.core.gate.reason


@pytest.mark.parametrize("rate", [50.0, 200.0, 1000.0])
def test_restreaming_at_every_rate(rate):
    bench = Bench(replace(STREAMING, period=1.0 / rate)).ready()
    for step in range(4):
        assert bench.send(row(x=0.02 * (1 if step < 2 else -1), y=0.01, yaw=0.1))
        bench.run(round(0.2 * rate))
    assert len(bench.targets) >= 0.79 * rate


def test_late_ticks_make_it_later_and_never_faster():
    bench = Bench().ready()
    assert bench.send(row(x=0.06))
    for _ in range(12):
        bench.tick(0.07)  # the judge sees no step above the limits
    assert bench.command.position[0] == pytest.approx(0.51)


def test_every_robots_settings_can_stop_in_time_and_the_reference_lists_every_parameter(root):
    for robot in ROBOTS:
        values = {row.name: row.default for row in PARAMETERS}
        for name in ROBOTS[robot]["bridge_node"]:
            values |= yaml.safe_load((root / "config" / name).read_text())["/**/bridge_node"]["ros__parameters"]
        core_config(values.__getitem__)
    reference = (root / "docs" / "reference" / "safety.md").read_text()
    reference += (root / "docs" / "reference" / "robots.md").read_text()
    assert not [p.name for p in PARAMETERS if f"| `{p.name}` |" not in reference and not p.name.startswith("arrival.")]


# ---- any sequence of events ----------------------------------------------------------------------

bad = st.sampled_from([math.nan, math.inf, -math.inf, 1e300])
value = st.one_of(st.floats(-0.1, 0.1), st.floats(-2.0, 2.0), st.just(0.0))
action = st.tuples(value, value, value, value, value, value, st.floats(-0.5, 1.5))
configs = st.builds(
    lambda mode, half, cone, speed, turn, factor, scale, ensemble, first, count, period, simulated: CoreConfig(
        gate=replace(
            CONFIG.gate, mode=mode,
            limits=replace(
                LIMITS,
                zones=Zones((0.45 - half, -half, 0.25 - half), (0.45 + half, half, 0.25 + half),
                            LIMITS.zones.keep_out, cone),
                move=Bounds(speed, 10 * speed, 200 * speed), turn=Bounds(turn, 10 * turn, 200 * turn),
                stop_factor=factor, scale=scale, stop_time=0.4,
            ),
        ),
        permission=CONFIG.permission, max_state_speed=20.0, leash=(0.08, 0.5), gripper_first=first,
        ensemble_decay=0.1 if ensemble else None, actions_per_chunk=0 if ensemble else count, period=period,
        simulated_time=simulated,
    ),
    st.sampled_from(["blocking", "streaming"]), st.floats(0.04, 0.3),
    st.sampled_from([Cone(), Cone(angle=0.3), Cone(angle=1.0, yaw_low=-0.5, yaw_high=0.7)]),
    st.floats(0.1, 1.0), st.floats(0.5, 3.0), st.floats(1.75, 4.0), st.floats(0.2, 1.0), st.booleans(), st.booleans(),
    st.integers(0, 2), st.sampled_from([0.02, 0.02, 0.01, 0.004]), st.booleans(),
)  # fmt: skip


class AnyFault(RuleBasedStateMachine):
    """Whatever happens, in whatever order: what comes out is permitted, within the limits, and stops in time."""

    @initialize(config=configs, deadman=st.booleans())
    def begin(self, config, deadman):
        if deadman:
            config = replace(config, permission=PermissionConfig("deadman", timeout=0.3, e_stop_timeout=0.0))
        self.bench = Bench(config)
        self.deadman, self.held_at, self.held, self.repeats = deadman, -(10**12), False, True
        self.enabled = self.active = self.latched = self.pressed = False
        self.source = ""
        self.heard_at, self.forbidden_ticks = -(10**12), 0
        self.bench.call("enable", True)
        self.bench.call("activate")
        self.enabled = self.active = True
        self.hold_button(True)
        self.ticks(3, 0.0)

    def permitted(self) -> bool:
        """By this machine's own book: whether the operator lets it move and the robot is heard."""
        since = (self.bench.steady - self.heard_at) / NS
        held = self.held and (self.bench.steady - self.held_at) / NS <= 0.3
        return self.enabled and self.active and not self.latched and (held or not self.deadman) and since <= 0.21

    def judged(self, *what):
        """An event other than a tick: it may not send anything that is not permitted."""
        allowed, count = self.permitted(), len(self.bench.targets)
        answer = self.bench.call(*what)
        assert allowed or len(self.bench.targets) == count, f"{what[0]} sent a target without permission"
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
        count = len(bench.targets)
        bench.steady += round(dt * NS)
        if bench.talks:
            bench.steady -= round(dt * NS)
            self.heard_at = bench.steady + round(dt * NS)
            bench.tick(dt)
        else:
            bench.call("tick")
        executing = bench.state is State.EXECUTING
        if executing:
            assert self.permitted(), "moves without permission"
        self.forbidden_ticks = 0 if executing else self.forbidden_ticks + 1
        # Each tick sends one step at least, the late ones too.
        if self.forbidden_ticks > limits.stop_time / bench.config.period:
            assert not bench.core.stopping, "not stopped in time"
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
            self.source = self.source or source
            assert source == self.source, "another source was in command"

    @rule(actions=st.lists(action, min_size=1, max_size=6), count=st.integers(0, 20))
    def a_good_chunk_and_some_time(self, actions, count):
        if self.send(actions, source=self.source or "policy"):
            self.source = self.source or "policy"
        self.ticks(max(1, count), 0.0)

    @rule(actions=st.lists(action, min_size=1, max_size=2), index=st.integers(0, 6), wrong=bad, short=st.booleans())
    def a_broken_chunk(self, actions, index, wrong, short):
        broken = list(actions[0])
        broken[index] = wrong
        rows = [*actions[1:], tuple(broken[:6] if short else broken)]
        taken = self.send(rows, source=self.source or "policy")
        assert not taken or (not short and math.isfinite(wrong)), "what is no number was taken for an action"
        if taken:
            self.source = self.source or "policy"

    def send(self, rows, **changes):
        allowed, count = self.permitted(), len(self.bench.targets)
        taken = self.bench.send(*rows, **changes)
        assert allowed or (not taken and len(self.bench.targets) == count), "a chunk was taken without permission"
        if taken:
            self.forbidden_ticks = 0  # the stop's time counts from here, also when it is taken back before a tick
        return taken

    @rule(
        ways=st.lists(st.tuples(*[st.floats(-0.06, 0.06)] * 3, *[st.floats(-0.3, 0.3)] * 3), min_size=1, max_size=5),
        count=st.integers(1, 14), jitter=st.floats(-0.4, 0.4),
    )  # fmt: skip
    def everything_is_put_in_order_and_it_works_for_a_while(self, ways, count, jitter):
        self.e_stop(False)
        self.reset("Ada")
        if not self.active:
            self.lifecycle(True)
        self.enable(True)
        self.repeats, self.bench.talks = True, True
        self.hold_button(True)
        self.ticks(12, 0.0)
        for way in ways:
            taken = self.send([(*way, 1.0)] * 2, source=self.source or "policy", period=0.1)
            self.source = self.source or ("policy" if taken else "")
            self.ticks(count, jitter)

    @rule()
    def the_button_falls_silent(self):
        self.repeats = False

    @rule(pressed=st.booleans())
    def e_stop(self, pressed):
        self.pressed, self.latched = pressed, self.latched or pressed
        self.judged("e_stop", pressed)

    @rule(operator=st.sampled_from(["Ada", "", "  "]))
    def reset(self, operator):
        open_now, _ = self.judged("reset_e_stop", operator)
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

    @rule(on=st.booleans())
    def lifecycle(self, on):
        self.active = on
        self.judged("activate" if on else "deactivate")
        if on:
            self.source = ""

    @rule(source=st.sampled_from(["policy", "expert", "robbie"]))
    def switch(self, source):
        done, _ = self.judged("switch_source", source)
        assert done == (source != "robbie")
        if done:
            self.source = source

    @rule(step=st.one_of(st.floats(-5.0, 5.0), st.sampled_from([-3600.0, 3600.0])))
    def the_clock_is_set(self, step):
        self.bench.offset += round(step * NS)
        self.bench.offset = max(self.bench.offset, 10_000 * NS)
        self.bench.call("tick")
        if step < -1e-6 or step > 0.5:
            assert self.bench.state is not State.EXECUTING

    @rule(talks=st.booleans())
    def the_robot(self, talks):
        self.bench.talks = talks

    @rule(x=st.floats(-0.2, 0.2), y=st.floats(-0.2, 0.2))
    def the_robot_is_moved_by_hand(self, x, y):
        bench = self.bench
        bench.pose = bench.command = Pose.of((0.45 + x, y, 0.25), DOWN)
        self.judged("restarted", bench.now.node)

    @rule(lag=st.floats(0.0, 3.0))
    def an_old_measurement(self, lag):
        self.judged("pose_seen", START, self.bench.now.node - round(lag * NS))
        if lag <= 0.2:
            self.heard_at = self.bench.steady

    @invariant()
    def it_says_why(self):
        if hasattr(self, "bench") and self.bench.state in (State.HOLD, State.ESTOP, State.INACTIVE):
            assert self.bench.core.gate.reason
            assert (self.bench.state is State.ESTOP) == self.bench.core.gate.e_stop


QUICK = settings(
    max_examples=120, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
TestAnyFault = AnyFault.TestCase
TestAnyFault.settings = QUICK


@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestTenThousandFaults(AnyFault.TestCase):
    settings = settings(QUICK, max_examples=10_000)
