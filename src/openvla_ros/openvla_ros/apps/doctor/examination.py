"""The examination of `openvla-doctor`: from the facts of machine, stack and policy to the rows of its table."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import rclpy
import yaml
from openvla_msgs.msg import PolicyStatus, SafetyState
from sensor_msgs.msg import CompressedImage, Image

from openvla_ros.apps.doctor import machine, machine_checks, policy_checks, policy_probe, stack_checks
from openvla_ros.apps.doctor.finding import BAD, Finding
from openvla_ros.apps.doctor.options import Options
from openvla_ros.apps.doctor.stack_probe import StackProbe
from openvla_ros.apps.doctor.stream import Stream
from openvla_ros.bringup.process_table import BRIDGE, POLICY, ProcessSpec, bringup
from openvla_ros.nodes.bridge.parameters import BridgeParameters
from openvla_ros.nodes.common.action_messages import SAFETY_NAMES
from openvla_ros.nodes.policy.parameters import PolicyParameters
from openvla_ros.parameters import build, rows as parameter_rows

TABLES = {BRIDGE: parameter_rows(BridgeParameters), POLICY: parameter_rows(PolicyParameters)}
# Parameters that a running node is asked for; else its YAML files count.
LIVE = {
    BRIDGE: ["watchdog.state", "watchdog.observation", "watchdog.future", "control_mode"],
    POLICY: [row.name for row in TABLES[POLICY]],
}
PARAMETER_TIMEOUT, CONTROLLER_TIMEOUT = 3.0, 2.0  # [s]

Values = Mapping[str, dict[str, Any]]  # node -> parameter -> value


@dataclass(frozen=True)
class StackFacts:
    """What was observed of a running stack."""

    images: Stream
    other_images: list[str]  # topics with images
    robot: list[Stream]
    commands: dict[str, tuple[str, ...]]
    controllers: tuple[dict[str, str], str]
    safety: SafetyState | None
    status: PolicyStatus | None


def configured(spec: ProcessSpec) -> dict[str, Any]:
    """A node's parameters: defaults, then its YAML files, then the process table."""
    values: dict[str, Any] = {row.name: row.default for row in TABLES[spec.name]}
    for file in spec.params_files:
        document = yaml.safe_load(file.read_text()) or {}
        for key in (f"/**/{spec.name}", spec.name, "/**"):
            values |= (document.get(key) or {}).get("ros__parameters") or {}
    return values | dict(spec.parameters)


def examine(options: Options) -> list[Finding]:
    """All rows, in the order in which they should be fixed."""
    stack = bringup(
        options.robot, manager=False, namespace=options.namespace, camera=options.camera, config=options.config
    )
    specs = {spec.name: spec for spec in stack}
    simulated = bool(specs[BRIDGE].parameters["use_sim_time"])
    values = {name: configured(specs[name]) for name in TABLES}
    given = {
        "checkpoint": options.checkpoint,
        "unnorm_key": options.unnorm_key,
        "server.url": options.server,
        "server.token_file": options.server_token_file,
        "policy.backend": "local" if options.checkpoint else "remote" if options.server else "",
    }
    expected = [name for name in specs if not (options.no_policy and name == POLICY)]
    probe = StackProbe(options.namespace, simulated, specs[BRIDGE].remappings)
    try:
        states = probe.lifecycle_states(expected, options.wait)
        running = {name: names for name, names in LIVE.items() if states.get(name)}
        for name, live in probe.parameters(running, PARAMETER_TIMEOUT).items():
            values[name] |= {k: v for k, v in live.items() if v is not None}
        values[POLICY] |= {k: v for k, v in given.items() if v}
        facts = _observe(probe, values, options)
    finally:
        probe.close()
    rows = _machine_rows(values, facts, simulated)
    rows.append(stack_checks.nodes(states))
    rows += _stack_rows(values, facts, simulated, options.namespace)
    if not options.no_policy:
        loaded = states.get(POLICY) in ("active", "inactive")
        rows += policy_probe.policy_rows(_policy_parameters(values), loaded)
        rows.append(policy_rate_row(values, facts.status, measure=options.policy))
    return rows


def _observe(probe: StackProbe, values: Values, options: Options) -> StackFacts:
    policy = values[POLICY]
    kind = Image if policy["image.transport"] == "raw" else CompressedImage
    topic = policy["image.topic"] + ("" if kind is Image else "/compressed")
    state, _ = probe.bridge_topics(BRIDGE)
    probe.spin(options.wait, lambda: probe.node.count_publishers(probe.node.resolve_topic_name(topic)) > 0)
    images = probe.measure(topic, kind)
    robot = [one for name, type_ in state.items() if (one := probe.measure(name, type_)) is not None]
    assert images is not None
    probe.listen([images, *robot], options.listen, options.wait)
    return StackFacts(
        images=images.stream(),
        other_images=probe.published_topics(kind),
        robot=[one.stream() for one in robot],
        commands=probe.bridge_topics(BRIDGE)[1],  # asked again: by now all subscribers are discovered
        controllers=probe.controllers(CONTROLLER_TIMEOUT),
        safety=probe.safety,
        status=probe.status,
    )


def _machine_rows(values: Values, facts: StackFacts, simulated: bool) -> list[Finding]:
    rmw = rclpy.get_rmw_implementation_identifier()
    profile = os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE", "")
    segment = machine.segment_size(profile) if profile else None
    folder = str(Path.home())
    ages = () if simulated else facts.images.ages
    return [
        machine_checks.versions(machine_checks.python_version(), os.environ.get("ROS_DISTRO", ""), _rclpy_version()),
        machine_checks.domain(os.environ, rmw),
        machine_checks.dds_profile(profile, segment, rmw, values[POLICY]["image.transport"]),
        machine_checks.disk(shutil.disk_usage(folder).free, folder),
        machine_checks.clock(*machine.clock_synchronised(), ages[-1] if ages else None),
    ]


def _stack_rows(values: Values, facts: StackFacts, simulated: bool, namespace: str) -> list[Finding]:
    policy, bridge, safety = values[POLICY], values[BRIDGE], facts.safety
    state = SAFETY_NAMES.get(safety.state, str(safety.state)) if safety else ""
    bridge_name = f"/{namespace.strip('/')}/{BRIDGE}" if namespace.strip("/") else f"/{BRIDGE}"
    return [
        stack_checks.camera_rate(facts.images, _control_rate(values), facts.other_images, simulated),
        stack_checks.camera_stamps(facts.images, policy["image.max_age"], bridge["watchdog.future"]),
        stack_checks.image_transport(facts.images, policy["image.transport"]),
        stack_checks.robot_state(facts.robot, bridge["watchdog.state"]),
        stack_checks.controllers(facts.commands, *facts.controllers),
        stack_checks.gate(state, safety.reason if safety else "", bridge_name),
    ]


def policy_rate_row(values: Values, status: PolicyStatus | None, measure: bool) -> Finding:
    """The row policy rate.

    Args:
        values: Parameters of policy and bridge.
        status: What the running policy reported.
        measure: Measure the latency, here or at the policy server, instead of using `status`.

    Returns:
        The finding.
    """
    policy = values[POLICY]
    latency, source = None, ""
    if measure:
        try:
            latency = policy_probe.time_policy(_policy_parameters(values))
            source = "measured here" if policy["policy.backend"] == "local" else f"measured at {policy['server.url']}"
        except TimeoutError as error:
            return Finding(
                "policy rate",
                BAD,
                f"the policy server is too slow: {error}",
                "use a faster runtime, precision or GPU there, or a better network, or raise 'server.timeout'",
            )
        except (ValueError, OSError, RuntimeError, ImportError) as error:
            reason = " ".join(str(error).split())
            return Finding("policy rate", BAD, f"the policy cannot be measured: {reason}", "fix the rows above first")
    elif status is not None and status.latency_total > 0:
        latency, source = status.latency_total, "the running policy's latest"
    streaming = values[BRIDGE]["control_mode"] == "streaming"
    oldest = values[BRIDGE]["watchdog.observation"]
    return policy_checks.policy_rate(latency, source, _control_rate(values), streaming, oldest)


def _policy_parameters(values: Values) -> PolicyParameters:
    return build(PolicyParameters, {row.name: values[POLICY][row.name] for row in TABLES[POLICY]})


def _control_rate(values: Values) -> float:
    """Actions per second [Hz]: as requested in streaming control, as in the policy's data in blocking control."""
    policy = values[POLICY]
    return float(policy["rate"]) if values[BRIDGE]["control_mode"] == "streaming" else 1.0 / float(policy["period"])


def _rclpy_version() -> str:
    for name in ("rclpy", "ros-jazzy-rclpy"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
