"""Two network namespaces with a cable between them that can be pulled: a robot's computer and everybody else's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

ADDRESS = "10.213.7.{}/24"  # of no network outside: the namespaces know no other
ROBOT, REST = "robot", "rest"
# Only what goes over the cable: shared memory would lead past it.
ENVIRONMENT = {
    "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4", "FASTRTPS_DEFAULT_PROFILES_FILE": "",
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
}  # fmt: skip


def allowed() -> bool:
    """Whether this machine lets us: root, or a container with the right to make network namespaces."""
    tried = "unshare -n sh -c 'ip link add end1 type veth peer name end2 && ip link set end1 up'"
    return subprocess.run(["sh", "-c", tried], capture_output=True, check=False).returncode == 0


@dataclass
class Cable:
    """Made by `with cable() as made`; goes, with its namespaces, when the processes that hold them end."""

    holders: dict[str, subprocess.Popen[bytes]]

    @classmethod
    def lay(cls) -> Cable:
        """Two computers, connected."""
        made = cls({end: _holder() for end in (ROBOT, REST)})
        pids = [str(made.holders[end].pid) for end in (ROBOT, REST)]
        _run(["ip", "link", "add", ROBOT, "netns", pids[0], "type", "veth", "peer", "name", REST, "netns", pids[1]])
        for host, end in enumerate((ROBOT, REST), start=1):
            for words in (["addr", "add", ADDRESS.format(host), "dev", end], ["link", "set", end, "up"],
                          ["link", "set", "lo", "up"], ["route", "add", "224.0.0.0/4", "dev", end]):  # fmt: skip
                _run([*made.at(end), "ip", *words])
        return made

    def at(self, end: str) -> list[str]:
        """The words before a command that run it on one of the two computers."""
        return ["nsenter", "--net", "--target", str(self.holders[end].pid)]

    def pull(self) -> None:
        """Nothing gets through any more."""
        _run([*self.at(REST), "ip", "link", "set", REST, "down"])

    def plug(self) -> None:
        """It is in again."""
        _run([*self.at(REST), "ip", "link", "set", REST, "up"])
        _run([*self.at(REST), "ip", "route", "add", "224.0.0.0/4", "dev", REST])

    def remove(self) -> None:
        """Take everything away; what runs on the two computers should have ended."""
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
