"""`openvla-doctor`: looks at a workstation and a running stack before the first motion, and prints ✓, ✗ and remedies.

It only listens: nothing is published but its own name. Exit status: 0 no ✗, 1 at least one, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import rclpy
import yaml
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import CompressedImage, Image

from openvla_ros.apps.doctor import checks, machine
from openvla_ros.apps.doctor.checks import BAD, SIGNS, SKIP, Finding
from openvla_ros.apps.doctor.stack_probe import Listener
from openvla_ros.bringup.process_table import ROBOTS, ProcessSpec, bringup, camera_files
from openvla_ros.nodes.bridge.parameters import BridgeParameters
from openvla_ros.nodes.common.action_messages import SAFETY_NAMES
from openvla_ros.nodes.policy.parameters import PolicyParameters
from openvla_ros.parameters import build, rows as parameter_rows

COLOURS = {checks.OK: "green", BAD: "red", SKIP: "dim"}
BRIDGE_NODE, POLICY_NODE = "bridge_node", "policy_node"
BRIDGE, POLICY = parameter_rows(BridgeParameters), parameter_rows(PolicyParameters)
TABLES = {BRIDGE_NODE: BRIDGE, POLICY_NODE: POLICY}
FROM_BRIDGE = ["watchdog.state", "watchdog.observation", "watchdog.future", "control_mode"]
FROM_POLICY = [row.name for row in POLICY]


def configured(spec: ProcessSpec) -> dict[str, Any]:
    """A node's parameters as its YAML files and the bringup table set them, over the defaults."""
    values: dict[str, Any] = {row.name: row.default for row in TABLES[spec.name]}
    for file in spec.params_files:
        document = yaml.safe_load(file.read_text()) or {}
        for key in (f"/**/{spec.name}", spec.name, "/**"):
            values |= (document.get(key) or {}).get("ros__parameters") or {}
    return values | dict(spec.parameters)


def examine(options: argparse.Namespace) -> list[Finding]:
    """All rows, in the order in which they should be mended."""
    stack = bringup(
        options.robot, manager=False, namespace=options.namespace, camera=options.camera, config=options.config
    )
    specs = {s.name: s for s in stack}
    simulated = bool(specs[BRIDGE_NODE].parameters["use_sim_time"])
    values = {name: configured(specs[name]) for name in TABLES}
    given = {
        "checkpoint": options.checkpoint, "unnorm_key": options.unnorm_key, "server.url": options.server,
        "server.token_file": options.server_token_file,
        "policy.backend": "local" if options.checkpoint else "remote" if options.server else "",
    }  # fmt: skip
    expected = [name for name in specs if not (options.no_policy and name == POLICY_NODE)]
    listener = Listener(options.namespace, simulated, specs[BRIDGE_NODE].remappings)
    try:
        states = listener.lifecycle(expected, options.wait)
        up = [name for name, state in states.items() if state]
        asked = {BRIDGE_NODE: FROM_BRIDGE, POLICY_NODE: FROM_POLICY}
        for name, live in listener.parameters({n: asked[n] for n in asked if n in up}, 3.0).items():
            values[name] |= {k: v for k, v in live.items() if v is not None}
        values[POLICY_NODE] |= {k: v for k, v in given.items() if v}
        heard = _listen(listener, values, options)
    finally:
        listener.close()
    rows = _machine_rows(values, heard, simulated)
    rows.append(checks.nodes(states))
    rows += _stack_rows(values, heard, simulated, options.namespace)
    if not options.no_policy:
        policy = _policy_parameters(values[POLICY_NODE])
        rows += machine.policy_rows(policy, loaded=states.get(POLICY_NODE) in ("active", "inactive"))
        rows.append(_rate_row(values, heard, options))
    return rows


def _policy_parameters(values: Mapping[str, Any]) -> PolicyParameters:
    return build(PolicyParameters, {row.name: values[row.name] for row in POLICY})


def _listen(listener: Listener, values: dict[str, dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    policy = values[POLICY_NODE]
    kind = Image if policy["image.transport"] == "raw" else CompressedImage
    topic = policy["image.topic"] + ("" if kind is Image else "/compressed")
    state, _ = listener.bridge_topics(BRIDGE_NODE)
    listener.spin(options.wait, lambda: listener.node.count_publishers(listener.node.resolve_topic_name(topic)) > 0)
    images = listener.record(topic, kind)
    robot = [one for name, type_ in state.items() if (one := listener.record(name, type_)) is not None]
    assert images is not None
    listener.listen([images, *robot], options.listen, options.wait)
    return {
        "images": images.stream(),
        "others": listener.topics_of(kind),
        "robot": [one.stream() for one in robot],
        "commands": listener.bridge_topics(BRIDGE_NODE)[1],  # by now all its listeners are discovered
        "controllers": listener.controllers(2.0),
        "safety": listener.safety,
        "status": listener.status,
    }


def _machine_rows(values: dict[str, dict[str, Any]], stack: dict[str, Any], simulated: bool) -> list[Finding]:
    rmw = rclpy.get_rmw_implementation_identifier()
    profile = os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE", "")
    folder = os.path.expanduser("~")
    ages = () if simulated else stack["images"].ages
    return [
        checks.versions(checks.python_version(), os.environ.get("ROS_DISTRO", ""), _rclpy_version()),
        checks.domain(os.environ, rmw),
        checks.dds_profile(
            profile, machine.segment_size(profile) if profile else None, rmw, values[POLICY_NODE]["image.transport"]
        ),
        checks.disk(shutil.disk_usage(folder).free, folder),
        checks.clock(*machine.clock_synchronised(), ages[-1] if ages else None),
    ]


def _stack_rows(
    values: dict[str, dict[str, Any]], stack: dict[str, Any], simulated: bool, namespace: str
) -> list[Finding]:
    policy, bridge = values[POLICY_NODE], values[BRIDGE_NODE]
    safety = stack["safety"]
    state = SAFETY_NAMES.get(safety.state, str(safety.state)) if safety else ""
    where = f"/{namespace.strip('/')}/{BRIDGE_NODE}" if namespace.strip("/") else f"/{BRIDGE_NODE}"
    return [
        checks.camera_rate(stack["images"], _control_rate(bridge, policy), stack["others"], simulated),
        checks.camera_stamps(stack["images"], policy["image.max_age"], bridge["watchdog.future"]),
        checks.image_transport(stack["images"], policy["image.transport"]),
        checks.robot_state(stack["robot"], bridge["watchdog.state"]),
        checks.controllers(stack["commands"], *stack["controllers"]),
        checks.gate(state, safety.reason if safety else "", where),
    ]


def _rate_row(values: dict[str, dict[str, Any]], stack: dict[str, Any], options: argparse.Namespace) -> Finding:
    policy, status = values[POLICY_NODE], stack["status"]
    latency, source = None, ""
    if options.policy:
        try:
            latency = machine.time_policy(_policy_parameters(policy))
            source = "measured here" if policy["policy.backend"] == "local" else f"asked at {policy['server.url']}"
        except TimeoutError as error:
            return Finding(
                "policy rate", BAD, f"the policy server is too slow: {error}",
                "a faster runtime, precision or GPU there, a better network, or raise 'server.timeout'",
            )  # fmt: skip
        except (ValueError, OSError, RuntimeError, ImportError) as error:
            said = " ".join(str(error).split())
            return Finding("policy rate", BAD, f"the policy cannot be measured: {said}", "mend the rows above first")
    elif status is not None and status.latency_total > 0:
        latency, source = status.latency_total, "the running policy's newest"
    bridge = values[BRIDGE_NODE]
    streaming = bridge["control_mode"] == "streaming"
    rate = _control_rate(bridge, policy)
    return checks.policy_rate(latency, source, rate, streaming, bridge["watchdog.observation"])


def _control_rate(bridge: dict[str, Any], policy: dict[str, Any]) -> float:
    """Actions a second [Hz]: asked for in streaming control, of the policy's data in blocking control."""
    return float(policy["rate"]) if bridge["control_mode"] == "streaming" else 1.0 / float(policy["period"])


def _rclpy_version() -> str:
    for name in ("rclpy", "ros-jazzy-rclpy"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"


def table(rows: Sequence[Finding]) -> Table:
    """The rows for a terminal."""
    made = Table(title="openvla-doctor", title_justify="left", show_lines=False)
    for column in ("", "what", "found", "remedy"):
        made.add_column(column, overflow="fold")
    for row in rows:
        colour = COLOURS[row.status]
        made.add_row(f"[{colour}]{SIGNS[row.status]}[/]", row.name, _plain(row.said), _plain(row.remedy))
    return made


def _plain(text: str) -> str:
    return text.replace("[", r"\[")  # rich's markup


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="openvla-doctor", description=__doc__, allow_abbrev=False)
    add = made.add_argument
    add("--robot", default="sim", choices=sorted(ROBOTS), help="whose YAML files to read (%(default)s)")
    add("--camera", default="", metavar="NAME", help="config/cameras/NAME.yaml, as given to the launch file")
    add("--config", default="", metavar="FILE", help="your settings, as given to the launch file")
    add("--namespace", default="", help="of the stack's topics and nodes")
    add("--checkpoint", default="", metavar="DIR", help="look at this one instead of the stack's")
    add("--server", default="", metavar="URL", help="ask this policy server instead of the stack's")
    add("--server-token-file", default="", metavar="FILE", help="with that server's bearer token")
    add("--unnorm-key", default="", metavar="NAME", help="look for these statistics instead of the stack's")
    add("--no-policy", action="store_true", help="a stack without a policy (teleoperation)")
    add("--policy", action="store_true", help="measure the policy's rate: loaded here, or at its server")
    add("--listen", type=float, default=3.0, metavar="S", help="how long topics are listened to (%(default)s)")
    add("--wait", type=float, default=8.0, metavar="S", help="how long nodes and the camera may take to appear")
    add("--json", action="store_true", help="print the rows as JSON")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit status."""
    made = parser()
    options = made.parse_args(rclpy.utilities.remove_ros_args(sys.argv)[1:] if arguments is None else arguments)
    if options.listen <= 0 or options.wait < 0:
        made.error("--listen must be more than 0 s, --wait 0 s or more")
    if options.checkpoint and options.server:
        made.error("--checkpoint and --server: give one, the policy is here or there")
    try:
        camera_files(options.camera)
        rows = examine(options)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        print(f"openvla-doctor: {error}", file=sys.stderr)
        return 2
    bad = sum(row.status == BAD for row in rows)
    if options.json:
        print(json.dumps([row.to_dict() for row in rows], indent=2, ensure_ascii=False))
    else:
        console = Console(highlight=False)
        console.print(table(rows))
        console.print(f"{bad} to mend before the first motion" if bad else "nothing speaks against the first motion")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
