"""Two network namespaces, the robot's computer and another one, connected by a cable that can be pulled."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

ADDRESS = "10.213.7.{}/24"  # the namespaces have no other network
ROBOT, REST = "robot", "rest"
# UDP over the cable only: shared memory would bypass it.
ENVIRONMENT = {
    "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4", "FASTRTPS_DEFAULT_PROFILES_FILE": "",
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
}  # fmt: skip


def allowed() -> bool:
    """Whether this process may create network namespaces (root, or a container with that capability)."""
    tried = "unshare -n sh -c 'ip link add end1 type veth peer name end2 && ip link set end1 up'"
    return subprocess.run(["sh", "-c", tried], capture_output=True, check=False).returncode == 0


@dataclass
class Cable:
    """The cable and its namespaces, which exist as long as the processes that hold them."""

    holders: dict[str, subprocess.Popen[bytes]]

    @classmethod
    def lay(cls) -> Cable:
        """Create two connected computers."""
        made = cls({end: _holder() for end in (ROBOT, REST)})
        pids = [str(made.holders[end].pid) for end in (ROBOT, REST)]
        _run(["ip", "link", "add", ROBOT, "netns", pids[0], "type", "veth", "peer", "name", REST, "netns", pids[1]])
        for host, end in enumerate((ROBOT, REST), start=1):
            for words in (["addr", "add", ADDRESS.format(host), "dev", end], ["link", "set", end, "up"],
                          ["link", "set", "lo", "up"], ["route", "add", "224.0.0.0/4", "dev", end]):  # fmt: skip
                _run([*made.at(end), "ip", *words])
        return made

    def at(self, end: str) -> list[str]:
        """Prefix of a command that runs it on one of the computers."""
        return ["nsenter", "--net", "--target", str(self.holders[end].pid)]

    def pull(self) -> None:
        """Disconnect the computers."""
        _run([*self.at(REST), "ip", "link", "set", REST, "down"])

    def plug(self) -> None:
        """Connect the computers again."""
        _run([*self.at(REST), "ip", "link", "set", REST, "up"])
        _run([*self.at(REST), "ip", "route", "add", "224.0.0.0/4", "dev", REST])

    def remove(self) -> None:
        """Remove the computers; their processes should have ended."""
        for holder in self.holders.values():
            holder.kill()
            holder.wait()


def _holder() -> subprocess.Popen[bytes]:
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"up\n"
    return holder


def _run(words: Sequence[str]) -> None:
    subprocess.run(words, check=True, capture_output=True)
