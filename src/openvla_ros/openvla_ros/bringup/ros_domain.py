"""ROS domains of their own for stacks that run beside each other on one machine."""

from __future__ import annotations

import fcntl
import os
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

# Discovery ports of higher domains collide with Linux's ephemeral ports.
DOMAINS = range(1, 100)


class DomainLease:
    """A ROS domain that no other stack on this machine started through this class uses at the same time.

    The lease is a lock on a file in the temporary folder, so that it ends with the process whatever happens.
    """

    def __init__(self) -> None:
        self._file: IO[str] | None = None
        candidates = list(DOMAINS)
        random.Random(os.getpid()).shuffle(candidates)  # others (tests, a person's shell) do not take leases
        for domain in candidates:
            path = Path(tempfile.gettempdir()) / f"openvla_ros_domain_{domain}.lock"
            try:
                handle = path.open("a")
            except PermissionError:  # another user's
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.close()
                continue
            self._file, self.domain = handle, domain
            return
        raise RuntimeError(f"all ROS domains {DOMAINS.start}..{DOMAINS.stop - 1} are in use by running stacks")

    def close(self) -> None:
        """Give the domain back; safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None


def ros_environment(domain: int, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The present environment, with a ROS domain of its own and no traffic beyond the machine."""
    environment = dict(os.environ)
    environment["ROS_DOMAIN_ID"] = str(domain)
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    environment["PYTHONUNBUFFERED"] = "1"
    environment.update(extra or {})
    return environment
