"""Shard files: ArrayRecord, and TFRecord without TensorFlow.

A TFRecord record is its length (uint64, little endian), the masked CRC-32C of those eight bytes, the data, and the
masked CRC-32C of the data (tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from google_crc32c import value as crc32c

FileFormat = Literal["array_record", "tfrecord"]
FILE_FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)
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
    """Create a shard in one of `FILE_FORMATS`."""
    if file_format == "array_record":
        return ArrayRecordWriter(str(path), "group_size:1")  # one record a group: episodes are read singly
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
    """CRC-32C, rotated and offset as TFRecord does, so that data may contain checksums themselves."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def open_records(path: Path | str, file_format: str) -> Callable[[int], bytes]:
    """Open a shard for reading.

    Args:
        path: The file.
        file_format: One of `FILE_FORMATS`.

    Returns:
        A function from the number of a record to its bytes. Of a TFRecord file it keeps only the offsets, and raises
        ValueError where the data are damaged.

    Raises:
        ValueError: The lengths in a TFRecord file are damaged.
    """
    if file_format == "array_record":
        reader = ArrayRecordReader(str(path))
        return lambda number: reader.read([number])[0]
    offsets = np.array(_tfrecord_offsets(path), np.int64).reshape(-1, 2)

    def read(number: int) -> bytes:
        start, length = (int(value) for value in offsets[number])
        with Path(path).open("rb") as file:
            file.seek(start)
            data, tail = file.read(length), file.read(4)
        if len(tail) < 4 or masked_crc(data) != struct.unpack("<I", tail)[0]:
            raise ValueError(f"{path}: record {number} is cut off or damaged; restore the file")
        return data

    return read


def _tfrecord_offsets(path: Path | str) -> list[tuple[int, int]]:
    """Find offset and length of the data of each record of a TFRecord file."""
    found: list[tuple[int, int]] = []
    with Path(path).open("rb") as file:
        end = file.seek(0, 2)
        offset = 0
        while offset < end:
            file.seek(offset)
            head = file.read(12)
            if len(head) < 12 or masked_crc(head[:8]) != struct.unpack("<I", head[8:])[0]:
                raise ValueError(f"{path}: the length of record {len(found)} is damaged; restore the file")
            (length,) = struct.unpack("<Q", head[:8])
            found.append((offset + 12, length))
            offset += length + 16
    return found
