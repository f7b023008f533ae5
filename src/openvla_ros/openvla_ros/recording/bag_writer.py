"""Writes one episode to one rosbag2 bag (MCAP), so that a bag under its final name is always complete.

While it is written the bag is in the hidden folder `.recording` beside its final place; closing syncs it and moves it
in one step. A thread writes the messages, so that a slow disk does not block the subscriptions; every second at the
latest they reach the file as a complete chunk, which `openvla-recover` can read.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rosbags.interfaces import Connection, Qos
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError

from openvla_ros.recording.message_definitions import MessageDefinitions

IN_PROGRESS = ".recording"
COMPRESSIONS = ("none", "zstd")
CHUNK_PERIOD = 1.0  # [s] of messages are lost at most when the process is killed
QUEUE_BYTES = 256 * 2**20  # of messages that may wait for the disk


class BagError(Exception):
    """The bag cannot be written; the message says why."""


@dataclass(frozen=True)
class BagInfo:
    """A closed bag.

    Attributes:
        path: Its folder.
        messages: Number of messages.
        duration: From the first to the last message [s].
    """

    path: Path
    messages: int
    duration: float


def sync_folder(folder: Path) -> None:
    """Write the entries of a folder to the disk, so that they survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_bag(temporary: Path, final: Path) -> None:
    """Sync a closed bag and give it its final name."""
    for file in temporary.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    sync_folder(temporary)
    temporary.rename(final)
    sync_folder(final.parent)


class BagWriter:
    """One open bag. Methods may be called from one thread at a time.

    Attributes:
        path: Final folder of the bag.
        temporary: Its folder while it is open.
        messages: Number of messages written or queued.
        error: Why writing failed; None while it works.
    """

    def __init__(
        self, path: Path, definitions: MessageDefinitions, *, compression: str = "zstd", queue_bytes: int = QUEUE_BYTES
    ) -> None:
        """Open `<parent>/.recording/<name>`, which becomes `path`.

        Args:
            path: Final folder of the bag.
            definitions: Definitions of the messages.
            compression: zstd compresses whole chunks (raw images to about a third); none does not.
            queue_bytes: Bytes of messages that may wait for the disk.

        Raises:
            BagError: The bag exists already, or the folder is not writable.
        """
        if compression not in COMPRESSIONS:
            raise BagError(f"compression {compression!r} is unknown; choose one of {', '.join(COMPRESSIONS)}")
        if path.exists():
            raise BagError(f"{path} exists already")
        self.path = path
        self.temporary = path.parent / IN_PROGRESS / path.name
        self._file = self.temporary / f"{path.name}.mcap"
        self.messages = 0
        self.error: str | None = None
        self._definitions = definitions
        self._first: int | None = None
        self._last = 0
        self._queue: queue.SimpleQueue[tuple[Connection, int, bytes] | tuple[()] | None] = queue.SimpleQueue()
        self._queued_bytes = 0
        self._queue_limit = queue_bytes
        self._lock = threading.Lock()  # guards the rosbags writer
        self._count_lock = threading.Lock()  # separate, so that queueing never waits for the disk
        self._writer = Writer(self.temporary, version=9, storage_plugin=StoragePlugin.MCAP)
        if compression == "zstd":
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        try:
            self.temporary.parent.mkdir(parents=True, exist_ok=True)
            self._writer.open()
        except (OSError, WriterError) as error:
            raise BagError(f"cannot write to {self.temporary}: {error}") from error
        self._thread = threading.Thread(target=self._run, name="bag writer", daemon=True)
        self._thread.start()

    def add_topic(self, topic: str, msgtype: str, qos: Sequence[Qos] = ()) -> Connection:
        """Add a topic with its message definition.

        Args:
            topic: Full name.
            msgtype: `package/msg/Name`.
            qos: QoS of its publishers.

        Returns:
            The connection, for `write`.

        Raises:
            UnknownType: The definition is not found.
        """
        store = self._definitions.ensure(msgtype)
        with self._lock:
            return self._writer.add_connection(topic, msgtype, typestore=store, offered_qos_profiles=list(qos))

    def write(self, connection: Connection, log_time: int, data: bytes) -> bool:
        """Queue one message.

        Args:
            connection: Topic of the message.
            log_time: When it was received [ns].
            data: The message, serialized.

        Returns:
            Whether it was queued; False where it is dropped.
        """
        size = len(data)
        if self.error is not None or self._queued_bytes + size > self._queue_limit:
            return False
        with self._count_lock:
            self._queued_bytes += size
        self._queue.put((connection, log_time, data))
        self.messages += 1
        self._first = log_time if self._first is None else min(self._first, log_time)
        self._last = max(self._last, log_time)
        return True

    @property
    def backlog(self) -> int:
        """Bytes that wait to be written."""
        return self._queued_bytes

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        try:
            return self._file.stat().st_size
        except FileNotFoundError:
            return 0

    def close(self, custom_data: Mapping[str, str] | None = None) -> BagInfo:
        """Write what is queued, close, sync, and give the bag its name.

        Args:
            custom_data: Entries for metadata.yaml, where `ros2 bag info` shows them.

        Returns:
            The closed bag.

        Raises:
            BagError: Writing failed; what is written stays in `.recording`, to be recovered.
        """
        self._finish()
        if self.error is not None:
            self._abort()
            raise BagError(f"{self.error}; what was written can be saved: openvla-recover {self.temporary}")
        for key, value in (custom_data or {}).items():
            self._writer.set_custom_data(key, value)
        try:
            self._writer.close()
            publish_bag(self.temporary, self.path)
        except OSError as error:
            raise BagError(
                f"cannot close {self.path}: {error}; it can be saved: openvla-recover {self.temporary}"
            ) from error
        duration = (self._last - self._first) * 1e-9 if self._first is not None else 0.0
        return BagInfo(self.path, self.messages, duration)

    def discard(self) -> None:
        """Delete the bag."""
        self._finish()
        self._abort()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _finish(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _abort(self) -> None:
        with contextlib.suppress(OSError):  # the buffered rest does not fit on the disk either
            self._writer.abort()

    def _run(self) -> None:
        ended = time.monotonic()
        while True:
            try:
                item = self._queue.get(timeout=CHUNK_PERIOD)
            except queue.Empty:
                item = ()  # nothing to write, but perhaps a chunk to close
            if item is None:
                return
            # After an error the queue is still emptied, so that `_finish` does not wait for it.
            with self._lock:
                if self.error is None:
                    try:
                        if item:
                            self._writer.write(*item)
                        if time.monotonic() - ended >= CHUNK_PERIOD:
                            self._end_chunk()
                            ended = time.monotonic()
                    except Exception as error:  # any error must reach the operator
                        self.error = f"writing {self.temporary} failed: {error}"
            if item:
                with self._count_lock:
                    self._queued_bytes -= len(item[2])

    def _end_chunk(self) -> None:
        storage = self._writer.storage
        # rosbags ends a chunk at 1 MiB only; at low rates that can be minutes of data.
        if storage is not None and storage.chunk.msgs:  # type: ignore[attr-defined]
            storage.close_chunk()  # type: ignore[attr-defined]
            storage.bio.flush()  # type: ignore[attr-defined]
