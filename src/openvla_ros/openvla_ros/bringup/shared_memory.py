"""Gives back the shared memory of ROS processes that were killed.

Fast DDS keeps a segment or two of /dev/shm for every process (18 MB with config/dds/fastdds.xml). A process that ends
by itself takes them along; `kill -9`, a crash or the kernel's out-of-memory killer leave them behind for good.
"""

from __future__ import annotations

import fcntl
import re
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
# A segment's owner holds an flock on `<segment>_el` from before the segment is made until its process is gone.
LOCK = re.compile(r"(fastrtps_[0-9a-f]{16})_el")


def remove_dead_segments(folder: Path = SHARED_MEMORY) -> int:
    """Remove the Fast DDS segments in `folder` whose owner is gone, whoever's they were; how many bytes that gave back.

    What a living process has, and what belongs to another user, is left alone; safe to call at any time, from several
    processes. Ports (fastrtps_port*, 52 kB) stay: Fast DDS itself takes over a dead one with the next process that
    listens there, and removing it in that very moment would leave the process deaf.
    """
    freed = 0
    for lock in folder.glob("fastrtps_*_el"):
        name = LOCK.fullmatch(lock.name)
        segment = lock.with_name(name[1]) if name else None
        # No segment yet: its owner may be between making the lock's file and locking it.
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
    except OSError:  # held by its owner, another user's, or gone meanwhile
        return 0
