"""The recorder on a robot: `ros2 launch openvla_ros record.launch.py output:=~/bags target:=50` (`--show-args`).

The keys of `openvla-record`, the buttons of teleop_node, or two services start and end episodes. The YAML file has the
list of topics; `ros2 bag record $(openvla-record --topics)` records the same ones.
"""

from openvla_ros.bringup.launch_description import action, description, overrides
from openvla_ros.bringup.process_table import ProcessSpec
from openvla_ros.paths import config_file

NODE = "recorder_node"
# Name, default ('' = as in the file), description, the parameters it sets.
ARGUMENTS = [
    ("config", "recorder", "A file of config/recording, or a path", []),
    ("namespace", "", "Namespace of the robot's topics", []),
    ("use_sim_time", "false", "true or false: use the time on /clock", [("recorder_node", "use_sim_time", bool)]),
    ("clock", "", "Topic of the simulated time ('' = /clock, or a namespace's own clock, as in sim.launch.py)", []),
    ("output", "", "Folder for the bags", [("recorder_node", "output", str)]),
    ("target", "", "Number of successes to record, for the counter", [("recorder_node", "target_episodes", int)]),
    ("compression", "", "Compression of the bags: zstd or none", [("recorder_node", "compression", str)]),
    ("write", "", "false: only mark episodes, for `ros2 bag record`", [("recorder_node", "write", bool)]),
]


def recorder(given):
    file = config_file("recording", given["config"], "config")
    values = {"autostart": True, **overrides(given, ARGUMENTS)[NODE]}
    clock = given["clock"] or ("clock" if given["namespace"].strip("/") and values["use_sim_time"] else "/clock")
    remappings = () if clock == "/clock" else (("/clock", clock),)
    return [ProcessSpec(NODE, NODE, (file,), values, given["namespace"], remappings)]


def generate_launch_description():
    return description("record.launch.py", ARGUMENTS, lambda given: [action(spec) for spec in recorder(given)])
