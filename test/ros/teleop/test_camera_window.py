"""`openvla-teleop --show`: the camera's image is on the screen, and a missing display is reported at once."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import Image

from openvla_ros.nodes.common import image_messages
from openvla_ros.nodes.common.qos import STREAM

pytestmark = pytest.mark.ros
RED, GREEN = (211, 37, 61), (19, 173, 83)


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[tuple[str, Callable[[tuple[int, int, int]], int]]]:
    """Give a display of its own, and a function that counts the pixels of a colour on it."""
    if shutil.which("Xvfb") is None:
        pytest.skip("needs Xvfb: apt install xvfb")
    ours, theirs = os.pipe()
    command = [
        "Xvfb",
        "-displayfd",
        str(theirs),
        "-screen",
        "0",
        "800x800x24",
        "-fbdir",
        str(tmp_path),
        "-nolisten",
        "tcp",
    ]
    server = subprocess.Popen(command, pass_fds=[theirs], stderr=subprocess.DEVNULL)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        display = f":{int(pipe.readline())}"

    def count(colour: tuple[int, int, int]) -> int:
        bytes_ = np.fromfile(tmp_path / "Xvfb_screen0", np.uint8)[-800 * 800 * 4 :].reshape(-1, 4)
        return int((bytes_[:, 2::-1] == colour).all(axis=1).sum())

    yield display, count
    server.terminate()
    server.wait(10.0)


def test_image_is_on_the_screen(screen: Any, start_process: Any, ros_node: Any, spin_until: Any) -> None:
    display, count = screen
    publisher = ros_node.create_publisher(Image, "camera/image_raw", STREAM)
    window = start_process("module:openvla_ros.bringup.camera_window", DISPLAY=display)
    for colour in (RED, GREEN):
        picture = image_messages.image_message(np.full((60, 80, 3), colour, np.uint8), "camera", 1)

        def displayed(colour: tuple[int, int, int] = colour, picture: Image = picture) -> bool:
            publisher.publish(picture)
            return count(colour) > 400_000  # 672 high, and as wide as the screen

        spin_until(displayed, 30.0, f"a window of {colour}")
    assert window.stop() == 0, window.output


def test_missing_display_is_reported_before_anything_starts(start_process: Any, tmp_path: Path, wait_for: Any) -> None:
    process = start_process("openvla-teleop", "--show", "--output", str(tmp_path / "bags"), DISPLAY="")
    wait_for(lambda: not process.running, 30.0, "the command to end")
    assert process.popen.returncode == 1 and "--show needs a display" in process.output
    assert not (tmp_path / "bags").exists()
