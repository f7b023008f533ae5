"""Facts of this machine for `openvla-doctor`: DDS profile, clock, memory, checkpoint. No ROS."""

from __future__ import annotations

import shutil
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from openvla_ros.apps.doctor import checks
from openvla_ros.apps.doctor.checks import SKIP, Finding
from openvla_ros.nodes.policy.backend import PASSED_ON, client, incompatibility
from openvla_ros.nodes.policy.parameters import PolicyParameters
from openvla_ros.paths import resolve


def segment_size(profile: str) -> int | None:
    """Bytes of shared memory that a Fast DDS profile's file gives the default participant; None without a word."""
    try:
        root = ElementTree.parse(Path(profile).expanduser()).getroot()
    except (OSError, ElementTree.ParseError):
        return None
    sizes: dict[str, int] = {}
    used: set[str] = set()
    for element in root.iter():
        tag = element.tag.rsplit("}", 1)[-1]
        children = {child.tag.rsplit("}", 1)[-1]: (child.text or "").strip() for child in element}
        if tag == "transport_descriptor" and children.get("type") == "SHM":
            sizes[children.get("transport_id", "")] = int(children.get("segment_size") or checks.DEFAULT_SEGMENT)
        elif tag == "participant" and element.get("is_default_profile") == "true":
            used |= {(e.text or "").strip() for e in element.iter() if e.tag.rsplit("}", 1)[-1] == "transport_id"}
    return max((size for name, size in sizes.items() if name in used), default=None)


def clock_synchronised() -> tuple[bool | None, str]:
    """Whether a time daemon holds this clock, and who says so; (None, '') where none is to be asked."""
    answer = _ask("timedatectl", "show", "-p", "NTPSynchronized", "--value")
    if answer in ("yes", "no"):
        return answer == "yes", "timedatectl"
    if answer := _ask("chronyc", "-c", "tracking"):
        return answer.rsplit(",", 1)[-1] == "Normal", "chronyc"
    return None, ""


def _ask(*command: str) -> str:
    if not shutil.which(command[0]):
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=3.0, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def free_memory(device: str) -> tuple[float, str]:
    """Bytes free where the policy would be, and that device's name. device: as the parameter, or `auto`."""
    import torch

    if device != "cpu" and torch.cuda.is_available():
        name = "cuda" if device == "auto" else device
        return float(torch.cuda.mem_get_info(name)[0]), name
    meminfo = Path("/proc/meminfo").read_text()
    available = next(line for line in meminfo.splitlines() if line.startswith("MemAvailable"))
    return float(available.split()[1]) * 1024, "cpu"


def policy_rows(parameters: PolicyParameters, loaded: bool) -> list[Finding]:
    """Checkpoint, unnorm_key and memory. loaded: it runs already."""
    if parameters.policy.backend == "remote":
        return _server_rows(parameters)
    from openvla_policy.runtime.footprint import read_header, weight_bytes

    folder = resolve(parameters.checkpoint)
    if any((folder / "checkpoints").glob("*.pt")):
        said = f"{folder} is a training run: looked at when it is loaded, not here"
        return [Finding(name, SKIP, said) for name in ("checkpoint", "unnorm_key", "policy memory")]
    try:
        header = read_header(folder)
    except (ValueError, OSError, KeyError) as error:
        unread = [Finding(name, SKIP, "the checkpoint is not readable") for name in ("unnorm_key", "policy memory")]
        return [checks.checkpoint(str(folder), " ".join(str(error).split())), *unread]
    free, device = free_memory(parameters.device)
    precision = parameters.precision
    return [
        checks.checkpoint(str(folder), "", header.stored_bytes),
        checks.unnorm_key(parameters.unnorm_key, sorted(header.statistics)),
        checks.memory(weight_bytes(header.config, precision, device), free, device, precision, loaded),
    ]


def _server_rows(parameters: PolicyParameters) -> list[Finding]:
    """Checkpoint and unnorm_key as the policy server says; its memory is its own."""
    url = parameters.server.url
    memory = Finding("policy memory", SKIP, f"at the policy server {url}")
    about: dict[str, Any] = {}
    try:
        policy = client(parameters)
        try:
            about = policy.metadata()
        finally:
            policy.close()
        problem, remedy = incompatibility(parameters, about), "set what the sentence names, or serve another checkpoint"
    except (ValueError, OSError) as error:
        problem = " ".join(str(error).split())
        remedy = "start it (openvla-serve CHECKPOINT --host … --port …), or set 'server.url' and 'server.token_file'"
    row = checks.served(url, str(about.get("checkpoint", "")), problem, remedy)
    if not about:
        return [row, Finding("unnorm_key", SKIP, "the policy server was not heard"), memory]
    wanted = parameters.unnorm_key or about.get("unnorm_key") or ""
    return [row, checks.unnorm_key(str(wanted), sorted(about.get("statistics") or {})), memory]


def time_policy(parameters: PolicyParameters, predictions: int = 5) -> float:
    """Seconds a prediction takes (the median), by the policy loaded here as the node does it, or through the client.

    Raises as loading, or the client, does.
    """
    import numpy as np

    from openvla_policy.contract.observation import Observation

    remote = parameters.policy.backend == "remote"
    policy = client(parameters) if remote else _local(parameters)
    random = np.random.default_rng(0)
    taken = []
    try:
        for _ in range(predictions + 1):  # the first one warms up
            image = random.integers(0, 256, (480, 640, 3), np.uint8)
            start = time.perf_counter()
            policy.predict(Observation(image=image), "lift the red cube")
            taken.append(time.perf_counter() - start)
    finally:
        if remote:
            policy.close()
    return sorted(taken[1:])[predictions // 2]


def _local(parameters: PolicyParameters) -> Any:
    from openvla_policy.runtime.load import load_policy

    device = None if parameters.device == "auto" else parameters.device
    return load_policy(
        str(resolve(parameters.checkpoint)),
        unnorm_key=parameters.unnorm_key or None,
        device=device,
        **{name: getattr(parameters, name) for name in PASSED_ON},
    )
