"""The policy server: `ros2 launch openvla_ros serve.launch.py checkpoint:=DIR` (arguments: `--show-args`).

Starts `openvla-serve`, which needs no ROS, as in a shell. The policy node uses it with config/policies/remote.yaml.
"""

from openvla_ros.bringup.launch_description import description, on_exit
from openvla_ros.paths import resolve

# Name (openvla-serve's option --NAME, with - for _), default ('' = openvla-serve's own), description.
ARGUMENTS = [
    ("checkpoint", "checkpoints/openvla-tiny-sim", "Checkpoint folder, hub id or un-merged adapter"),
    ("host", "", "Address to listen on (127.0.0.1); 0.0.0.0 for other machines, then with token_file"),
    ("port", "", "Port to listen on (8000)"),
    ("precision", "", "Number format of the weights (fp32)"),
    ("runtime", "", "How the model is run (eager)"),
    ("vocabulary", "actions", "Tokens decoding may choose: full or actions"),
    ("device", "", "cpu, cuda, cuda:1, … (a GPU where there is one)"),
    ("unnorm_key", "", "Statistics for requests that name none (the only ones)"),
    ("frame", "", "Frame of the actions, which clients compare with theirs (not said)"),
    ("period", "", "Time between the actions of the data [s], which clients compare with theirs (not said)"),
    ("token_file", "", "File with the bearer token that clients must send (none)"),
    ("tls_certificate", "", "PEM file; needs tls_key (no TLS)"),
    ("tls_key", "", "PEM file; needs tls_certificate"),
    ("max_batch", "", "Requests of different clients in one pass (8)"),
    ("batch_wait", "", "How long a pass waits for more requests [ms] (0)"),
]


def server(given):
    from launch.actions import ExecuteProcess
    from launch_ros.substitutions import ExecutableInPackage

    options = dict(given)
    # By package, since only env.bash puts the command on PATH.
    command = [ExecutableInPackage("openvla-serve", "openvla_policy"), str(resolve(options.pop("checkpoint")))]
    for name, value in options.items():
        command += ["--" + name.replace("_", "-"), value] if value else []
    return [ExecuteProcess(cmd=command, name="openvla_serve", output="screen", on_exit=on_exit("openvla-serve"))]


def generate_launch_description():
    return description("serve.launch.py", ARGUMENTS, server)
