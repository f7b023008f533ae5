"""In place of a bag writer, when `ros2 bag record` writes the bag and the recorder only marks the episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rosbags.interfaces import Connection, Qos

from openvla_ros.recording.bag_writer import BagInfo


class Marks:
    """Writes nothing; the episode's events go out on the topic `episode`, and that bag has them."""

    messages = backlog = size = 0
    error: str | None = None

    def add_topic(self, topic: str, msgtype: str, qos: Sequence[Qos] = ()) -> Connection | None:
        """No topic is taken in."""
        return None

    def write(self, connection: Connection | None, log_time: int, data: bytes) -> bool:
        """Nothing is written."""
        return True

    def close(self, custom_data: Mapping[str, str] | None = None) -> BagInfo:
        """The episode is over."""
        return BagInfo(Path(), 0, 0.0)

    def discard(self) -> None:
        """Likewise."""
