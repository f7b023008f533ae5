"""Checks of the machine: pure functions from facts to findings with remedies. No ROS."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from openvla_ros.apps.doctor.finding import BAD, OK, SKIP, Finding

DEFAULT_SEGMENT = 512 * 1024  # Fast DDS's default shared-memory segment [bytes]
LEAST_DISK = 10e9  # an hour of recording, or a checkpoint [bytes]
SKEW = 0.1  # between two machines' clocks [s]


def versions(python: tuple[int, int], distro: str, rclpy: str) -> Finding:
    """Python and ROS versions."""
    found = f"Python {python[0]}.{python[1]}, ROS 2 {distro or 'from wheels'}, rclpy {rclpy}"
    if distro not in ("", "jazzy"):
        return Finding("versions", BAD, found, "source /opt/ros/jazzy/setup.bash, then `make setup`")
    if not (3, 11) <= python <= (3, 12):
        return Finding("versions", BAD, found, "use Python 3.11 or 3.12: `make setup` finds one")
    return Finding("versions", OK, found)


def domain(environment: Mapping[str, str], rmw: str) -> Finding:
    """ROS domain, discovery range and middleware."""
    number = environment.get("ROS_DOMAIN_ID", "0") or "0"
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    found = f"domain {number}, discovery {reach}, {rmw}"
    if not number.isdecimal() or int(number) > 101:
        return Finding(
            "ROS domain",
            BAD,
            found,
            "set ROS_DOMAIN_ID to 0 … 101, the same on all machines (above 101, ports collide)",
        )
    return Finding("ROS domain", OK, found)


def dds_profile(variable: str, segment: int | None, rmw: str, transport: str) -> Finding:
    """Whether Fast DDS's shared memory has room for camera frames.

    Args:
        variable: FASTRTPS_DEFAULT_PROFILES_FILE; '' when not set.
        segment: Segment size in that file [bytes]; None: no file, or no size in it.
        rmw: The middleware.
        transport: The policy's image.transport.

    Returns:
        The finding.
    """
    name = "DDS profile"
    if "fastrtps" not in rmw:
        return Finding(name, SKIP, f"{rmw} does not read Fast DDS profiles")
    remedy = (
        "`source env.bash`, or export FASTRTPS_DEFAULT_PROFILES_FILE=…/config/dds/fastdds.xml, "
        "in this shell AND in the camera driver's; then restart both"
    )
    if transport == "compressed":
        return Finding(name, SKIP, "compressed images fit without a profile")
    if not variable:
        return Finding(name, BAD, "none: raw images do not fit into Fast DDS's shared memory, frames are lost", remedy)
    if segment is None or segment <= DEFAULT_SEGMENT:
        size = "no shared-memory segment" if segment is None else f"a segment of {segment / 2**20:g} MiB"
        return Finding(name, BAD, f"{variable} sets {size}", remedy)
    return Finding(name, OK, f"shared memory of {segment / 2**20:g} MiB ({variable})")


def disk(free: float, folder: str) -> Finding:
    """Free disk space for recordings and logs [bytes]."""
    found = f"{free / 1e9:.0f} GB free in {folder}"
    if free < LEAST_DISK:
        remedy = f"free disk space: an hour of recording needs more than {LEAST_DISK / 1e9:.0f} GB"
        return Finding("disk", BAD, found, remedy)
    return Finding("disk", OK, found)


def clock(synchronised: bool | None, source: str, skew: float | None) -> Finding:
    """Whether this machine's clock is synchronised.

    Args:
        synchronised: What a time daemon reports; None: no daemon.
        source: The daemon's tool.
        skew: Age of the newest image's stamp [s]; None: no image, or simulated time.

    Returns:
        The finding.
    """
    if synchronised:
        return Finding("clock", OK, f"synchronised ({source})")
    if synchronised is False:
        remedy = "install chrony on every machine; `chronyc tracking` reports the offset"
        return Finding("clock", BAD, f"not synchronised ({source})", remedy)
    if skew is None:
        return Finding("clock", SKIP, "neither timedatectl nor chronyc reports, and no image has a real-time stamp")
    if skew < -SKEW:
        return Finding(
            "clock",
            BAD,
            f"timedatectl and chronyc report nothing; the camera's stamps are {-skew:.3f} s ahead",
            "apt install chrony on every machine, with the same server",
        )
    return Finding("clock", OK, f"timedatectl and chronyc report nothing; newest image {1e3 * skew:.0f} ms old")


def python_version() -> tuple[int, int]:
    """This interpreter's major and minor version."""
    return sys.version_info[0], sys.version_info[1]
