"""Any arm by YAML alone: `ros2 launch openvla_ros generic.launch.py config:=my_arm.yaml` (arguments: `--show-args`).

Start the robot's own driver first, by itself (docs/how-to/add-a-robot.md). When one process ends, all end.
"""

from openvla_ros.bringup.launch_description import ROBOT, describe

ARGUMENTS = ROBOT  # in addition to launch_description.COMMON


def generate_launch_description():
    return describe("generic", ARGUMENTS)
