"""`openvla-teleop`: drive the simulated arm and record demonstrations, in one terminal and without `ros2 launch`.

Starts simulator, bridge and recorder in a ROS domain of their own; teleop_node runs here, so that a keyboard works.
A gamepad's driver (joy_node) must run in the domain that is printed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from openvla_ros.bringup.image_window import Window
from openvla_ros.bringup.process_table import MANAGER, NODE, ProcessSpec, argv, teleoperation
from openvla_ros.bringup.ros_domain import DomainLease, ros_environment
from openvla_ros.bringup.supervisor import ProcessDied, Supervisor
from openvla_ros.nodes.common.process import run


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="openvla-teleop", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = made.add_argument
    add("--device", default="keyboard", metavar="NAME", help="a file of config/teleop, or a path (keyboard)")
    add("--output", type=Path, required=True, metavar="DIR", help="bags go here")
    add("--instruction", default="", metavar="TEXT", help="what is demonstrated, as the policy is to hear it")
    add("--target", type=int, default=0, metavar="N", help="successes wanted, for the counter")
    add("--seed", type=int, default=0, metavar="S", help="scene (0)")
    add("--show", action="store_true", help="a window with what the camera sees")
    add("--blocking", action="store_true", help="action by action, as a policy in blocking control; else streaming")
    add("--domain", type=int, metavar="N", help="ROS domain; default: one that is free")
    return made


def specs_of(options: argparse.Namespace) -> tuple[list[ProcessSpec], ProcessSpec]:
    """The processes to start, and teleop_node's spec, which runs here."""
    overrides: dict[str, dict[str, object]] = {"sim_node": {"seed": options.seed}}
    if options.blocking:
        overrides["bridge_node"] = {"control_mode": "blocking"}
    teleop = {"instruction": options.instruction, "autostart": True}
    recorder = {"output": str(options.output.resolve()), "target_episodes": options.target}
    specs = teleoperation(options.device, teleop=teleop, recorder=recorder, overrides=overrides)
    here = next(spec for spec in specs if spec.name == NODE)
    others = [spec for spec in specs if spec is not here]
    managed = [spec.name for spec in others if spec.name != MANAGER]
    others = [
        ProcessSpec(s.executable, s.name, (), {"managed_nodes": managed}) if s.name == MANAGER else s for s in others
    ]
    return others + ([ProcessSpec("camera_window", "camera_window")] if options.show else []), here


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits 0 when the operator ends it, 1 with the reason when a process does not run."""
    options = parser().parse_args(arguments)
    status = 1
    try:
        others, here = specs_of(options)
        if options.show:
            Window("openvla-teleop").close()  # a display that is not there is told of before anything starts
        lease = DomainLease() if options.domain is None else None
        domain = options.domain if lease is None else lease.domain
        environment = ros_environment(domain)
        os.environ.update({k: environment[k] for k in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE")})
        print(f"ROS_DOMAIN_ID={domain}; logs in {options.output / 'logs'}; it takes some seconds to start")
        # teleop_node is imported late: --help and a wrong device need no ROS.
        from openvla_ros.nodes.teleop.teleop_node import TeleopNode

        with Supervisor(options.output / "logs", environment) as supervisor:
            for spec in others:
                supervisor.start(spec.name, argv(spec))
            command = argv(here)
            status = run(TeleopNode, command[command.index("--ros-args") - 1 :])
            supervisor.check()
    except ProcessDied as error:
        print(f"openvla-teleop: {error}", file=sys.stderr)
        status = 1
    except (OSError, ValueError, RuntimeError) as error:
        print(f"openvla-teleop: {error}", file=sys.stderr)
    sys.stdout.flush()
    os._exit(status)  # as `main_of`: without waiting for library threads


if __name__ == "__main__":
    main()
