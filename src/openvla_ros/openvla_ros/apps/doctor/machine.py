"""Facts about this machine for `openvla-doctor`: DDS profile, clock, free memory. No ROS."""

from __future__ import annotations

import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from openvla_ros.apps.doctor.machine_checks import DEFAULT_SEGMENT


def segment_size(profile: str) -> int | None:
    """The shared-memory segment of a Fast DDS profile's default participant.

    Args:
        profile: Path of the XML file.

    Returns:
        The size [bytes]; None when the file is unreadable or sets none.
    """
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
            sizes[children.get("transport_id", "")] = int(children.get("segment_size") or DEFAULT_SEGMENT)
        elif tag == "participant" and element.get("is_default_profile") == "true":
            used |= {(e.text or "").strip() for e in element.iter() if e.tag.rsplit("}", 1)[-1] == "transport_id"}
    return max((size for name, size in sizes.items() if name in used), default=None)


def clock_synchronised() -> tuple[bool | None, str]:
    """Whether a time daemon synchronises the clock, and the tool that reports it; (None, '') without a daemon."""
    answer = _output("timedatectl", "show", "-p", "NTPSynchronized", "--value")
    if answer in ("yes", "no"):
        return answer == "yes", "timedatectl"
    if answer := _output("chronyc", "-c", "tracking"):
        return answer.rsplit(",", 1)[-1] == "Normal", "chronyc"
    return None, ""


def _output(*command: str) -> str:
    """A command's output; '' when it is not installed or fails."""
    if not shutil.which(command[0]):
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=3.0, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def free_memory(device: str) -> tuple[float, str]:
    """Free memory where the policy would run.

    Args:
        device: The policy node's parameter: a torch device, or `auto`.

    Returns:
        Free memory [bytes], and the device's name.
    """
    import torch

    if device != "cpu" and torch.cuda.is_available():
        name = "cuda" if device == "auto" else device
        return float(torch.cuda.mem_get_info(name)[0]), name
    meminfo = Path("/proc/meminfo").read_text()
    available = next(line for line in meminfo.splitlines() if line.startswith("MemAvailable"))
    return float(available.split()[1]) * 1024, "cpu"
