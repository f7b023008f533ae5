"""The little that is read out of serialised messages without decoding them."""

from __future__ import annotations

import struct


def header_stamp_ns(raw: bytes) -> int:
    """``header.stamp`` [ns] of a serialised message whose first field is a std_msgs/Header.

    CDR: four bytes say how it is encoded (the second one's last bit: little-endian), then int32 sec, uint32 nanosec.

    Raises:
        ValueError: the message is shorter than that.
    """
    if len(raw) < 12:
        raise ValueError(f"a message of {len(raw)} bytes has no header")
    sec, nanosec = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return int(sec) * 1_000_000_000 + int(nanosec)
