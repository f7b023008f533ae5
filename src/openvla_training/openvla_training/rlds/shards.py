"""Shard files: ArrayRecord, and TFRecord without TensorFlow.

A TFRecord record is its length (uint64, little endian), the masked CRC-32C of those eight bytes, the data, and the
masked CRC-32C of the data (tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from array_record.python.array_record_module import ArrayRecordWriter
from google_crc32c import value as crc32c

FILE_FORMATS = ("array_record", "tfrecord")
_MASK_DELTA = 0xA282EAD8


class ShardWriter(Protocol):
    """An open shard."""

    def write(self, record: bytes) -> object:
        """Append one record."""
        ...

    def close(self) -> object:
        """Finish the file."""
        ...


def open_shard(path: Path, file_format: str) -> ShardWriter:
    """Create a shard."""
    if file_format == "array_record":
        return ArrayRecordWriter(str(path), "group_size:1")  # one record a group: each episode can be read alone
    return TFRecordWriter(path)


class TFRecordWriter:
    """Writes one TFRecord file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, record: bytes) -> None:
        """See :class:`ShardWriter`."""
        length = struct.pack("<Q", len(record))
        self._file.write(length + struct.pack("<I", masked_crc(length)))
        self._file.write(record)
        self._file.write(struct.pack("<I", masked_crc(record)))

    def close(self) -> None:
        """See :class:`ShardWriter`."""
        self._file.close()


def masked_crc(data: bytes) -> int:
    """CRC-32C, turned and shifted so that a checksum of data with checksums inside stays good."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def read_tfrecords(path: Path | str, skip: int = 0) -> Iterator[bytes]:
    """Yield the records of a TFRecord file, the first ``skip`` left out unread.

    Raises:
        ValueError: the file is cut off or damaged.
    """
    with Path(path).open("rb") as file:
        number = 0
        while head := file.read(12):
            if len(head) < 12 or masked_crc(head[:8]) != struct.unpack("<I", head[8:])[0]:
                raise ValueError(f"{path}: the length of record {number} is damaged; restore the file")
            (length,) = struct.unpack("<Q", head[:8])
            if number < skip:
                file.seek(length + 4, 1)
            else:
                data, tail = file.read(length), file.read(4)
                if len(tail) < 4 or masked_crc(data) != struct.unpack("<I", tail)[0]:
                    raise ValueError(f"{path}: record {number} is cut off or damaged; restore the file")
                yield data
            number += 1
