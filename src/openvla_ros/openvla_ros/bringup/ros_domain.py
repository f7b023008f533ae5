"""ROS domains for stacks that run side by side on one machine."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from contextlib import ExitStack

from domain_coordinator import domain_id

# domain_coordinator makes 100 attempts. Discovery ports of domains above 101 collide with Linux's ephemeral ports.
DOMAINS = range(1, 101)


class DomainLease:
    """A ROS domain reserved on this machine until `close` or the end of the process, however it ends.

    domain_coordinator reserves a domain by binding a TCP port, so that other ROS tools that use it (launch_testing,
    ament's isolated test runner) and containers on the host network do not take the same one.
    """

    def __init__(self) -> None:
        # In random order: processes that take no lease, such as a shell with ROS_DOMAIN_ID=1, use low numbers.
        candidates = iter(random.sample(DOMAINS, len(DOMAINS)))
        self._reservation = ExitStack()
        try:
            self.domain: int = self._reservation.enter_context(domain_id(candidates.__next__))
        except RuntimeError as error:
            last = DOMAINS.stop - 1
            raise RuntimeError(f"all ROS domains {DOMAINS.start} to {last} are in use; end a running stack") from error

    def close(self) -> None:
        """Release the domain; safe to call twice."""
        self._reservation.close()


def ros_environment(domain: int, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment variables with a ROS domain and discovery limited to this machine.

    Args:
        domain: Value of ROS_DOMAIN_ID.
        extra: Further variables.

    Returns:
        The variables for a child process.
    """
    environment = dict(os.environ)
    environment["ROS_DOMAIN_ID"] = str(domain)
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    environment["PYTHONUNBUFFERED"] = "1"
    environment.update(extra or {})
    return environment
