"""An operator moves the simulated arm: `ros2 launch openvla_ros teleop.launch.py device:=gamepad` (`--show-args`).

Simulator, bridge, recorder and teleop_node. The keyboard needs a terminal of its own: `device:=none` here, and there
`ros2 run openvla_ros teleop_node --ros-args -p autostart:=true -p use_sim_time:=true`.
"""

from openvla_ros.bringup.launch_description import action, description, overrides
from openvla_ros.bringup.process_table import teleoperation

# Name, default ('' = as in config/), description, the parameters it sets.
ARGUMENTS = [
    ("device", "gamepad", "A file of config/teleop (gamepad, spacemouse, leader, guide), a path, or none", []),
    ("output", "~/openvla/bags", "Folder for the bags", [("recorder_node", "output", str)]),
    ("instruction", "", "Instruction of the demonstrations", [("teleop_node", "instruction", str)]),
    ("target", "", "Number of successes to record, for the counter", [("recorder_node", "target_episodes", int)]),
    ("control_mode", "", "blocking or streaming", [("bridge_node", "control_mode", str)]),
    ("seed", "", "Seed of the first scene", [("sim_node", "seed", int)]),
]


def processes(given):
    values = overrides(given, ARGUMENTS)
    teleop, recorder = values.pop("teleop_node", {}), values.pop("recorder_node")
    specs = teleoperation(given["device"], teleop=teleop, recorder=recorder, overrides=values)
    return [action(spec) for spec in specs]


def generate_launch_description():
    return description("teleop.launch.py", ARGUMENTS, processes)
