"""Removal of the shared memory that killed ROS processes leave behind.

Fast DDS keeps one or two segments in /dev/shm for each process (18 MB with config/dds/fastdds.xml). A process that
exits removes its segments; after `kill -9`, a crash or the kernel's out-of-memory killer they stay.
"""

from __future__ import annotations

import fcntl
import re
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
# The owner of a segment holds an flock on `<segment>_el` from before the segment exists until the process ends.
LOCK = re.compile(r"(fastrtps_[0-9a-f]{16})_el")


def remove_dead_segments(folder: Path = SHARED_MEMORY) -> int:
    """Remove Fast DDS segments whose owner has ended.

    Segments of living processes and of other users stay. Safe to call at any time, from several processes. Ports
    (fastrtps_port*, 52 kB) stay too: Fast DDS reuses a dead port for the next process that listens there, and removing
    it at that moment would cut that process off.

    Args:
        folder: Where the segments are.

    Returns:
        How many bytes were freed.
    """
    freed = 0
    for lock in folder.glob("fastrtps_*_el"):
        name = LOCK.fullmatch(lock.name)
        segment = lock.with_name(name[1]) if name else None
        # Without a segment the owner may be between creating the lock file and locking it.
        if segment is not None and segment.exists():
            freed += _remove_unless_locked(lock, segment)
    return freed


def _remove_unless_locked(lock: Path, segment: Path) -> int:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = segment.stat().st_size
            segment.unlink()
            lock.unlink()
            return size
    except OSError:  # locked by its owner, owned by another user, or removed in the meantime
        return 0
