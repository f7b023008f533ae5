"""Fields of serialized messages, read without decoding the whole message."""

from __future__ import annotations

import struct


def header_stamp_ns(raw: bytes) -> int:
    """Stamp of a serialized message whose first field is a std_msgs/Header.

    CDR: four bytes with the encoding (last bit of the second one: little-endian), then int32 sec, uint32 nanosec.

    Args:
        raw: The message.

    Returns:
        `header.stamp` [ns].

    Raises:
        ValueError: The message is shorter than a header.
    """
    if len(raw) < 12:
        raise ValueError(f"a message of {len(raw)} bytes has no header")
    sec, nanosec = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return int(sec) * 1_000_000_000 + int(nanosec)
