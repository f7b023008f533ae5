"""A controller_manager with one controller that subscribes to its topic even while inactive, as crisp's do.

`python controllers.py NAMESPACE CONTROLLER STATE TOPIC`; the manager is as ros2_control's: its controllers are nodes of
their own in its namespace. It knows a broadcaster, too, which is active.
"""

from __future__ import annotations

import contextlib
import sys

import rclpy
from controller_manager_msgs.msg import ControllerState
from controller_manager_msgs.srv import ListControllers
from geometry_msgs.msg import PoseStamped
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor


def main(namespace, name, state, topic):
    rclpy.init()
    manager, controller = (rclpy.create_node(n, namespace=namespace) for n in ("controller_manager", name))

    def listed(request, response):
        broadcaster = ControllerState(name="joint_state_broadcaster", state="active")
        response.controller = [broadcaster, ControllerState(name=name, state=state)]
        return response

    manager.create_service(ListControllers, "~/list_controllers", listed)
    controller.create_subscription(PoseStamped, topic, lambda _: None, 1)
    executor = SingleThreadedExecutor()
    executor.add_node(manager)
    executor.add_node(controller)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        executor.spin()


if __name__ == "__main__":
    main(*sys.argv[1:])
