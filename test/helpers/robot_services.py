"""A node with the services of MoveIt Servo and xs_sdk, which no Python registry has; it prints its requests.

`python robot_services.py servo`; `… xs_sdk`: a WidowX whose gripper never arrives; `… xs_sdk dark`: one whose
motors do not take a profile (no power); `… xs_sdk velocity`: one in another mode; `… gripper`: a Franka
gripper that accepts every goal, and ends it only after a cancellation, with a delay; `… gripper homing`: one that
refuses its first goal; `… gripper broken`: every goal.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections import deque
from functools import partial

import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import JointState

from openvla_ros.geometry import distance
from openvla_ros.nodes.common.conversions import read_pose
from openvla_ros.nodes.common.message_types import load
from openvla_ros.robots.arms import WIDOWX_250S, WIDOWX_READY


def servo(node):
    poses = deque(maxlen=2)

    def switch(request, response):
        print(f"switch_command_type {request.command_type}", flush=True)
        response.success = True
        return response

    def pause(request, response):
        print(f"pause_servo {request.data}{since()}", flush=True)
        response.success = True
        return response

    def since():
        """Distance of the newest pose from the previous one, and its age."""
        if len(poses) < 2:
            return ""
        (a, _), (b, at) = ((read_pose(message)[0], at) for message, at in poses)
        return f": last step {1e3 * distance(a, b):.3f} mm, {time.monotonic() - at:.2f} s ago"

    node.create_subscription(
        PoseStamped, "servo_node/pose_target_cmds", lambda m: poses.append((m, time.monotonic())), 100
    )
    node.create_service(load("moveit_msgs/srv/ServoCommandType"), "servo_node/switch_command_type", switch)
    node.create_service(load("std_srvs/srv/SetBool"), "servo_node/pause_servo", pause)


def xs_sdk(node, how=""):
    registers = {"Profile_Velocity": 2000, "Profile_Acceleration": 300}
    states = node.create_publisher(JointState, "joint_states", 10)
    finger = itertools.cycle([0.026, 0.0265])

    def info(request, response):
        response.joint_names = list(WIDOWX_250S.names)
        response.mode, response.profile_type = "velocity" if how == "velocity" else "position", "time"
        return response

    def write(request, response):
        registers[request.reg] = request.value
        return response

    def read(request, response):
        response.values = [registers[request.reg]] * 5 + [2000 if how == "dark" else registers[request.reg]]
        return response

    def modes(request, response):
        print(f"mode {request.cmd_type} {request.name} {request.mode}", flush=True)
        return response

    def report():
        names = [*WIDOWX_250S.names, "left_finger"]
        message = JointState(name=names, position=[*WIDOWX_READY, next(finger)])
        message.header.stamp = node.get_clock().now().to_msg()
        states.publish(message)

    node.create_service(load("interbotix_xs_msgs/srv/RobotInfo"), "get_robot_info", info)
    node.create_service(load("interbotix_xs_msgs/srv/OperatingModes"), "set_operating_modes", modes)
    node.create_service(load("interbotix_xs_msgs/srv/RegisterValues"), "set_motor_registers", write)
    node.create_service(load("interbotix_xs_msgs/srv/RegisterValues"), "get_motor_registers", read)
    single = load("interbotix_xs_msgs/msg/JointSingleCommand")
    node.create_subscription(single, "commands/joint_single", lambda m: print(f"{m.name} {m.cmd:g}", flush=True), 10)
    node.create_timer(0.02, report)


def gripper(node, how=""):
    """Prints when a goal has ended; the real driver takes the end of a goal for that of the next one, too."""
    going = {}
    homing = [how in ("homing", "broken")]

    def decide(request):
        refused, homing[0] = homing[0], how == "broken"
        if refused:
            print("refused", flush=True)
        return GoalResponse.REJECT if refused else GoalResponse.ACCEPT

    def accept(name, handle):
        print(f"{name} accepted", flush=True)
        going[name] = handle

    def cancel(handle):
        print("cancelled", flush=True)
        return CancelResponse.ACCEPT

    def end_cancelled():
        for name, handle in list(going.items()):
            if handle.is_cancel_requested:
                del going[name]
                print(f"{name} stops", flush=True)
                handle.execute()

    def end(kind, handle):
        handle.canceled()
        return load(f"franka_msgs/action/{kind}").Result()

    for name, kind in (("move", "Move"), ("grasp", "Grasp")):
        node.servers = [*getattr(node, "servers", []), ActionServer(
            node, load(f"franka_msgs/action/{kind}"), f"franka_gripper/{name}", partial(end, kind),
            goal_callback=decide, handle_accepted_callback=partial(accept, name), cancel_callback=cancel,
        )]  # fmt: skip
    node.create_timer(0.3, end_cancelled)


if __name__ == "__main__":
    rclpy.init()
    node = rclpy.create_node("robot_services")
    {"servo": servo, "xs_sdk": xs_sdk, "gripper": gripper}[sys.argv[1]](node, *sys.argv[2:])
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
