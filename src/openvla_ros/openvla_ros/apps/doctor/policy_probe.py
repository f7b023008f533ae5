"""The policy's rows of `openvla-doctor`: checkpoint, statistics, memory, latency, here or at a server. No ROS."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from openvla_ros.apps.doctor import policy_checks
from openvla_ros.apps.doctor.finding import SKIP, Finding
from openvla_ros.apps.doctor.machine import free_memory
from openvla_ros.nodes.policy.backend import PASSED_ON, client, misfit
from openvla_ros.paths import resolve

Values = Callable[[str], Any]  # the policy node's parameters by name


def policy_rows(value: Values, loaded: bool) -> list[Finding]:
    """The rows checkpoint, unnorm_key and policy memory.

    Args:
        value: The policy node's parameters.
        loaded: The policy node has already loaded the policy.

    Returns:
        Three findings.
    """
    if value("policy.backend") == "remote":
        return _server_rows(value)
    from openvla_policy.runtime.footprint import read_header, weight_bytes

    folder = resolve(value("checkpoint"))
    if any((folder / "checkpoints").glob("*.pt")):
        found = f"{folder} is a training run: examined when it is loaded, not here"
        return [Finding(name, SKIP, found) for name in ("checkpoint", "unnorm_key", "policy memory")]
    try:
        header = read_header(folder)
    except (ValueError, OSError, KeyError) as error:
        unread = [Finding(name, SKIP, "the checkpoint is not readable") for name in ("unnorm_key", "policy memory")]
        return [policy_checks.checkpoint(str(folder), " ".join(str(error).split())), *unread]
    free, device = free_memory(value("device"))
    precision = value("precision")
    return [
        policy_checks.checkpoint(str(folder), "", header.stored_bytes),
        policy_checks.unnorm_key(value("unnorm_key"), sorted(header.statistics)),
        policy_checks.memory(weight_bytes(header.config, precision, device), free, device, precision, loaded),
    ]


def _server_rows(value: Values) -> list[Finding]:
    """The same rows from a policy server's metadata; its memory is not examined."""
    url = str(value("server.url"))
    memory = Finding("policy memory", SKIP, f"at the policy server {url}")
    metadata: dict[str, Any] = {}
    try:
        policy = client(value)
        try:
            metadata = policy.metadata()
        finally:
            policy.close()
        problem, remedy = misfit(value, metadata), "set what the message names, or serve another checkpoint"
    except (ValueError, OSError) as error:
        problem = " ".join(str(error).split())
        remedy = "start it (openvla-serve CHECKPOINT --host … --port …), or set 'server.url' and 'server.token_file'"
    row = policy_checks.served(url, str(metadata.get("checkpoint", "")), problem, remedy)
    if not metadata:
        return [row, Finding("unnorm_key", SKIP, "the policy server did not answer"), memory]
    wanted = value("unnorm_key") or metadata.get("unnorm_key") or ""
    return [row, policy_checks.unnorm_key(str(wanted), sorted(metadata.get("statistics") or {})), memory]


def time_policy(value: Values, predictions: int = 5) -> float:
    """Measure a prediction's latency: by the policy loaded here as the node loads it, or at the policy server.

    Raises what loading, or the server's client, raises.

    Args:
        value: The policy node's parameters.
        predictions: How many to measure, after one that warms up.

    Returns:
        The median [s].
    """
    import numpy as np

    from openvla_policy.contract.observation import Observation

    remote = value("policy.backend") == "remote"
    policy = client(value) if remote else _load(value)
    random = np.random.default_rng(0)
    latencies = []
    try:
        for _ in range(predictions + 1):
            image = random.integers(0, 256, (480, 640, 3), np.uint8)
            start = time.perf_counter()
            policy.predict(Observation(image=image), "lift the red cube")
            latencies.append(time.perf_counter() - start)
    finally:
        if remote:
            policy.close()
    return sorted(latencies[1:])[predictions // 2]


def _load(value: Values) -> Any:
    from openvla_policy.runtime.load import load_policy

    device = value("device")
    return load_policy(
        str(resolve(value("checkpoint"))),
        unnorm_key=value("unnorm_key") or None,
        device=None if device == "auto" else device,
        **{name: value(name) for name in PASSED_ON},
    )
