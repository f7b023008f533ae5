"""What the adapters say: plain values, no ROS. The messages they become are in test_messages and the face tests."""

from __future__ import annotations

import ast
from functools import partial

import pytest
import yaml
from hypothesis import given, settings, strategies as st
from scipy.spatial.transform import Rotation

from openvla_ros.arms import WIDOWX_250S, WIDOWX_READY
from openvla_ros.geometry import Pose
from openvla_ros.kinematics import Kinematics
from openvla_ros.nodes import messages
from openvla_ros.nodes.bridge_parameters import PARAMETERS
from openvla_ros.nodes.bringup_launch import COMMON, ROBOT, stack
from openvla_ros.nodes.interfaces import load
from openvla_ros.nodes.parameters import check
from openvla_ros.nodes.robot_parameters import ROBOT_PARAMETERS, _limit, make_adapter
from openvla_ros.robots.adapter import TRAJECTORY, Goal, JointGroup, JointSingle, PoseTarget, TwistTarget
from openvla_ros.robots.franka import MODES, FrankaAdapter, FrankaConfig
from openvla_ros.robots.generic import GenericAdapter, GenericConfig
from openvla_ros.robots.hands import HandConfig
from openvla_ros.robots.widowx import WidowXAdapter, WidowXConfig, WidowXServoAdapter

MS = 1_000_000
DOWN = (1.0, 0.0, 0.0, 0.0)
HAND = HandConfig("franka", "franka_gripper", "franka_gripper/joint_states", ("f1", "f2"), 0.0, 0.08)


def pose(x=0.4, y=0.0, z=0.3):
    return Pose.of((x, y, z), DOWN)


# ---- franka and generic --------------------------------------------------------------------------


def test_a_franka_moves_to_open_and_grasps_to_close():
    franka = FrankaAdapter(GenericConfig("base", hand=HAND), FrankaConfig())
    ((topic, command),) = franka.target(pose(), 5)
    assert (topic, command) == ("target_pose", PoseTarget(pose(), "base", 5))
    ((name, move),) = franka.gripper(1.0)
    assert (name, move) == ("franka_gripper/move", Goal("franka_msgs/action/Move", {"width": 0.08, "speed": 0.1}, 3.0))
    ((name, grasp),) = franka.gripper(0.0)
    assert name == "franka_gripper/grasp" and grasp.fields["width"] == 0.0 and grasp.fields["force"] == 20.0
    assert grasp.fields["epsilon"] == {"inner": 0.08, "outer": 0.08}  # whatever is between the fingers was meant
    assert {name for name, _ in franka.actions} >= {"franka_gripper/move", "franka_gripper/grasp"}
    assert franka.joints_seen("t", ["f2", "f1"], [0.02, 0.02], 0).opening == pytest.approx(0.5)
    with pytest.raises(ValueError, match="t has no joint f2; it has f1"):
        franka.joints_seen("t", ["f1"], [0.02], 0)


def test_only_a_franka_in_reflex_is_told_how_to_recover():
    franka = FrankaAdapter(GenericConfig("base", hand=HAND), FrankaConfig())
    said = {name: franka.fault(mode) for mode, name in enumerate(MODES)}
    assert [name for name, why in said.items() if not why] == ["idle", "move"]
    assert "recover_robot" in said["reflex"] and "recover_robot" not in said["user stopped"]
    assert "unknown mode 42" in franka.fault(42)
    assert franka.recovery is not None and franka.recovery[0] == "action_server/error_recovery"
    # (From franka_ros2 3.3.0 on a reflex silences the driver: who hears nothing is told the same, and what is next.)
    assert "recover_robot" in franka.silence
    after = franka.after_recovery
    hardware, switch = "set_hardware_component_state FrankaHardwareInterface active", "switch_controllers --activate"
    assert hardware in after and switch in after and after.index(hardware) < after.index(switch)
    assert not GenericAdapter(GenericConfig("base")).recovery


def test_the_command_action_takes_the_position_of_one_finger():
    hand = HandConfig("command", "gripper_action", "js", ("f1", "f2"), 0.0, 0.08)
    ((name, goal),) = GenericAdapter(GenericConfig("base", hand=hand)).gripper(1.0)
    assert (name, goal.fields) == ("gripper_action", {"command": {"position": 0.04, "max_effort": 20.0}})


def test_a_hand_without_a_range_is_refused():
    with pytest.raises(ValueError, match="hand.closed and hand.opened are both 0.04"):
        HandConfig(closed=0.04, opened=0.04)


def test_moveit_servo_is_switched_then_unpaused_and_paused_at_the_end():
    for command, number in (("twist", 1), ("pose", 2)):
        servo = GenericAdapter(GenericConfig("base", command, "servo_node/x", servo_node="servo_node"))
        switch, pause = servo.start()
        assert (switch.service, switch.fields) == ("servo_node/switch_command_type", {"command_type": number})
        assert switch.expect == {"success": True}
        assert (pause.service, pause.fields) == ("servo_node/pause_servo", {"data": False})
        assert [call.fields for call in servo.stop()] == [{"data": True}]
    assert not GenericAdapter(GenericConfig("base")).start()


def test_servo_is_told_the_last_pose_again_until_the_arm_is_there():
    """It forgets a pose after 0.1 s; controllers that do not are told once."""
    servo = GenericAdapter(GenericConfig("base", servo_node="servo_node", period=0.02))
    servo.target(pose(x=0.5), 20 * MS)
    assert not servo.tick(40 * MS, True)  # the stream goes on
    ((_, again),) = servo.tick(60 * MS, True)
    assert again == PoseTarget(pose(x=0.5), "base", 60 * MS)
    assert not servo.tick(100 * MS, False)
    assert not servo.rest(120 * MS) and not servo.tick(200 * MS, True)
    holds = GenericAdapter(GenericConfig("base", period=0.02))
    holds.target(pose(), 20 * MS)
    assert not holds.tick(400 * MS, True)


def test_twists_follow_the_stream_and_end_in_rest():
    servo = GenericAdapter(GenericConfig("base", "twist", "servo_node/delta_twist_cmds", speed=0.3, period=0.02))
    servo.pose_seen(pose())
    servo.target(pose(), 0)
    ((_, twist),) = servo.target(pose(x=0.402), 20 * MS)
    assert isinstance(twist, TwistTarget) and twist.linear == pytest.approx((0.1 + 2.0 * 0.002, 0.0, 0.0))
    ((_, twist),) = servo.target(pose(x=0.6), 40 * MS)
    assert twist.linear == pytest.approx((0.3, 0.0, 0.0))  # capped
    assert not servo.tick(60 * MS, True)  # the stream goes on: a target may still come
    ((_, twist),) = servo.tick(80 * MS, True)  # it has ended: what the arm lags behind
    assert 0.0 < twist.linear[0] <= 0.3
    assert not servo.tick(120 * MS, False)
    ((_, twist),) = servo.rest(140 * MS)
    assert twist.linear == twist.angular == (0.0, 0.0, 0.0)
    assert not servo.tick(900 * MS, True)


# ---- widowx --------------------------------------------------------------------------------------


def widowx(kind=WidowXAdapter, *more, **changes):
    speeds = (1.5,) * 6
    made = kind(WidowXConfig(**changes), _limit(speeds), 0.02, *more)
    names = (*WIDOWX_250S.names, "gripper", "left_finger", "right_finger")
    made.say = partial(lambda q, finger, at: made.joints_seen("js", names, [*q, 0.0, finger, -finger], at))
    return made


def test_a_widowx_sets_its_profile_reads_it_back_and_leaves_the_arm_its_torque():
    info, hand, *registers = widowx().setup()
    assert (info.service, info.expect["mode"], info.expect["profile_type"]) == ("get_robot_info", "position", "time")
    assert info.expect["joint_names"] == WIDOWX_250S.names
    # (xs_sdk cuts the torque of what it switches: that must be the hand alone.)
    assert (hand.service, hand.fields["cmd_type"], hand.fields["mode"]) == ("set_operating_modes", "single", "pwm")
    assert [(c.service, c.fields["reg"], c.fields["value"], c.expect) for c in registers] == [
        ("set_motor_registers", "Profile_Velocity", 200, {}),
        ("set_motor_registers", "Profile_Acceleration", 50, {}),
        ("get_motor_registers", "Profile_Velocity", 0, {"values": (200,) * 6}),
        ("get_motor_registers", "Profile_Acceleration", 0, {"values": (50,) * 6}),
    ]
    assert {c.fields["name"] for c in (info, *registers)} == {"arm"}


def test_a_profile_that_the_motors_would_cut_is_refused():
    with pytest.raises(ValueError, match=r"profile_acceleration 0.15 s is over half of widowx.profile_time 0.2 s"):
        widowx(profile_acceleration=0.15)


def test_targets_become_joints_within_speed_and_the_rest_of_the_way_follows():
    arm, kinematics = widowx(), Kinematics(WIDOWX_250S)
    here = kinematics.forward(WIDOWX_READY)
    assert not arm.target(here, 0)  # nothing before the joints are known
    measured = arm.say(WIDOWX_READY, 0.037, 0)
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
    assert not arm.tick(2040 * MS, True)  # a stopped arm goes no further


def steps(sent):
    return [command.positions for _, command in sent if isinstance(command, JointGroup)]


@pytest.mark.parametrize("late", [0.0, 0.3, 1.7])
def test_a_period_has_one_step_of_the_joints_whoever_asks_for_it(late):
    """The node asks for a target and then, in the same period, for what follows from time alone."""
    arm = widowx()
    arm.say(WIDOWX_READY, 0.037, 0)
    (x, _, z), turn = (here := Kinematics(WIDOWX_250S).forward(WIDOWX_READY)).position, here.quaternion
    sent = [(0, WIDOWX_READY)]
    for i in range(1, 61):
        goal = Pose.of((x, 0.3 if i < 30 else -0.3, z), turn)
        asked = [*arm.target(goal, 20 * i * MS), *arm.tick(int(20 * (i + late) * MS), True)]
        assert late or len(steps(asked)) == 1
        sent += [(20 * i * MS, positions) for positions in steps(asked)]
    for i, (since, before) in enumerate(sent):
        for at, after in sent[i + 1 :]:  # whatever stretch is looked at; what is late brings two periods with it
            most = 1.5 * ((at - since) / 1e9 + (2 * 0.02 if late else 0.0)) + 1e-9
            assert max(abs(u - v) for u, v in zip(before, after, strict=True)) <= most, (since, at)


def test_a_clock_that_is_set_back_does_not_keep_the_joints_from_moving():
    arm, kinematics = widowx(), Kinematics(WIDOWX_250S)
    arm.say(WIDOWX_READY, 0.037, 0)
    here = kinematics.forward(WIDOWX_READY)
    assert steps(arm.target(here, 900_000 * MS)) and steps(arm.target(here, 20 * MS))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-0.7, 0.7)] * 3, *[st.floats(-3.0, 3.0)] * 3), min_size=1, max_size=8), st.data())
def test_whatever_is_asked_for_no_joint_leaves_its_range_or_races(goals, data):
    arm = widowx()
    shares = data.draw(st.tuples(*[st.floats(0.02, 0.98)] * 6))
    present = tuple(j.low + s * (j.high - j.low) for j, s in zip(WIDOWX_250S.joints, shares, strict=True))
    arm.say(present, 0.037, 0)
    for i, (*position, rx, ry, rz) in enumerate(goals):
        goal = Pose.of(position, Rotation.from_rotvec((rx, ry, rz)).as_quat())
        for _, group in [*arm.target(goal, 40 * i * MS), *arm.tick((40 * i + 20) * MS, True)]:
            for joint, now, before in zip(WIDOWX_250S.joints, group.positions, present, strict=True):
                assert joint.low < now < joint.high and abs(now - before) <= 1.5 * 0.02 + 1e-9
            present = group.positions


def test_what_is_out_of_reach_is_named():
    arm = widowx()
    arm.say(WIDOWX_READY, 0.037, 0)
    arm.target(Pose.of((0.9, 0.0, 0.3), (0.0, 0.7071, 0.0, 0.7071)), 0)
    assert arm.clipped[0] == "reach"


def test_the_hands_effort_ends_at_the_stall_and_at_the_end_of_its_travel():
    def close(fingers):
        arm = widowx()
        arm.say(WIDOWX_READY, 0.037, 0)
        ((_, sent),) = arm.gripper(0.0)
        values, now = [sent.value], 0
        for finger in fingers:
            now += 20
            arm.say(WIDOWX_READY, finger, now * MS)
            values += [c.value for _, c in arm.tick(now * MS, False)]  # also while the arm may not move
        return values

    assert close([0.037 - 0.0004 * (i % 2) for i in range(200)])[1:] == [-100.0]  # neither stalls nor gets anywhere
    moving = [0.037 - 0.001 * i for i in range(10)]
    assert close([*moving, *[0.027] * 40]) == [-250.0, -100.0]  # stalled on something: hold it
    shut = [0.027 - 0.001 * i for i in range(13)]
    assert close([*moving, *shut, *[0.015] * 20]) == [-250.0, 0.0]  # closed on nothing
    assert close([0.037] * 12) == [-250.0]  # it takes a while to begin


@pytest.mark.parametrize(("opening", "ended"), [(0.0, -100.0), (1.0, 0.0)])
def test_while_the_hand_pushes_there_is_a_last_will_that_ends_it(opening, ended):
    arm = widowx()
    arm.say(WIDOWX_READY, 0.026, 0)
    assert arm.will_topics == ("commands/joint_single",) and arm.will is None
    arm.gripper(opening)
    assert arm.will is not None
    assert list(arm.will.commands) == [("commands/joint_single", JointSingle("gripper", ended))]
    first, now = arm.will, 0
    while arm.will is first and now < 2000:
        now += 20
        arm.say(WIDOWX_READY, 0.026, now * MS)
        arm.tick(now * MS, False)
    assert arm.will is None and 300 < now < 1e3 * first.within  # it stalled: nothing is left to end


def test_a_bus_that_could_not_be_read_is_no_jump_of_the_arm():
    arm = widowx()
    with pytest.raises(ValueError, match="shoulder at -3.142 rad is outside its range: the motors could not be read"):
        arm.joints_seen("joint_states", [*WIDOWX_250S.names, "left_finger"], [-3.14159265] * 7, 0)


def test_joints_that_are_missing_are_named():
    with pytest.raises(ValueError, match="js has no joint .*left_finger"):
        widowx().joints_seen("js", WIDOWX_250S.names, WIDOWX_READY, 0)


# ---- widowx by MoveIt Servo ----------------------------------------------------------------------

SERVO = GenericConfig("wx250s/base_link", "pose", "servo_node/pose_target_cmds", servo_node="servo_node", period=0.02)


def by_servo():
    arm = widowx(WidowXServoAdapter, SERVO, "servo_node/joint_trajectory")
    arm.say(WIDOWX_READY, 0.037, 0)
    arm.want = partial(arm.trajectory_seen, "servo_node/joint_trajectory", WIDOWX_250S.names)
    return arm


def moved(*ways):
    return tuple(at + way for at, way in zip(WIDOWX_READY, (*ways, *[0.0] * 6), strict=False))


def test_servo_s_trajectories_reach_the_motors_from_the_first_target_to_the_rest_only():
    arm, here = by_servo(), Kinematics(WIDOWX_250S).forward(WIDOWX_READY)
    arm.want(moved(0.01))  # somebody else's command, or an answer from before
    assert not arm.tick(20 * MS, True)
    assert list(arm.target(here, 40 * MS)) == [
        ("servo_node/pose_target_cmds", PoseTarget(here, SERVO.base_frame, 40 * MS))
    ]
    assert not arm.tick(40 * MS, True), "what came before the first target is no answer to it"
    arm.want(moved(0.01))
    ((topic, group),) = arm.tick(60 * MS, True)
    assert (topic, group) == ("commands/joint_group", JointGroup("arm", pytest.approx(moved(0.01)), 6))
    arm.target(here, 80 * MS)
    arm.want(moved(0.02))
    assert steps(arm.tick(80 * MS, False)) == [pytest.approx(moved(0.02))], "the target brakes, and Servo follows it"
    arm.want(moved(0.03))
    arm.rest(100 * MS)
    arm.want(moved(0.04))
    assert not arm.tick(120 * MS, True)


def test_servo_s_joints_are_taken_by_name_and_missing_ones_are_named():
    arm = by_servo()
    arm.target(Kinematics(WIDOWX_250S).forward(WIDOWX_READY), 0)
    wanted = dict(zip(WIDOWX_250S.names, moved(0.01, 0.02, 0.003), strict=True))
    names = sorted(wanted)
    arm.trajectory_seen("t", ["gripper", *names], [0.0, *[wanted[name] for name in names]])
    assert steps(arm.tick(20 * MS, True)) == [pytest.approx(moved(0.01, 0.02, 0.003))]
    with pytest.raises(ValueError, match="t has no joint waist; it has shoulder, elbow"):
        arm.trajectory_seen("t", WIDOWX_250S.names[1:], WIDOWX_READY[1:])
    assert not steps(arm.tick(40 * MS, True))


def test_what_servo_asks_for_stays_within_ranges_and_speeds_which_clipped_says():
    arm = by_servo()
    here, present = Kinematics(WIDOWX_250S).forward(WIDOWX_READY), WIDOWX_READY
    for i in range(1, 200):
        arm.target(here, 20 * i * MS)
        arm.want(moved(9.0, -9.0, 0.3))
        arm.want(moved(9.0, -9.0, 0.4))  # (Servo answers more often than the motors are told)
        (positions,) = steps(arm.tick(20 * i * MS + 1, True))
        for joint, now, before in zip(WIDOWX_250S.joints, positions, present, strict=True):
            assert joint.low < now < joint.high and abs(now - before) <= 1.5 * 0.02 + 1e-9
        present = positions
    assert present[0] == pytest.approx(WIDOWX_250S.joints[0].high, abs=0.03)
    arm.servo_seen(2)
    arm.target(here, 5000 * MS)
    assert {"servo_singularity", "joint_range_waist", "joint_range_shoulder"} <= {*arm.clipped}
    arm.servo_seen(0)
    arm.target(here, 5020 * MS)
    assert "servo_singularity" not in arm.clipped


def test_a_widowx_by_servo_has_its_calls_its_topics_and_xs_sdk_s_hand():
    arm, own = by_servo(), widowx()
    assert [c.service for c in arm.setup()] == [c.service for c in own.setup()]  # mode and profile as ever
    assert [(c.service, c.fields) for c in (*arm.start(), *arm.stop())] == [
        ("servo_node/switch_command_type", {"command_type": 2}),
        ("servo_node/pause_servo", {"data": False}),
        ("servo_node/pause_servo", {"data": True}),
    ]
    assert arm.settling > 0.1  # Servo's timeout is over before it is paused
    assert {name for name, _ in arm.topics} - {name for name, _ in own.topics} == {"servo_node/pose_target_cmds"}
    assert {(s.topic, s.what) for s in arm.sources} == {
        ("joint_states", "joints"), ("servo_node/status", "servo"), ("servo_node/joint_trajectory", "trajectory")
    }  # fmt: skip
    assert TRAJECTORY in {s.kind for s in arm.sources} and not arm.actions
    ((topic, push),) = arm.gripper(0.0)
    assert (topic, push) == ("commands/joint_single", JointSingle("gripper", -250.0))


def test_servo_without_its_node_s_name_is_refused():
    values = {row.name: row.default for row in PARAMETERS} | {"robot": "widowx", "widowx.ik": "servo"}
    with pytest.raises(ValueError, match=r"widowx.ik is servo, but servo.node is empty"):
        make_adapter(values.__getitem__)
    assert isinstance(make_adapter({**values, "servo.node": "servo_node"}.__getitem__), WidowXServoAdapter)


# ---- messages ------------------------------------------------------------------------------------


def test_a_twist_becomes_its_message_and_nan_does_not():
    message = messages.command_message(TwistTarget((0.1, 0, 0), (0, 0, 1), "base", 5))
    assert message.twist.linear.x == 0.1 and message.header.frame_id == "base"
    with pytest.raises(ValueError, match="angular speed is nan"):
        messages.command_message(TwistTarget((0.1, 0, 0), (0, 0, float("nan")), "base", 5))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (JointGroup("arm", (0.0,) * 5, 6), "positions of arm has 5 values, not 6"),
        (JointGroup("arm", (0.0,) * 5 + (float("inf"),), 6), "positions of arm is inf"),
        (JointSingle("gripper", float("nan")), "command of gripper is nan"),
    ],
)
def test_wrong_joint_commands_never_become_messages(command, message):
    with pytest.raises(ValueError, match=message):
        messages.command_message(command)


def test_requests_are_filled_by_name_and_type():
    from std_srvs.srv import SetBool

    assert messages.filled(SetBool.Request, {"data": True}).data is True
    with pytest.raises(ValueError, match="has no field 'date'; it has data"):
        messages.filled(SetBool.Request, {"date": True})


def test_a_missing_package_is_named_with_its_cure():
    with pytest.raises(ImportError, match="nowhere_msgs/msg/Nothing is needed, .* rosdep install nowhere_msgs"):
        load("nowhere_msgs/msg/Nothing")


@pytest.mark.parametrize("name", ["sim", "franka", "widowx", "generic", "google_robot"])
def test_every_robots_yaml_makes_an_adapter(root, name):
    values = {row.name: row.default for row in PARAMETERS}
    file = yaml.safe_load((root / "config" / "robots" / f"{name}.yaml").read_text())
    given = file["/**/bridge_node"]["ros__parameters"]
    rows = {row.name: row for row in PARAMETERS}
    adapter = make_adapter({**values, **{key: check(rows[key], value) for key, value in given.items()}}.__getitem__)
    assert {source.what for source in adapter.sources} >= {"joints"}
    assert all(topic and kind in messages.MESSAGE_OF for topic, kind in adapter.topics)
    assert name == "sim" or not given["enabled"], "a real arm waits for its operator"


def test_the_widowx_s_yaml_for_servo_makes_the_adapter_for_it(root):
    rows = {row.name: row for row in PARAMETERS}
    values = {row.name: row.default for row in PARAMETERS}
    for name in ("widowx", "widowx_servo"):
        file = yaml.safe_load((root / "config" / "robots" / f"{name}.yaml").read_text())
        values |= {key: check(rows[key], v) for key, v in file["/**/bridge_node"]["ros__parameters"].items()}
    adapter = make_adapter(values.__getitem__)
    assert isinstance(adapter, WidowXServoAdapter)
    assert [call.service for call in adapter.start()] == ["servo_node/switch_command_type", "servo_node/pause_servo"]


def test_the_reference_lists_every_robot_parameter_as_it_is_declared(root):
    text = (root / "docs" / "reference" / "robots.md").read_text()
    told = [line for line in text[text.index("| parameter |") :].splitlines()[2:] if line[:1] == "|"]
    shown = [f"`{p.default}`" if p.default not in ("", [""]) else "" for p in ROBOT_PARAMETERS]
    assert told == [
        f"| `{p.name}` | {default} | {p.unit} | {p.description} |"
        for p, default in zip(ROBOT_PARAMETERS, shown, strict=True)
    ]


def test_every_robot_parameter_is_declared_once():
    names = [p.name for p in ROBOT_PARAMETERS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("robot", ["franka", "widowx"])
def test_every_launch_argument_sets_a_declared_parameter_of_its_type(root, robot):
    body = ast.parse((root / "launch" / f"{robot}.launch.py").read_text()).body
    (table,) = [node.value for node in body if isinstance(node, ast.Assign) and node.targets[0].id == "ARGUMENTS"]
    arguments = eval(compile(ast.Expression(table), robot, "eval"), {"float": float, "str": str, "ROBOT": ROBOT})  # noqa: S307
    rows = {row.name: row for row in PARAMETERS}
    for name, _, description, targets in arguments:
        assert description, name
        assert all(node == "bridge_node" and type(rows[key].default) is kind for node, key, kind in targets)
    given = {name: default for name, default, _, _ in (*COMMON, *arguments)} | {"scale": "0.2", "camera": "realsense"}
    specs = stack(robot, given, (*COMMON, *arguments))
    assert [s.name for s in specs] == ["camera", "bridge_node", "policy_node", "lifecycle_manager"]
    assert specs[1].parameters == {"use_sim_time": False, "scale": 0.2}
