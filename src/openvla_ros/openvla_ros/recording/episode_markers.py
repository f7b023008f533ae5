"""Stand-in of the bag writer for a bag that `ros2 bag record` writes: the recorder only marks the episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rosbags.interfaces import Connection, Qos

from openvla_ros.recording.bag_writer import BagInfo


class EpisodeMarkers:
    """Writes nothing: the episode's events are published on the topic `episode`, and that bag contains them."""

    messages = backlog = size = 0
    error: str | None = None

    def add_topic(self, topic: str, msgtype: str, qos: Sequence[Qos] = ()) -> Connection | None:
        """Add no topic."""
        return None

    def write(self, connection: Connection | None, log_time: int, data: bytes) -> bool:
        """Write nothing; the message counts as written."""
        return True

    def close(self, custom_data: Mapping[str, str] | None = None) -> BagInfo:
        """End the episode."""
        return BagInfo(Path(), 0, 0.0)

    def discard(self) -> None:
        """End the episode."""
