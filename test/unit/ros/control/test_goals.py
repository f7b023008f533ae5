"""Action goals of gripper and recovery: one at a time, cancelled, given up, repeated."""

from __future__ import annotations

from dataclasses import replace

from bridge_robot import CONFIG, LIMITS, Bench, row, streaming

from openvla_ros.control.goals import CANCEL_TIME
from openvla_ros.safety.gate import State

TIMEOUT = 3.0  # [s]
WITH_GOALS = replace(CONFIG, gripper_timeout=TIMEOUT)
WITHOUT_INTERVAL = replace(CONFIG.gate, limits=replace(LIMITS, gripper_interval=0.0))
STREAMING = streaming(replace(WITH_GOALS, gate=WITHOUT_INTERVAL))


def act(bench: Bench, gripper: float) -> None:
    assert bench.send(row(gripper=gripper)), bench.core.gate.reason
    bench.run(10)


def openings(bench: Bench) -> list[float]:
    return [opening for _, opening in bench.openings]


def keep_sending(bench: Bench, gripper: float, seconds: float) -> None:
    for _ in range(round(seconds / 0.2)):
        act(bench, gripper)


def test_a_command_waits_until_the_goal_before_it_has_ended():
    bench = Bench(STREAMING).ready()
    act(bench, 0.0)
    bench.call("goal_accepted", bench.gripper_goals[0])
    act(bench, 1.0)
    assert openings(bench) == [0.0]
    assert [cancel.goal for cancel in bench.cancelled] == bench.gripper_goals
    bench.call("goal_ended", bench.gripper_goals[0])
    assert openings(bench) == [0.0, 1.0]


def test_a_goal_cancelled_before_its_acceptance_is_cancelled_then():
    bench = Bench(STREAMING).ready()
    act(bench, 0.0)
    act(bench, 1.0)
    count = len(bench.cancelled)
    bench.call("goal_accepted", bench.gripper_goals[0])
    assert [cancel.goal for cancel in bench.cancelled[count:]] == bench.gripper_goals


def test_the_failure_of_a_goal_is_logged():
    bench = Bench(STREAMING).ready()
    act(bench, 0.0)
    bench.call("goal_ended", bench.gripper_goals[0], failure="grasp did not succeed: no object")
    assert bench.notes[-1] == "grasp did not succeed: no object"


def test_the_failure_of_a_cancelled_goal_is_not_logged():
    bench = Bench(STREAMING).ready()
    act(bench, 0.0)
    act(bench, 1.0)
    bench.call("goal_ended", bench.gripper_goals[0], failure="grasp did not succeed: aborted")
    assert not [note for note in bench.notes if "aborted" in note]


def test_a_goal_that_takes_too_long_is_cancelled():
    bench = Bench(STREAMING).ready()
    act(bench, 0.0)
    keep_sending(bench, 0.0, TIMEOUT)
    assert [cancel.reason for cancel in bench.cancelled] == ["took longer than 3 s: cancelled"]


def test_an_overdue_goal_is_cancelled_without_a_tick():
    bench = Bench(STREAMING).ready()
    act(bench, 0.0)
    bench.steady += round((TIMEOUT + 0.1) * 1e9)  # a simulated clock may stand still, and with it the ticks
    bench.call("check_goals")
    assert [cancel.reason for cancel in bench.cancelled] == ["took longer than 3 s: cancelled"]


def test_a_cancelled_goal_that_does_not_end_is_given_up():
    bench = Bench(STREAMING).ready()
    act(bench, 0.0)
    act(bench, 1.0)
    keep_sending(bench, 1.0, CANCEL_TIME)
    assert openings(bench) == [0.0, 1.0]
    bench.call("goal_ended", bench.gripper_goals[0])  # too late: the second goal is under way
    act(bench, 0.0)
    assert openings(bench) == [0.0, 1.0]


def test_a_refused_goal_is_repeated_by_the_next_action():
    bench = Bench(WITH_GOALS).ready()
    assert bench.send(row(gripper=0.0))
    bench.call("goal_ended", bench.gripper_goals[0], reached_server=False)
    bench.run(20)
    assert openings(bench) == [0.0] and bench.state is State.READY
    assert bench.send(row(gripper=0.0))
    assert openings(bench) == [0.0, 0.0]


def test_a_refused_goal_is_not_repeated_within_a_blocking_action():
    bench = Bench(replace(WITH_GOALS, gripper_first=True)).ready()
    assert bench.send(row(x=0.02, gripper=0.0))
    bench.call("goal_ended", bench.gripper_goals[0], reached_server=False)
    bench.run(60)
    assert openings(bench) == [0.0]
    assert bench.command.position[0] > 0.465, "the motion follows"


def test_a_pending_command_is_dropped_by_a_stop():
    bench = Bench(STREAMING).ready()
    act(bench, 0.0)
    bench.call("goal_accepted", bench.gripper_goals[0])
    act(bench, 1.0)
    bench.call("e_stop", True)
    bench.call("goal_ended", bench.gripper_goals[0])
    bench.run(10)
    assert openings(bench) == [0.0], "a gripper that opens in an emergency stop drops what it holds"


def test_grippers_without_goals_get_every_command_at_once():
    bench = Bench(streaming(replace(CONFIG, gate=WITHOUT_INTERVAL))).ready()
    for gripper in (0.0, 1.0, 0.0):
        act(bench, gripper)
    assert openings(bench) == [0.0, 1.0, 0.0] and not bench.cancelled


def test_one_recovery_is_under_way_at_a_time():
    bench = Bench().ready()
    first = bench.call("recover")
    assert first.accepted and first.goals.recovery is not None
    second = bench.call("recover")
    assert not second.accepted and second.goals.recovery is None and "already under way" in second.message
    bench.call("goal_ended", first.goals.recovery)
    assert bench.call("recover").accepted


def test_a_recovery_that_takes_too_long_is_cancelled():
    bench = Bench(replace(CONFIG, recovery_timeout=1.0)).ready()
    number = bench.call("recover").goals.recovery
    bench.run(60)
    assert [(cancel.goal, cancel.reason) for cancel in bench.cancelled] == [(number, "took longer than 1 s: cancelled")]
