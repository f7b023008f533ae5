"""Commands and readings of the adapters, as plain values. (As messages: test_messages.py and the driver tests.)"""

from __future__ import annotations

import ast
from types import SimpleNamespace

import pytest
import yaml
from action_msgs.msg import GoalStatus

from openvla_ros.bringup.launch_description import COMMON, ROBOT, stack
from openvla_ros.geometry import Pose
from openvla_ros.nodes.bridge.parameters import BridgeParameters, robot_adapter
from openvla_ros.nodes.bridge.robot_interface import failure
from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.message_types import load
from openvla_ros.parameters import build, rows as parameter_rows
from openvla_ros.robots.adapter import JOINTS, Goal, JointGroup, JointSingle, PoseTarget, TwistTarget
from openvla_ros.robots.franka import MODES, FrankaAdapter, FrankaConfig
from openvla_ros.robots.generic import GenericAdapter, GenericConfig
from openvla_ros.robots.grippers import GripperConfig
from openvla_ros.robots.parameters import RobotParameters
from openvla_ros.robots.widowx import WidowXServoAdapter

MS = 1_000_000
DOWN = (1.0, 0.0, 0.0, 0.0)
GRIPPER = GripperConfig("franka", "franka_gripper", "franka_gripper/joint_states", ("f1", "f2"), 0.0, 0.08)


def pose(x=0.4, y=0.0, z=0.3):
    return Pose.of((x, y, z), DOWN)


# ---- franka and generic --------------------------------------------------------------------------


def test_a_franka_moves_to_open_and_grasps_to_close():
    franka = FrankaAdapter(GenericConfig("base", gripper=GRIPPER), FrankaConfig())
    ((topic, command),) = franka.target(pose(), 5)
    assert (topic, command) == ("target_pose", PoseTarget(pose(), "base", 5))
    ((name, move),) = franka.gripper(1.0)
    assert (name, move) == ("franka_gripper/move", Goal("franka_msgs/action/Move", {"width": 0.08, "speed": 0.1}))
    assert franka.gripper_timeout == 3.0 and franka.recovery_timeout == FrankaConfig().recovery_timeout
    assert GenericAdapter(GenericConfig("base")).gripper_timeout is None  # a topic: no goal, no timeout
    ((name, grasp),) = franka.gripper(0.0)
    assert name == "franka_gripper/grasp" and grasp.fields["width"] == 0.0 and grasp.fields["force"] == 20.0
    assert grasp.fields["epsilon"] == {"inner": 0.08, "outer": 0.08}  # any object between the fingers is meant
    assert {name for name, _ in franka.actions} >= {"franka_gripper/move", "franka_gripper/grasp"}
    read = franka.sources["franka_gripper/joint_states"].read
    assert read(["f2", "f1"], [0.02, 0.02], 0).opening == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no joint f2; the message has f1"):
        read(["f1"], [0.02], 0)


def test_only_a_reflex_of_a_franka_names_the_recovery():
    franka = FrankaAdapter(GenericConfig("base", gripper=GRIPPER), FrankaConfig())
    handler = franka.sources["franka_robot_state_broadcaster/robot_state"]
    said = {name: handler.read(mode).fault for mode, name in enumerate(MODES)}
    assert [name for name, why in said.items() if not why] == ["idle", "move"]
    assert "recover_robot" in said["reflex"] and "recover_robot" not in said["user stopped"]
    assert "unknown mode 42" in handler.read(42).fault
    assert franka.recovery is not None and franka.recovery[0] == "action_server/error_recovery"
    # (From franka_ros2 3.3.0 on a reflex silences the driver: silence names the same remedy, and the next steps.)
    assert "recover_robot" in handler.silence
    after = franka.after_recovery
    hardware, switch = "set_hardware_component_state FrankaHardwareInterface active", "switch_controllers --activate"
    assert hardware in after and switch in after and after.index(hardware) < after.index(switch)
    assert not GenericAdapter(GenericConfig("base")).recovery


def test_the_command_action_takes_the_position_of_one_finger():
    gripper = GripperConfig("command", "gripper_action", "js", ("f1", "f2"), 0.0, 0.08)
    ((name, goal),) = GenericAdapter(GenericConfig("base", gripper=gripper)).gripper(1.0)
    assert (name, goal.fields) == ("gripper_action", {"command": {"position": 0.04, "max_effort": 20.0}})


def test_a_gripper_without_a_range_is_refused():
    with pytest.raises(ValueError, match="hand.closed and hand.opened are both 0.04"):
        GripperConfig(closed=0.04, opened=0.04)


@pytest.mark.parametrize(
    ("said", "status", "why"),
    [
        ({"success": True, "error": ""}, GoalStatus.STATUS_SUCCEEDED, ""),
        ({"success": False, "error": "no object"}, GoalStatus.STATUS_SUCCEEDED, "no object"),
        ({"reached_goal": True, "stalled": False}, GoalStatus.STATUS_SUCCEEDED, ""),
        ({"reached_goal": False, "stalled": True}, GoalStatus.STATUS_ABORTED, ""),  # it holds something
        ({"reached_goal": False, "stalled": False}, GoalStatus.STATUS_ABORTED, "no reason given"),
    ],
)
def test_a_stalled_gripper_has_not_failed(said, status, why):
    assert failure(SimpleNamespace(**said), status) == why


def test_moveit_servo_is_switched_unpaused_and_paused():
    for command, number in (("twist", 1), ("pose", 2)):
        servo = GenericAdapter(GenericConfig("base", command, "servo_node/x", servo_node="servo_node"))
        switch, pause = servo.start()
        assert (switch.service, switch.fields) == ("servo_node/switch_command_type", {"command_type": number})
        assert switch.expect == {"success": True}
        assert (pause.service, pause.fields) == ("servo_node/pause_servo", {"data": False})
        assert [call.fields for call in servo.stop()] == [{"data": True}]
    assert not GenericAdapter(GenericConfig("base")).start()


def test_the_last_pose_is_repeated_for_servo():
    """Servo drops a pose after 0.1 s; other controllers get it once."""
    servo = GenericAdapter(GenericConfig("base", servo_node="servo_node", period=0.02))
    servo.target(pose(x=0.5), 20 * MS)
    assert not servo.tick(40 * MS, True)  # the stream continues
    ((_, again),) = servo.tick(60 * MS, True)
    assert again == PoseTarget(pose(x=0.5), "base", 60 * MS)
    assert not servo.tick(100 * MS, False)
    assert not servo.rest(120 * MS) and not servo.tick(200 * MS, True)
    holds = GenericAdapter(GenericConfig("base", period=0.02))
    holds.target(pose(), 20 * MS)
    assert not holds.tick(400 * MS, True)


def test_twists_follow_the_targets_and_end_at_rest():
    servo = GenericAdapter(GenericConfig("base", "twist", "servo_node/delta_twist_cmds", speed=0.3, period=0.02))
    servo.pose_accepted(pose())
    servo.target(pose(), 0)
    ((_, twist),) = servo.target(pose(x=0.402), 20 * MS)
    assert isinstance(twist, TwistTarget) and twist.linear == pytest.approx((0.1 + 2.0 * 0.002, 0.0, 0.0))
    ((_, twist),) = servo.target(pose(x=0.6), 40 * MS)
    assert twist.linear == pytest.approx((0.3, 0.0, 0.0))  # capped
    assert not servo.tick(60 * MS, True)  # the stream continues: a target may still come
    ((_, twist),) = servo.tick(80 * MS, True)  # it has ended: the following error remains
    assert 0.0 < twist.linear[0] <= 0.3
    assert not servo.tick(120 * MS, False)
    ((_, twist),) = servo.rest(140 * MS)
    assert twist.linear == twist.angular == (0.0, 0.0, 0.0)
    assert not servo.tick(900 * MS, True)


# ---- messages ------------------------------------------------------------------------------------


def test_a_twist_with_nan_becomes_no_message():
    message = conversions.command_message(TwistTarget((0.1, 0, 0), (0, 0, 1), "base", 5))
    assert message.twist.linear.x == 0.1 and message.header.frame_id == "base"
    with pytest.raises(ValueError, match="angular speed is nan"):
        conversions.command_message(TwistTarget((0.1, 0, 0), (0, 0, float("nan")), "base", 5))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (JointGroup("arm", (0.0,) * 5, 6), "positions of arm has 5 values, not 6"),
        (JointGroup("arm", (0.0,) * 5 + (float("inf"),), 6), "positions of arm is inf"),
        (JointSingle("gripper", float("nan")), "command of gripper is nan"),
    ],
)
def test_malformed_joint_commands_become_no_messages(command, message):
    with pytest.raises(ValueError, match=message):
        conversions.command_message(command)


def test_requests_are_filled_by_name_and_type():
    from std_srvs.srv import SetBool

    assert conversions.filled(SetBool.Request, {"data": True}).data is True
    with pytest.raises(ValueError, match="has no field 'date'; it has data"):
        conversions.filled(SetBool.Request, {"date": True})


def test_a_missing_message_package_is_named_with_its_remedy():
    with pytest.raises(ImportError, match="nowhere_msgs/msg/Nothing is needed, .* rosdep install nowhere_msgs"):
        load("nowhere_msgs/msg/Nothing")


@pytest.mark.parametrize("name", ["sim", "franka", "widowx", "generic", "google_robot"])
def test_every_robots_yaml_makes_an_adapter(root, name):
    file = yaml.safe_load((root / "config" / "robots" / f"{name}.yaml").read_text())
    given = file["/**/bridge_node"]["ros__parameters"]
    adapter = robot_adapter(build(BridgeParameters, given))
    assert JOINTS in {handler.kind for handler in adapter.sources.values()}
    assert all(topic and kind in conversions.MESSAGE_OF for topic, kind in adapter.topics)
    assert name == "sim" or not given["enabled"], "a real arm waits for its operator"


def test_the_yaml_for_servo_makes_the_servo_adapter(root):
    values = {}
    for name in ("widowx", "widowx_servo"):
        file = yaml.safe_load((root / "config" / "robots" / f"{name}.yaml").read_text())
        values |= file["/**/bridge_node"]["ros__parameters"]
    adapter = robot_adapter(build(BridgeParameters, values))
    assert isinstance(adapter, WidowXServoAdapter)
    assert [call.service for call in adapter.start()] == ["servo_node/switch_command_type", "servo_node/pause_servo"]


def test_every_robot_parameter_is_declared_once():
    names = [p.name for p in parameter_rows(RobotParameters)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("robot", ["franka", "widowx"])
def test_every_launch_argument_sets_a_declared_parameter_of_its_type(root, robot):
    body = ast.parse((root / "launch" / f"{robot}.launch.py").read_text()).body
    (table,) = [node.value for node in body if isinstance(node, ast.Assign) and node.targets[0].id == "ARGUMENTS"]
    arguments = eval(compile(ast.Expression(table), robot, "eval"), {"float": float, "str": str, "ROBOT": ROBOT})
    rows = {row.name: row for row in parameter_rows(BridgeParameters)}
    for name, _, description, targets in arguments:
        assert description, name
        assert all(node == "bridge_node" and type(rows[key].default) is kind for node, key, kind in targets)
    given = {name: default for name, default, _, _ in (*COMMON, *arguments)} | {"scale": "0.2", "camera": "realsense"}
    specs = stack(robot, given, (*COMMON, *arguments))
    assert [s.name for s in specs] == ["camera", "bridge_node", "policy_node", "lifecycle_manager"]
    assert specs[1].parameters == {"use_sim_time": False, "scale": 0.2}
