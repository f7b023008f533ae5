"""The recorder on a robot: `ros2 launch openvla_ros record.launch.py output:=~/bags target:=50` (`--show-args`).

Episodes are started and ended with the keys of `openvla-record`, the buttons of teleop_node, or the two services.
The topic list is the one of the YAML file; `ros2 bag record $(openvla-record --topics)` records the same.
"""

from openvla_ros.bringup.launch_description import action, description, overrides
from openvla_ros.bringup.process_table import ProcessSpec
from openvla_ros.paths import config_file

NODE = "recorder_node"
# name, default ('' = what the file says), description, the parameters it sets
ARGUMENTS = [
    ("config", "recorder", "A file of config/recording, or a path", []),
    ("namespace", "", "Namespace of the robot's topics", []),
    ("use_sim_time", "false", "true or false: take the time from /clock", [("recorder_node", "use_sim_time", bool)]),
    ("clock", "", "Topic of that time ('' = /clock, or a namespace's own clock, as of sim.launch.py namespace:=…)", []),
    ("output", "", "Folder for the bags", [("recorder_node", "output", str)]),
    ("target", "", "Successes wanted, for the counter", [("recorder_node", "target_episodes", int)]),
    ("compression", "", "zstd or none", [("recorder_node", "compression", str)]),
    ("write", "", "false: only mark episodes, for `ros2 bag record`", [("recorder_node", "write", bool)]),
]


def recorder(given):
    file = config_file("recording", given["config"], "config")
    values = {"autostart": True, **overrides(given, ARGUMENTS)[NODE]}
    clock = given["clock"] or ("clock" if given["namespace"].strip("/") and values["use_sim_time"] else "/clock")
    onto = () if clock == "/clock" else (("/clock", clock),)
    return [ProcessSpec(NODE, NODE, (file,), values, given["namespace"], onto)]


def generate_launch_description():
    return description("record.launch.py", ARGUMENTS, lambda given: [action(spec) for spec in recorder(given)])
