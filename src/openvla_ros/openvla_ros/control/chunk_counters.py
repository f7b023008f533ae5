"""Counts refused and clipped chunks, for diagnostics."""

from __future__ import annotations

from collections import Counter

from openvla_ros.safety.gate import Gate


class ChunkCounters:
    """Refused and clipped chunks since activation, by the name of the check or limit."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        self.clipped: Counter[str] = Counter()

    def clear(self) -> None:
        """Count from 0 again."""
        self.refused.clear()
        self.clipped.clear()

    def update(self, before: Gate, after: Gate) -> None:
        """Count what a change of the gate's state reports; a limit counts once per chunk."""
        if after.refused_count > before.refused_count:
            self.refused.update(after.refused)
        if after.clipped is not before.clipped:
            known = before.clipped if after.newest is before.newest else ()
            self.clipped.update(name for name in after.clipped if name not in known)
