"""`openvla-teleop`: drive the simulated arm and record demonstrations, in one terminal and without `ros2 launch`.

Starts simulator, bridge and recorder in a ROS domain of their own; teleop_node runs in this process, so that it has the
terminal's keyboard.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from openvla_policy.command_line import parse
from openvla_ros.bringup.image_window import ImageWindow
from openvla_ros.bringup.process_table import (
    BRIDGE,
    CAMERA_WINDOW,
    MANAGER,
    SIM,
    TELEOP,
    ProcessSpec,
    argv,
    teleoperation,
)
from openvla_ros.bringup.ros_domain import DomainLease, ros_environment
from openvla_ros.bringup.supervisor import ProcessDied, Supervisor
from openvla_ros.nodes.common.process import run

COMMAND = "openvla-teleop"


@dataclass(frozen=True)
class Options:
    """Options of openvla-teleop."""

    output: Path
    """Folder for the bags."""
    device: str = "keyboard"
    """A file of config/teleop, or a path."""
    instruction: str = ""
    """Instruction of the demonstrations, in the words that the policy will receive."""
    target: int = 0
    """Number of successes to record, for the counter."""
    seed: int = 0
    """Seed of the first scene."""
    show: bool = False
    """Open a window with the camera's image."""
    blocking: bool = False
    """Blocking control, one action at a time, instead of streaming."""
    domain: int | None = None
    """ROS domain; if omitted, a free one."""


def specs_of(options: Options) -> tuple[list[ProcessSpec], ProcessSpec]:
    """The processes to start, and the spec of teleop_node, which runs in this process."""
    overrides: dict[str, dict[str, object]] = {SIM: {"seed": options.seed}}
    if options.blocking:
        overrides[BRIDGE] = {"control_mode": "blocking"}
    teleop = {"instruction": options.instruction, "autostart": True}
    recorder = {"output": str(options.output.resolve()), "target_episodes": options.target}
    specs = teleoperation(options.device, teleop=teleop, recorder=recorder, overrides=overrides)
    here = next(spec for spec in specs if spec.name == TELEOP)
    *nodes, manager = (spec for spec in specs if spec is not here)
    assert manager.name == MANAGER
    others = [*nodes, replace(manager, parameters={"managed_nodes": [spec.name for spec in nodes]})]
    if options.show:
        others.append(ProcessSpec(CAMERA_WINDOW, CAMERA_WINDOW))
    return others, here


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exits 0 when the operator quits, 1 with the reason when a process failed."""
    description = (
        "Drive the simulated arm and record demonstrations. A gamepad's driver (joy_node) must run in the ROS domain "
        "that is printed."
    )
    options = parse(Options, arguments, prog=COMMAND, description=description)
    status = 1
    try:
        others, here = specs_of(options)
        if options.show:
            ImageWindow(COMMAND).close()  # report a missing display before anything starts
        lease = DomainLease() if options.domain is None else None  # until this process ends
        domain = lease.domain if lease else options.domain or 0
        environment = ros_environment(domain)
        os.environ.update({k: environment[k] for k in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE")})
        print(f"ROS_DOMAIN_ID={domain}; logs in {options.output / 'logs'}; starting takes some seconds")
        # Imported late: --help and a wrong device need no ROS.
        from openvla_ros.nodes.teleop.teleop_node import TeleopNode

        with Supervisor(options.output / "logs", environment) as supervisor:
            for spec in others:
                supervisor.start(spec.name, argv(spec))
            command = argv(here)
            status = run(TeleopNode, command[command.index("--ros-args") - 1 :])
            supervisor.check()
    except ProcessDied as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        status = 1
    except (OSError, ValueError, RuntimeError) as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
    sys.stdout.flush()
    os._exit(status)  # without waiting for library threads, as the nodes do


if __name__ == "__main__":
    main()
