"""A node with the services of MoveIt Servo and of xs_sdk, which are on no registry; it writes down what it was asked.

`python robot_services.py servo`; `… xs_sdk`: motors that answer, and do not take a profile (a power supply is off);
`… hand`: a Franka hand that takes every goal and never comes to an end.
"""

from __future__ import annotations

import sys

import rclpy
from rclpy.action import ActionServer, CancelResponse
from rclpy.executors import ExternalShutdownException

from openvla_ros.nodes.interfaces import load


def servo(node):
    def switch(request, response):
        print(f"switch_command_type {request.command_type}", flush=True)
        response.success = True
        return response

    def pause(request, response):
        print(f"pause_servo {request.data}", flush=True)
        response.success = True
        return response

    node.create_service(load("moveit_msgs/srv/ServoCommandType"), "servo_node/switch_command_type", switch)
    node.create_service(load("std_srvs/srv/SetBool"), "servo_node/pause_servo", pause)


def xs_sdk(node):
    def registers(request, response):
        response.values = [200] * 7 + [2000]
        return response

    node.create_service(load("interbotix_xs_msgs/srv/OperatingModes"), "set_operating_modes", lambda _, r: r)
    node.create_service(load("interbotix_xs_msgs/srv/RegisterValues"), "get_motor_registers", registers)


def hand(node):
    def cancel(handle):
        print("cancelled", flush=True)
        return CancelResponse.ACCEPT

    for name, kind in (("move", "Move"), ("grasp", "Grasp")):
        node.servers = [*getattr(node, "servers", []), ActionServer(
            node, load(f"franka_msgs/action/{kind}"), f"franka_gripper/{name}", lambda handle: None,
            handle_accepted_callback=lambda handle, name=name: print(f"{name} accepted", flush=True),
            cancel_callback=cancel,
        )]  # fmt: skip


if __name__ == "__main__":
    rclpy.init()
    node = rclpy.create_node("robot_services")
    {"servo": servo, "xs_sdk": xs_sdk, "hand": hand}[sys.argv[1]](node)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
