"""The bridge without ROS: schedules, stops, restarts, limits. (Any sequence of events: test_bridge_faults.py.)"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import yaml
from bridge_robot import CONFIG, DOWN, LIMITS, START, Bench, row, streaming

from openvla_ros.bringup.process_table import ROBOTS
from openvla_ros.geometry import Pose, distance
from openvla_ros.nodes.bridge.parameters import BridgeParameters, core_config, robot_adapter
from openvla_ros.parameters import build, rows as parameter_rows
from openvla_ros.robots.adapter import SERVO_STATUS
from openvla_ros.safety.gate import State
from openvla_ros.safety.permission import PermissionConfig
from openvla_ros.safety.watchdogs import NS
from openvla_ros.safety.zones import Cone

STREAMING = streaming(CONFIG)


def test_blocking_executes_an_action_and_asks_for_the_next():
    bench = Bench().ready()
    assert bench.send(row(x=0.05, gripper=0.0)) and bench.state is State.EXECUTING
    assert bench.targets, "the first target is sent with the chunk, not with the next tick"
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
    # The second step is the mean of what both chunks predict for it.
    assert bench.send(row(x=0.01, y=-0.01), row())
    bench.run(40)
    assert bench.command.position[:2] == pytest.approx((0.465, 0.0))
    with pytest.raises(ValueError, match="set actions_per_chunk to 0"):
        replace(CONFIG, ensemble_decay=0.0, actions_per_chunk=1)


def test_streaming_does_not_stop_between_actions_and_rests_after_the_last():
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
    assert bench.command == before and not bench.core.stream.braking
    assert bench.send(row(x=-0.01)), "and continues with the next chunk"


def test_streaming_ensemble_averages_predictions_for_the_present():
    bench = Bench(replace(STREAMING, ensemble_decay=0.0)).ready()
    for step in range(4):
        rows = [row(x=0.01, y=0.004 if step % 2 else -0.004)] * 5
        assert bench.send(*rows)
        bench.run(10)
    # The second slot begins a tick before the second chunk arrives; from then on the mean of 2, 3, … chunks.
    assert bench.command.position[1] == pytest.approx(-0.004 - 0.004 + 0.0 - 0.004 / 3, abs=2e-4)
    assert bench.command.position[0] == pytest.approx(0.49, abs=2e-3)


@pytest.mark.parametrize("config", [CONFIG, STREAMING], ids=["blocking", "streaming"])
def test_stops_are_in_time_and_motion_resumes_from_the_robot(config):
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
        assert not bench.core.stream.braking
        assert stop is None or len(bench.targets) > count, "it brakes instead of stopping at once"
        end = bench.command
        bench.run(20)
        assert bench.command == end and bench.state is not State.EXECUTING
        bench.talks = True
        bench.pose = bench.command = Pose.of((0.4, 0.1, 0.3), DOWN)  # moved by hand
        bench.call("robot_restarted", bench.now.node)
        bench.call("e_stop", False)
        assert bench.call("reset_e_stop", "Ada").accepted
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
    answer = bench.call("switch_source", "teleop")
    assert answer.accepted and answer.message == "command passes from 'policy' to 'teleop'"
    assert bench.core.stream.braking and not bench.send(row(), source="teleop")
    assert bench.core.counters.refused == {"source": 1, "state": 1}, "refusals are counted by name"
    bench.run(15)
    assert bench.state is State.READY and bench.send(row(x=0.01), source="teleop") and not bench.send(row())


def test_the_gripper_is_not_switched_faster_than_its_interval():
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


def test_motion_begins_only_within_the_tolerance_of_the_limits():
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
def test_actions_towards_a_keep_out_box_stop_before_it(mode):
    bench = Bench(CONFIG if mode == "blocking" else STREAMING, Pose.of((0.45, 0.1, 0.25), DOWN)).ready()
    for _ in range(12):
        bench.send(row(x=0.02))
        bench.run(10 if mode == "streaming" else 25)
    assert 0.49 < bench.command.position[0] < 0.5
    assert "keep_out_post" in bench.core.gate.clipped and 1 < bench.core.counters.clipped["keep_out_post"] <= 12


def test_the_command_of_a_blocked_arm_does_not_wind_up():
    bench = Bench().ready()
    bench.run(2)
    for _ in range(8):
        assert bench.send(row(x=0.03)), bench.core.gate.reason
        for _ in range(120):
            bench.steady += round(0.02 * NS)
            bench.call("robot_pose", START, bench.now.node)  # it does not move
            bench.call("tick")
            if bench.state is State.READY:
                break
    assert distance(bench.command, START) <= 0.08 + 0.03 + 1e-9


def test_an_e_stop_service_call_does_not_release_the_button():
    bench = Bench().ready()
    bench.call("e_stop", True)  # reported once, and the button stays pressed
    bench.call("e_stop_from_service")
    answer = bench.call("reset_e_stop", "Ada")
    assert not answer.accepted and "still pressed" in answer.message and bench.state is State.ESTOP
    bench.call("e_stop", False)
    assert bench.call("reset_e_stop", "Ada").accepted
    bench.call("e_stop_from_service")
    assert bench.state is State.ESTOP and not bench.core.gate.e_stop_pressed
    assert bench.call("reset_e_stop", "Ada").accepted, "a service call has no button to release"


def test_an_e_stop_service_call_does_not_feed_the_watchdog():
    bench = Bench(replace(CONFIG, permission=PermissionConfig(e_stop_timeout=0.5)))
    bench.call("enable", True)
    bench.call("activate")
    bench.call("e_stop_from_service")
    bench.call("reset_e_stop", "Ada")
    bench.run(3)
    assert "no message on e_stop" in bench.core.gate.reason


def push(bench, way, steps):
    """Move the arm slowly by hand while it is to stand still; no restart is reported."""
    for _ in range(steps):
        bench.steady += round(0.02 * NS)
        x, y, z = bench.pose.position
        bench.pose = Pose.of((x, y + way, z), DOWN)
        bench.call("robot_pose", bench.pose, bench.now.node)
        bench.call("tick")


@pytest.mark.parametrize("mode", ["blocking", "streaming"])
def test_an_arm_displaced_at_rest_starts_from_where_it_is(mode):
    slow_watchdogs = replace(
        CONFIG.gate, mode=mode, watchdogs=replace(CONFIG.gate.watchdogs, action=60.0, observation=60.0)
    )
    bench = Bench(replace(CONFIG, max_state_speed=4.0, gate=slow_watchdogs)).ready()
    assert bench.send(row(x=0.02))
    bench.run(60)
    push(bench, -0.002, 75)  # 15 cm
    assert any("the arm was moved while it stood" in note for note in bench.notes)
    count = len(bench.targets)
    assert bench.send(row(x=0.02)), bench.core.gate.reason
    bench.run(1)
    assert distance(bench.targets[count], bench.pose) < 0.002, "the first target is where the arm is"


@pytest.mark.parametrize("mode", ["blocking", "streaming"])
def test_an_impossible_jump_of_the_pose_ends_the_motion(mode):
    bench = Bench(replace(CONFIG if mode == "blocking" else STREAMING, max_state_speed=4.0)).ready()
    assert bench.send(row(x=0.08))
    bench.run(5)
    count, there = len(bench.targets), Pose.of((0.45, -0.15, 0.25), DOWN)
    bench.steady += round(0.02 * NS)
    bench.call("robot_pose", there, bench.now.node)  # the controller was restarted, or the arm put elsewhere
    assert bench.state is State.HOLD and "robot state jumped" in bench.core.gate.reason
    bench.pose = bench.command = there
    bench.run(5)
    assert len(bench.targets) == count, "nothing of the old motion is sent"
    assert bench.state is State.READY and bench.send(row(x=0.02)), bench.core.gate.reason
    assert distance(bench.targets[count], there) < 0.002
    for step in range(20):  # as far, but slowly
        bench.steady += round(0.02 * NS)
        bench.call("robot_pose", Pose.of((0.45, -0.15 + 0.005 * step, 0.25), DOWN), bench.now.node)
        assert "jumped" not in bench.core.gate.reason


def test_an_arm_displaced_out_of_its_limits_holds():
    bench = Bench(replace(CONFIG, max_state_speed=4.0)).ready()
    assert bench.send(row(x=0.02))
    bench.run(60)
    push(bench, -0.004, 75)  # 30 cm, 10 cm out of the box
    assert bench.state is State.HOLD and "move it by hand" in bench.core.gate.reason
    assert not bench.send(row(x=0.02))


def test_a_refused_action_brakes_a_moving_target():
    zones = replace(CONFIG.gate.limits.zones, keep_out=(), cone=Cone())
    limits = replace(CONFIG.gate.limits, on_limit="refuse", zones=zones)
    slow_watchdogs = replace(CONFIG.gate.watchdogs, action=2.0, observation=2.0)
    bench = Bench(streaming(replace(CONFIG, gate=replace(CONFIG.gate, limits=limits, watchdogs=slow_watchdogs))),
                  Pose.of((0.36, -0.17, 0.25), DOWN)).ready()  # fmt: skip
    # The first two go along x, fast; the third would leave the box.
    assert bench.send(row(x=0.055), row(x=0.055), row(y=-0.06), row(y=-0.06))
    speeds = []
    for _ in range(60):
        bench.tick()  # the judge allows no step above the braking limits
        at = bench.core.stream.target
        speeds.append(at.velocity[0] if at else 0.0)
    assert max(speeds) > 0.2 and speeds[-1] == 0.0 and not bench.core.stream.braking
    assert "is outside the limits (box_y)" in "".join(bench.notes)


def test_a_late_pose_starts_nothing_without_permission():
    deadman = PermissionConfig("deadman", 0.3)
    bench = Bench(replace(CONFIG, permission=deadman))
    bench.call("hold_button", True)
    bench.ready()
    assert bench.send(row(x=0.01), row(x=0.01, gripper=0.0))
    for _ in range(200):
        bench.steady += round(0.02 * NS)
        bench.call("tick")
        bench.call("hold_button", True)
        if not bench.core.stream.busy:
            break
        bench.call("robot_pose", START, bench.now.node)
    count, commands = len(bench.targets), len(bench.openings)
    bench.steady += round(3.0 * NS)  # nothing arrives for a while, and then first a pose
    for _ in range(20):
        bench.steady += round(0.02 * NS)
        bench.call("robot_pose", bench.command, bench.now.node)
        bench.call("gripper_opening", 1.0, bench.now.node)
    assert (len(bench.targets), len(bench.openings)) == (count, commands)
    assert bench.state is State.HOLD and "no message of the deadman's button" in bench.core.gate.reason


def test_restarts_and_clock_steps_do_not_lock_the_robot_out():
    bench = Bench().ready()
    bench.call("robot_restarted", bench.now.node)
    bench.run(3)
    bench.offset -= 3600 * NS
    bench.run(30)
    assert bench.state is State.READY, bench.core.gate.reason
    bench.call("robot_restarted", bench.now.node + 7200 * NS)  # of a clock that is wrong
    bench.run(30)
    assert bench.state is State.READY, bench.core.gate.reason


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"period": 1e-300}, "period"),
        ({"period": 5e-4}, "period"),
        ({"actions": (row(),) * 64, "period": 2.0}, "length"),
    ],
)
def test_unreasonable_periods_and_plans_are_refused(changes, name):
    for config in (CONFIG, STREAMING):
        bench = Bench(config).ready()
        assert not bench.send(row(), **changes)
        assert bench.core.gate.refused == (name,)


def test_motion_follows_simulated_time_and_watchdogs_the_steady_clock():
    bench = Bench(replace(CONFIG, simulated_time=True)).ready()
    assert bench.send(row(x=0.05))
    for _ in range(30):  # ten times real time
        bench.offset += round(0.018 * NS)
        bench.tick(0.002)
    assert bench.state is State.READY and bench.command.position[0] == pytest.approx(0.5)
    # The machine stalls for a moment: simulated time jumps, which is no fault.
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


def test_late_ticks_delay_the_motion_without_speeding_it_up():
    bench = Bench().ready()
    assert bench.send(row(x=0.06))
    for _ in range(12):
        bench.tick(0.07)  # the judge allows no step above the limits
    assert bench.command.position[0] == pytest.approx(0.51)


def settings_of(robot, root):
    """The bridge's parameters as `bringup(robot)` sets them, by name."""
    values = {row.name: row.default for row in parameter_rows(BridgeParameters)}
    for name in ROBOTS[robot]["bridge_node"]:
        values |= yaml.safe_load((root / "config" / name).read_text())["/**/bridge_node"]["ros__parameters"]
    return values


def test_the_google_robot_needs_no_moveit(root):
    values = settings_of("generic", root)
    mine = yaml.safe_load((root / "config" / "robots" / "google_robot.yaml").read_text())
    values |= mine["/**/bridge_node"]["ros__parameters"]
    parameters = build(BridgeParameters, values)
    core_config(parameters)
    adapter = robot_adapter(parameters)
    assert adapter.start() == () and SERVO_STATUS not in {handler.kind for handler in adapter.sources.values()}


def test_every_robots_settings_can_stop_in_time(root):
    for robot in ROBOTS:
        core_config(build(BridgeParameters, settings_of(robot, root)))
