"""The first SIGINT ends a process, the following ones are ignored."""

from __future__ import annotations

import os
import signal

import pytest

from openvla_ros.nodes.common.process import interrupt_once


@pytest.fixture
def handler():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_only_the_first_interrupt_is_raised(handler):
    interrupted = interrupt_once()
    assert not interrupted()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert interrupted()
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGINT)  # ignored
