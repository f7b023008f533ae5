"""The policy's rows of `openvla-doctor`: checkpoint, statistics, memory, latency, here or at a server. No ROS."""

from __future__ import annotations

import time
from typing import Any

from openvla_ros.apps.doctor import policy_checks
from openvla_ros.apps.doctor.finding import SKIP, Finding
from openvla_ros.apps.doctor.machine import free_memory
from openvla_ros.nodes.policy.backend import PASSED_ON, client, incompatibility
from openvla_ros.nodes.policy.parameters import PolicyParameters
from openvla_ros.paths import resolve


def policy_rows(parameters: PolicyParameters, loaded: bool) -> list[Finding]:
    """The rows checkpoint, unnorm_key and policy memory.

    Args:
        parameters: The policy node's.
        loaded: The policy node has already loaded the policy.

    Returns:
        Three findings.
    """
    if parameters.policy.backend == "remote":
        return _server_rows(parameters)
    from openvla_policy.runtime.footprint import read_header, weight_bytes

    folder = resolve(parameters.checkpoint)
    if any((folder / "checkpoints").glob("*.pt")):
        found = f"{folder} is a training run: examined when it is loaded, not here"
        return [Finding(name, SKIP, found) for name in ("checkpoint", "unnorm_key", "policy memory")]
    try:
        header = read_header(folder)
    except (ValueError, OSError, KeyError) as error:
        unread = [Finding(name, SKIP, "the checkpoint is not readable") for name in ("unnorm_key", "policy memory")]
        return [policy_checks.checkpoint(str(folder), " ".join(str(error).split())), *unread]
    free, device = free_memory(parameters.device)
    precision = parameters.precision
    return [
        policy_checks.checkpoint(str(folder), "", header.stored_bytes),
        policy_checks.unnorm_key(parameters.unnorm_key, sorted(header.statistics)),
        policy_checks.memory(weight_bytes(header.config, precision, device), free, device, precision, loaded),
    ]


def _server_rows(parameters: PolicyParameters) -> list[Finding]:
    """The same rows from a policy server's metadata; its memory is not examined."""
    url = parameters.server.url
    memory = Finding("policy memory", SKIP, f"at the policy server {url}")
    metadata: dict[str, Any] = {}
    try:
        policy = client(parameters)
        try:
            metadata = policy.metadata()
        finally:
            policy.close()
        problem, remedy = (
            incompatibility(parameters, metadata),
            "set what the message names, or serve another checkpoint",
        )
    except (ValueError, OSError) as error:
        problem = " ".join(str(error).split())
        remedy = "start it (openvla-serve CHECKPOINT --host … --port …), or set 'server.url' and 'server.token_file'"
    row = policy_checks.served(url, str(metadata.get("checkpoint", "")), problem, remedy)
    if not metadata:
        return [row, Finding("unnorm_key", SKIP, "the policy server did not answer"), memory]
    wanted = parameters.unnorm_key or metadata.get("unnorm_key") or ""
    return [row, policy_checks.unnorm_key(str(wanted), sorted(metadata.get("statistics") or {})), memory]


def time_policy(parameters: PolicyParameters, predictions: int = 5) -> float:
    """Measure a prediction's latency: by the policy loaded here as the node loads it, or at the policy server.

    Raises what loading, or the server's client, raises.

    Args:
        parameters: The policy node's.
        predictions: How many to measure, after one that warms up.

    Returns:
        The median [s].
    """
    import numpy as np

    from openvla_policy.contract.observation import Observation

    remote = parameters.policy.backend == "remote"
    policy = client(parameters) if remote else _load(parameters)
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


def _load(parameters: PolicyParameters) -> Any:
    from openvla_policy.runtime.load import load_policy

    device = None if parameters.device == "auto" else parameters.device
    return load_policy(
        str(resolve(parameters.checkpoint)),
        unnorm_key=parameters.unnorm_key or None,
        device=device,
        **{name: getattr(parameters, name) for name in PASSED_ON},
    )
