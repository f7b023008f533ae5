"""Commands of the WidowX adapters, by their own inverse kinematics and by MoveIt Servo, as plain values."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings, strategies as st
from scipy.spatial.transform import Rotation

from openvla_ros.geometry import Pose
from openvla_ros.nodes.bridge.parameters import BridgeParameters, robot_adapter
from openvla_ros.parameters import build
from openvla_ros.robots.adapter import JOINTS, SERVO_STATUS, TRAJECTORY, JointGroup, JointSingle, PoseTarget
from openvla_ros.robots.arms import WIDOWX_250S, WIDOWX_READY
from openvla_ros.robots.factory import joint_limiter
from openvla_ros.robots.generic import GenericConfig
from openvla_ros.robots.kinematics import Kinematics
from openvla_ros.robots.widowx import WidowXAdapter, WidowXConfig, WidowXServoAdapter

MS = 1_000_000
DOWN = (1.0, 0.0, 0.0, 0.0)


def pose(x=0.4, y=0.0, z=0.3):
    return Pose.of((x, y, z), DOWN)


# ---- by its own inverse kinematics ---------------------------------------------------------------


def widowx(kind=WidowXAdapter, *more, **changes):
    speeds = (1.5,) * 6
    made = kind(WidowXConfig(**changes), joint_limiter(speeds), 0.02, *more)
    names = (*WIDOWX_250S.names, "gripper", "left_finger", "right_finger")
    made.report = partial(lambda q, finger, at: made.read_joints(names, [*q, 0.0, finger, -finger], at))
    return made


def test_the_profile_is_set_and_checked_without_cutting_the_torque():
    info, gripper, *registers = widowx().setup()
    assert (info.service, info.expect["mode"], info.expect["profile_type"]) == ("get_robot_info", "position", "time")
    assert info.expect["joint_names"] == WIDOWX_250S.names
    # xs_sdk cuts the torque of the motors that it switches: these must be the gripper's alone.
    assert (gripper.service, gripper.fields["cmd_type"], gripper.fields["mode"]) == (
        "set_operating_modes",
        "single",
        "pwm",
    )
    assert [(c.service, c.fields["reg"], c.fields["value"], c.expect) for c in registers] == [
        ("set_motor_registers", "Profile_Velocity", 200, {}),
        ("set_motor_registers", "Profile_Acceleration", 50, {}),
        ("get_motor_registers", "Profile_Velocity", 0, {"values": (200,) * 6}),
        ("get_motor_registers", "Profile_Acceleration", 0, {"values": (50,) * 6}),
    ]
    assert {c.fields["name"] for c in (info, *registers)} == {"arm"}


def test_a_profile_that_the_motors_would_shorten_is_refused():
    with pytest.raises(ValueError, match=r"profile_acceleration 0.15 s is over half of widowx.profile_time 0.2 s"):
        widowx(profile_acceleration=0.15)


def test_joint_speeds_are_limited_and_the_motion_continues():
    arm, kinematics = widowx(), Kinematics(WIDOWX_250S)
    here = kinematics.forward(WIDOWX_READY)
    assert not arm.target(here, 0)  # nothing before the joints are known
    measured = arm.report(WIDOWX_READY, 0.037, 0)
    assert measured.opening == 1.0 and measured.pose.position == pytest.approx(here.position)
    far = Pose.of((here.position[0] + 0.06, 0.03, here.position[2]), here.quaternion)
    ((topic, group),) = arm.target(far, 20 * MS)
    assert topic == "commands/joint_group" and isinstance(group, JointGroup) and len(group.positions) == 6
    step = max(abs(a - b) for a, b in zip(group.positions, WIDOWX_READY, strict=True))
    assert step == pytest.approx(1.5 * 0.02) and any(name.startswith("joint_speed_") for name in arm.clipped)
    for i in range(60):
        before = group.positions
        sent = [command for _, command in arm.tick((40 + 20 * i) * MS, True)]
        if not sent:
            break
        group = sent[0]
        assert max(abs(a - b) for a, b in zip(group.positions, before, strict=True)) <= 1.5 * 0.02 + 1e-9
    assert kinematics.forward(group.positions).position == pytest.approx(far.position, abs=1e-3)
    arm.target(here, 2000 * MS)
    arm.rest(2020 * MS)
    assert not arm.tick(2040 * MS, True)  # a stopped arm does not move on


def steps(sent):
    return [command.positions for _, command in sent if isinstance(command, JointGroup)]


@pytest.mark.parametrize("late", [0.0, 0.3, 1.7])
def test_targets_and_ticks_share_one_step_per_period(late):
    """The node sends a target and then, in the same period, a tick."""
    arm = widowx()
    arm.report(WIDOWX_READY, 0.037, 0)
    (x, _, z), turn = (here := Kinematics(WIDOWX_250S).forward(WIDOWX_READY)).position, here.quaternion
    sent = [(0, WIDOWX_READY)]
    for i in range(1, 61):
        goal = Pose.of((x, 0.3 if i < 30 else -0.3, z), turn)
        asked = [*arm.target(goal, 20 * i * MS), *arm.tick(int(20 * (i + late) * MS), True)]
        assert late or len(steps(asked)) == 1
        sent += [(20 * i * MS, positions) for positions in steps(asked)]
    for i, (since, before) in enumerate(sent):
        for at, after in sent[i + 1 :]:  # over any interval; a late call counts two periods
            most = 1.5 * ((at - since) / 1e9 + (2 * 0.02 if late else 0.0)) + 1e-9
            assert max(abs(u - v) for u, v in zip(before, after, strict=True)) <= most, (since, at)


def test_joints_move_on_after_the_clock_is_set_back():
    arm, kinematics = widowx(), Kinematics(WIDOWX_250S)
    arm.report(WIDOWX_READY, 0.037, 0)
    here = kinematics.forward(WIDOWX_READY)
    assert steps(arm.target(here, 900_000 * MS)) and steps(arm.target(here, 20 * MS))


@settings(max_examples=60)
@given(st.lists(st.tuples(*[st.floats(-0.7, 0.7)] * 3, *[st.floats(-3.0, 3.0)] * 3), min_size=1, max_size=8), st.data())
def test_joints_stay_within_ranges_and_speeds_for_any_goal(goals, data):
    arm = widowx()
    shares = data.draw(st.tuples(*[st.floats(0.02, 0.98)] * 6))
    present = tuple(j.low + s * (j.high - j.low) for j, s in zip(WIDOWX_250S.joints, shares, strict=True))
    arm.report(present, 0.037, 0)
    for i, (*position, rx, ry, rz) in enumerate(goals):
        goal = Pose.of(position, Rotation.from_rotvec((rx, ry, rz)).as_quat())
        for _, group in [*arm.target(goal, 40 * i * MS), *arm.tick((40 * i + 20) * MS, True)]:
            for joint, now, before in zip(WIDOWX_250S.joints, group.positions, present, strict=True):
                assert joint.low < now < joint.high and abs(now - before) <= 1.5 * 0.02 + 1e-9
            present = group.positions


def test_a_target_out_of_reach_is_reported():
    arm = widowx()
    arm.report(WIDOWX_READY, 0.037, 0)
    arm.target(Pose.of((0.9, 0.0, 0.3), (0.0, 0.7071, 0.0, 0.7071)), 0)
    assert arm.clipped[0] == "reach"


def test_the_grippers_effort_ends_at_a_stall_or_end_stop():
    def close(fingers):
        arm = widowx()
        arm.report(WIDOWX_READY, 0.037, 0)
        ((_, sent),) = arm.gripper(0.0)
        values, now = [sent.value], 0
        for finger in fingers:
            now += 20
            arm.report(WIDOWX_READY, finger, now * MS)
            values += [c.value for _, c in arm.tick(now * MS, False)]  # also while the arm may not move
        return values

    assert close([0.037 - 0.0004 * (i % 2) for i in range(200)])[1:] == [-100.0]  # neither stalls nor arrives
    moving = [0.037 - 0.001 * i for i in range(10)]
    assert close([*moving, *[0.027] * 40]) == [-250.0, -100.0]  # stalled on something: hold it
    shut = [0.027 - 0.001 * i for i in range(13)]
    assert close([*moving, *shut, *[0.015] * 20]) == [-250.0, 0.0]  # closed on nothing
    assert close([0.037] * 12) == [-250.0]  # it needs time to begin


@pytest.mark.parametrize(("opening", "ended"), [(0.0, -100.0), (1.0, 0.0)])
def test_stop_orders_end_the_push_of_the_gripper(opening, ended):
    arm = widowx()
    arm.report(WIDOWX_READY, 0.026, 0)
    assert arm.guarded_topics == ("commands/joint_single",) and arm.stop_orders is None
    arm.gripper(opening)
    assert arm.stop_orders is not None
    assert list(arm.stop_orders.commands) == [("commands/joint_single", JointSingle("gripper", ended))]
    first, now = arm.stop_orders, 0
    while arm.stop_orders is first and now < 2000:
        now += 20
        arm.report(WIDOWX_READY, 0.026, now * MS)
        arm.tick(now * MS, False)
    assert arm.stop_orders is None and 300 < now < 1e3 * first.within  # it stalled: there is nothing to end


def test_a_failed_bus_read_is_no_measurement():
    arm = widowx()
    with pytest.raises(ValueError, match="shoulder at -3.142 rad is outside its range: the motors could not be read"):
        arm.read_joints([*WIDOWX_250S.names, "left_finger"], [-3.14159265] * 7, 0)


def test_missing_joints_are_named():
    with pytest.raises(ValueError, match="no joint .*left_finger"):
        widowx().read_joints(WIDOWX_250S.names, WIDOWX_READY, 0)


# ---- by MoveIt Servo -----------------------------------------------------------------------------

SERVO = GenericConfig("wx250s/base_link", "pose", "servo_node/pose_target_cmds", servo_node="servo_node", period=0.02)


def by_servo():
    arm = widowx(WidowXServoAdapter, SERVO, "servo_node/joint_trajectory")
    arm.report(WIDOWX_READY, 0.037, 0)
    arm.ask = partial(arm.read_trajectory, WIDOWX_250S.names)
    return arm


def moved(*ways):
    return tuple(at + way for at, way in zip(WIDOWX_READY, (*ways, *[0.0] * 6), strict=False))


def test_servos_trajectories_count_while_targets_are_sent():
    arm, here = by_servo(), Kinematics(WIDOWX_250S).forward(WIDOWX_READY)
    arm.ask(moved(0.01))  # a command of another node, or an earlier answer
    assert not arm.tick(20 * MS, True)
    assert list(arm.target(here, 40 * MS)) == [
        ("servo_node/pose_target_cmds", PoseTarget(here, SERVO.base_frame, 40 * MS))
    ]
    assert not arm.tick(40 * MS, True), "what arrived before the first target is no answer to it"
    arm.ask(moved(0.01))
    ((topic, group),) = arm.tick(60 * MS, True)
    assert (topic, group) == ("commands/joint_group", JointGroup("arm", pytest.approx(moved(0.01)), 6))
    arm.target(here, 80 * MS)
    arm.ask(moved(0.02))
    assert steps(arm.tick(80 * MS, False)) == [pytest.approx(moved(0.02))], "the target brakes, and Servo follows it"
    arm.ask(moved(0.03))
    arm.rest(100 * MS)
    arm.ask(moved(0.04))
    assert not arm.tick(120 * MS, True)


def test_servos_joints_are_read_by_name():
    arm = by_servo()
    arm.target(Kinematics(WIDOWX_250S).forward(WIDOWX_READY), 0)
    wanted = dict(zip(WIDOWX_250S.names, moved(0.01, 0.02, 0.003), strict=True))
    names = sorted(wanted)
    arm.read_trajectory(["gripper", *names], [0.0, *[wanted[name] for name in names]])
    assert steps(arm.tick(20 * MS, True)) == [pytest.approx(moved(0.01, 0.02, 0.003))]
    with pytest.raises(ValueError, match="no joint waist; the message has shoulder, elbow"):
        arm.read_trajectory(WIDOWX_250S.names[1:], WIDOWX_READY[1:])
    assert not steps(arm.tick(40 * MS, True))


def test_servos_joints_stay_within_ranges_and_speeds():
    arm = by_servo()
    here, present = Kinematics(WIDOWX_250S).forward(WIDOWX_READY), WIDOWX_READY
    for i in range(1, 200):
        arm.target(here, 20 * i * MS)
        arm.ask(moved(9.0, -9.0, 0.3))
        arm.ask(moved(9.0, -9.0, 0.4))  # Servo answers more often than the motors are commanded
        (positions,) = steps(arm.tick(20 * i * MS + 1, True))
        for joint, now, before in zip(WIDOWX_250S.joints, positions, present, strict=True):
            assert joint.low < now < joint.high and abs(now - before) <= 1.5 * 0.02 + 1e-9
        present = positions
    assert present[0] == pytest.approx(WIDOWX_250S.joints[0].high, abs=0.03)
    arm.sources["servo_node/status"].read(2)
    arm.target(here, 5000 * MS)
    assert {"servo_singularity", "joint_range_waist", "joint_range_shoulder"} <= {*arm.clipped}
    arm.sources["servo_node/status"].read(0)
    arm.target(here, 5020 * MS)
    assert "servo_singularity" not in arm.clipped


def test_a_widowx_by_servo_combines_both_interfaces():
    arm, own = by_servo(), widowx()
    assert [c.service for c in arm.setup()] == [c.service for c in own.setup()]  # mode and profile as without Servo
    assert [(c.service, c.fields) for c in (*arm.start(), *arm.stop())] == [
        ("servo_node/switch_command_type", {"command_type": 2}),
        ("servo_node/pause_servo", {"data": False}),
        ("servo_node/pause_servo", {"data": True}),
    ]
    assert arm.settling > 0.1  # Servo's timeout is over before it is paused
    assert {name for name, _ in arm.topics} - {name for name, _ in own.topics} == {"servo_node/pose_target_cmds"}
    assert {topic: handler.kind for topic, handler in arm.sources.items()} == {
        "joint_states": JOINTS, "servo_node/status": SERVO_STATUS, "servo_node/joint_trajectory": TRAJECTORY
    }  # fmt: skip
    assert not arm.actions
    ((topic, push),) = arm.gripper(0.0)
    assert (topic, push) == ("commands/joint_single", JointSingle("gripper", -250.0))


def test_servo_without_a_node_name_is_refused():
    values = {"robot": "widowx", "widowx.ik": "servo"}
    with pytest.raises(ValueError, match=r"widowx.ik is servo, but servo.node is empty"):
        robot_adapter(build(BridgeParameters, values))
    named = build(BridgeParameters, values | {"servo.node": "servo_node"})
    assert isinstance(robot_adapter(named), WidowXServoAdapter)
