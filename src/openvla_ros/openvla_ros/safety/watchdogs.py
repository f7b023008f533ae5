"""Watchdogs: limits on the age of inputs, each with a named reason. Pure functions of times [ns].

There are two clocks. A stamp is compared with the node's clock once, when the message arrives: that is the clock of the
stamp, and a later step of it would falsify the comparison. The time since the arrival is counted on the steady clock,
which no time server sets back and no simulator speeds up. An age is the sum of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

NS = 1_000_000_000


class Now(NamedTuple):
    """One moment on both clocks [ns]."""

    node: int  # the node's clock: simulated time if that is used, else the system's
    steady: int  # the monotonic clock


class Seen(NamedTuple):
    """Stamp of a message, and when it arrived [ns]."""

    stamp: int
    arrived: Now

    def age(self, now: Now) -> float:
        """Age [s]: that at its arrival, and the time since. Negative: stamped in the future."""
        return (self.arrived.node - self.stamp + now.steady - self.arrived.steady) / NS


@dataclass(frozen=True)
class Watchdogs:
    """Largest ages [s], and the largest jump of the clock [s]."""

    observation: float = 2.0  # camera image an action was computed from
    action: float = 1.0  # the newest chunk (blocking control: since it was computed; streaming: since it arrived)
    state: float = 0.3  # the robot's measured pose
    clock_jump: float = 1.0  # gain of the node's clock over the steady one between two checks; any step back is a jump
    future: float = 0.05  # a stamp's lead over the node's clock: clock skew between machines

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ValueError: A limit is not positive, or an hour and more.
        """
        for name, value in vars(self).items():
            if not 0.0 < value < 3600.0:
                raise ValueError(f"watchdog '{name}' is {value} s; it must be over 0 and under 3600 s")


def stale(name: str, seen: Seen | None, now: Now, limit: float, future: float) -> str:
    """Check the age of an input.

    Args:
        name: What it is, for the reason.
        seen: The newest message; None if there was none.
        now: The present moment.
        limit: Largest age [s].
        future: Largest lead of its stamp over the node's clock at arrival [s].

    Returns:
        Why it is stale, in one line; '' if it is fresh.
    """
    if seen is None:
        return f"no {name} yet"
    age = seen.age(now)
    if age > limit:
        return f"no fresh {name}: {age:.2f} s old, limit {limit:g} s"
    ahead = (seen.stamp - seen.arrived.node) / NS
    if ahead > future:
        return f"{name} is stamped {ahead:.2f} s in the future: clocks differ"
    return ""


def clock_jumped(before: Now | None, now: Now, limit: float) -> str:
    """Check the node's clock for a jump between two moments.

    It may gain `limit` on the steady clock (a process that was suspended sees both clocks move on), and it may lag
    behind (a slow simulator's clock does). It may not go back.

    Args:
        before: The earlier moment; None if there is none.
        now: The present moment.
        limit: Largest gain on the steady clock [s].

    Returns:
        Description of the jump, in one line; '' if there is none.
    """
    if before is None:
        return ""
    step = (now.node - before.node) / NS
    ahead = step - (now.steady - before.steady) / NS
    if step >= 0.0 and ahead <= limit:
        return ""
    return f"clock jumped {step if step < 0.0 else ahead:+.2f} s, limit {limit:g} s"
