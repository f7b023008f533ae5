"""Watchdogs: how old something may be. Each has its own limit and a named reason. Pure functions of times [ns].

Two clocks, on purpose. A stamp is compared with the node's clock once, when the message arrives: that is the clock the
stamp was taken from, and only then do the two mean the same. How long nothing has arrived since is counted on the
steady clock, which no time server steps back and no simulator speeds up. An age is the sum of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

NS = 1_000_000_000


class Now(NamedTuple):
    """One moment on both clocks [ns]."""

    node: int  # the node's clock: simulated time where that is used, else the system's
    steady: int  # counts up evenly, whatever happens to the other one


class Seen(NamedTuple):
    """When something arrived, and what its stamp said [ns]."""

    stamp: int
    arrived: Now

    def age(self, now: Now) -> float:
        """How old it is [s]: as old as it came, and the time since. Negative: stamped in the future."""
        return (self.arrived.node - self.stamp + now.steady - self.arrived.steady) / NS


@dataclass(frozen=True)
class Watchdogs:
    """Ages [s] that still count as fresh, and how far the clock may jump."""

    observation: float = 2.0  # camera image an action was computed from
    action: float = 1.0  # the newest action chunk (blocking: since it was computed; streaming: since it came)
    state: float = 0.3  # the robot's measured pose
    clock_jump: float = 1.0  # of the node's clock over the steady one between two looks; any way back is a jump, too
    future: float = 0.05  # how far ahead of our clock a stamp may be: clock skew between machines

    def __post_init__(self) -> None:
        """A watchdog that never barks is no watchdog."""
        for name, value in vars(self).items():
            if not 0.0 < value < 3600.0:
                raise ValueError(f"watchdog '{name}' is {value} s; it must be over 0 and under 3600 s")


def stale(name: str, seen: Seen | None, now: Now, limit: float, future: float) -> str:
    """Why something is not fresh, in one line; '' when it is. None: never seen."""
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
    """Why the node's clock is not to be trusted across two looks at it; '' when it is.

    Forward it may run ahead of the steady clock by `limit`: a process that was not run for a while sees both move on.
    It may also lag behind: a slow simulator's does.
    """
    if before is None:
        return ""
    step = (now.node - before.node) / NS
    ahead = step - (now.steady - before.steady) / NS
    if step >= 0.0 and ahead <= limit:
        return ""
    return f"clock jumped {step if step < 0.0 else ahead:+.2f} s, limit {limit:g} s"
