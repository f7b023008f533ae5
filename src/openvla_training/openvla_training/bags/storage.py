"""Open a bag's storage: MCAP files with the mcap package, everything else with rosbags, behind one interface.

The separate path for MCAP is for speed: demonstrations are many small bags, and rosbags parses YAML and compiles the
message types for each of them (0.25 s); here the types are cached.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from mcap.reader import McapReader, make_reader
from mcap.records import Schema
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

COMPRESSED = re.compile(r"^ *compression_mode: *[\"']?(message|file)", re.IGNORECASE | re.MULTILINE)


class OpenBag(Protocol):
    """Interface of an open bag; times are log times [ns], a connection has id, topic and msgtype."""

    @property
    def connections(self) -> Collection[Any]: ...
    @property
    def start_time(self) -> int: ...
    @property
    def end_time(self) -> int: ...

    def messages(self, connections: Collection[Any], start: int | None = None) -> Iterator[tuple[Any, int, bytes]]:
        """Yield (connection, log time, serialised message) of the connections in order of log time, from `start` on."""
        ...

    def deserialize(self, rawdata: bytes, typ: str) -> Any:
        """Decode a message by the definition in the bag."""
        ...


@dataclass(frozen=True)
class McapConnection:
    """One channel of an MCAP file."""

    id: int
    topic: str
    msgtype: str


class McapBag:
    """An indexed MCAP file with ros2msg definitions."""

    def __init__(self, reader: McapReader, summary: Any) -> None:
        self._reader = reader
        schemas: dict[int, Schema] = summary.schemas
        self.connections = [
            McapConnection(channel.id, channel.topic, schemas[channel.schema_id].name)
            for channel in summary.channels.values()
        ]
        self.start_time: int = summary.statistics.message_start_time
        self.end_time: int = summary.statistics.message_end_time
        self._store = _typestore(tuple((schema.name, schema.data.decode()) for schema in schemas.values()))

    def messages(
        self, connections: Collection[McapConnection], start: int | None = None
    ) -> Iterator[tuple[McapConnection, int, bytes]]:
        wanted = {connection.id: connection for connection in connections}
        for _, channel, message in self._reader.iter_messages(topics=[c.topic for c in connections], starting_at=start):
            if channel.id in wanted:
                yield wanted[channel.id], message.log_time, message.data

    def deserialize(self, rawdata: bytes, typ: str) -> Any:
        return self._store.deserialize_cdr(rawdata, typ)


@lru_cache(maxsize=16)
def _typestore(definitions: tuple[tuple[str, str], ...]) -> Typestore:
    """Compile the message types of a bag; the bags of a session share them."""
    store = get_typestore(Stores.EMPTY)
    types = {}
    for name, text in definitions:
        types.update(get_types_from_msg(text, name))
    store.register(types)
    return store


@contextmanager
def open_bag(bag: Path) -> Iterator[OpenBag]:
    """Open a bag folder or a bare storage file."""
    file = _plain_mcap(bag)
    if file is not None:
        with file.open("rb") as stream:
            reader = make_reader(stream)
            summary = reader.get_summary()
            if summary and summary.statistics and all(s.encoding == "ros2msg" for s in summary.schemas.values()):
                yield McapBag(reader, summary)
                return
    # SQLite bags of older ROS versions carry no definitions.
    with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as whole:
        yield whole


def _plain_mcap(bag: Path) -> Path | None:
    """Return the bag's only MCAP file, unless rosbag2 has compressed single messages or the file as a whole."""
    if bag.is_file():
        return bag if bag.suffix == ".mcap" else None
    files = list(bag.glob("*.mcap"))
    metadata = bag / "metadata.yaml"
    text = metadata.read_text("utf-8") if metadata.exists() else ""
    whole = len(files) == 1 and not COMPRESSED.search(text)
    return files[0] if whole else None
