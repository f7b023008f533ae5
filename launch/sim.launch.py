"""The simulated bench: `ros2 launch openvla_ros sim.launch.py` (arguments: `--show-args`).

Starts exactly the processes of `openvla_ros.bringup.process_table`, as `make demo` does, and ends all when one ends.
"""

from openvla_ros.bringup.launch_description import describe

# Beside those of `bringup_launch.COMMON`: name, default ('' = what config/ says), description, the parameters it sets
ARGUMENTS = [
    ("robot", "sim", "sim, or a robot's own bridge on a simulated arm: franka_sim, widowx_sim", []),
    ("seed", "", "Seed of the first scene", [("sim_node", "seed", int)]),
    ("real_time_factor", "", "Simulated seconds per wall second", [("sim_node", "real_time_factor", float)]),
    ("expert_role", "", "off, label or act", [("sim_node", "expert.role", str)]),
    ("expert_target", "", "Object that the expert goes for", [("sim_node", "expert.target", str)]),
]


def generate_launch_description():
    return describe("sim", ARGUMENTS)
