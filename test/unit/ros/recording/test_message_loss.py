"""Counting what did not arrive: by the publisher's numbers, and by the stamps of a stream."""

from __future__ import annotations

import numpy as np
import pytest
from bag_factory import definitions
from hypothesis import given, settings, strategies as st

from openvla_ros.recording.cdr import header_stamp_ns
from openvla_ros.recording.message_loss import Gaps, MessageLoss


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_gaps_in_the_sequence_numbers_are_counted(holes: list[int]) -> None:
    losses, number = MessageLoss(), 17
    losses.arrived(number, None)
    for hole in holes:
        number += 1 + hole
        losses.arrived(number, None)
    assert losses.dropped == sum(holes) and losses.received == len(holes) + 1
    losses.begin()
    losses.arrived(1, None)  # a publisher that was restarted
    losses.arrived(None, None)  # a second one beside it
    losses.arrived(900, None)
    assert losses.dropped == 0 and losses.received == 3


@given(st.sets(st.integers(20, 200), max_size=30), st.integers(0, 2**32))
@settings(max_examples=40)
def test_missing_frames_are_counted_by_the_stamps(missing: set[int], seed: int) -> None:
    jitter = np.random.default_rng(seed).integers(-3_000_000, 3_000_000, 300)
    gaps = Gaps()
    for index in range(300):
        if index not in missing:
            gaps.update(index * 33_333_333 + int(jitter[index]))
    assert gaps.missing == len(missing)
    assert gaps.period_ns == pytest.approx(33_333_333, rel=0.15)


def test_a_late_source_that_catches_up_has_no_gap() -> None:
    gaps = Gaps()
    for index in range(100):
        late = {50: 24_000_000, 51: 15_000_000, 52: 6_000_000}.get(index, 0)
        gaps.update(index * 10_000_000 + late)
    assert gaps.missing == 0


def test_irregular_streams_have_no_gaps() -> None:
    rng, gaps, stamp = np.random.default_rng(0), Gaps(), 0
    for _ in range(200):
        stamp += int(rng.exponential(1e8)) + 1
        gaps.update(stamp)
    assert gaps.missing == 0 and gaps.period_ns == 0


def test_a_messages_stamp_is_read_without_decoding_it() -> None:
    maker = definitions()
    header = maker.store.types["std_msgs/msg/Header"](
        stamp=maker.store.types["builtin_interfaces/msg/Time"](sec=1_700_000_000, nanosec=987_654_321),
        frame_id="camera",
    )
    image = maker.store.types["sensor_msgs/msg/CompressedImage"](
        header=header, format="jpeg", data=np.zeros(9, np.uint8)
    )
    for little in (True, False):
        raw = bytes(maker.store.serialize_cdr(image, "sensor_msgs/msg/CompressedImage", little_endian=little))
        assert header_stamp_ns(raw) == 1_700_000_000_987_654_321
    with pytest.raises(ValueError, match="no header"):
        header_stamp_ns(b"\x00\x01\x00\x00")
