"""Watchdogs: how old something may be. Each has its own limit and a named reason. Pure functions of stamps [ns]."""

from __future__ import annotations

from dataclasses import dataclass

NS = 1_000_000_000


@dataclass(frozen=True)
class Watchdogs:
    """Ages [s] that still count as fresh, and how far the clock may jump."""

    observation: float = 2.0  # camera image an action was computed from
    action: float = 1.0  # the newest action chunk (blocking: since it was computed; streaming: since it came)
    state: float = 0.3  # the robot's measured pose
    clock_jump: float = 1.0  # between two looks at the clock: further forward is a jump, any way back is too
    future: float = 0.05  # how far ahead of our clock a stamp may be: clock skew between machines

    def __post_init__(self) -> None:
        """A watchdog that never barks is no watchdog."""
        for name, value in vars(self).items():
            if not 0.0 < value < 3600.0:
                raise ValueError(f"watchdog '{name}' is {value} s; it must be over 0 and under 3600 s")


def stale(name: str, stamp_ns: int | None, now_ns: int, limit: float, future: float) -> str:
    """Why something is not fresh, in one line; '' when it is. None: never seen."""
    if stamp_ns is None:
        return f"no {name} yet"
    age = (now_ns - stamp_ns) / NS
    if age > limit:
        return f"no fresh {name}: {age:.2f} s old, limit {limit:g} s"
    if age < -future:
        return f"{name} is stamped {-age:.2f} s in the future: clocks differ"
    return ""


def clock_jumped(before_ns: int | None, now_ns: int, limit: float) -> str:
    """Why the clock is not to be trusted across two looks at it; '' when it is."""
    if before_ns is None or 0 <= now_ns - before_ns <= limit * NS:
        return ""
    step = (now_ns - before_ns) / NS
    return f"clock jumped {step:+.2f} s, limit {limit:g} s"
