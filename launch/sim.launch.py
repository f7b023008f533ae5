"""The simulated bench: `ros2 launch openvla_ros sim.launch.py` (arguments: `--show-args`).

Starts the processes of `openvla_ros.bringup.process_table`, as `make demo` does. When one ends, all are ended.
"""

from openvla_ros.bringup.launch_description import describe

# In addition to launch_description.COMMON: name, default ('' = as in config/), description, the parameters it sets.
ARGUMENTS = [
    ("robot", "sim", "sim, or a real robot's bridge on an emulated driver: franka_sim, widowx_sim", []),
    ("seed", "", "Seed of the first scene", [("sim_node", "seed", int)]),
    ("real_time_factor", "", "Simulated seconds per wall-clock second", [("sim_node", "real_time_factor", float)]),
    ("expert_role", "", "Role of the scripted expert: off, label or act", [("sim_node", "expert.role", str)]),
    ("expert_target", "", "Object that the expert lifts", [("sim_node", "expert.target", str)]),
]


def generate_launch_description():
    return describe("sim", ARGUMENTS)
