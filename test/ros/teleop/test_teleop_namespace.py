"""The line of docs/how-to/teleoperate.md for a stack in a namespace, as it is written there."""

from __future__ import annotations

import shlex
import time

import pytest
from gamepad import Pad
from openvla_msgs.msg import SafetyState
from page import blocks
from sensor_msgs.msg import Image
from std_msgs.msg import Bool

from openvla_ros.nodes.common.qos import LATCHED, STATE, STREAM

pytestmark = pytest.mark.ros
BACK = 6


def test_the_documented_command_stops_the_arm_of_a_namespace(start_node, ros_node, listen, spin_until, root):
    (block,) = [b for b in blocks(root / "docs" / "how-to" / "teleoperate.md") if "__ns:=" in b.text]
    words = shlex.split(block.text.replace("\\\n", " "))
    words = words[words.index("teleop_node") + 1 :]
    file = words.index("--params-file") + 1
    words[file] = str(root / words[file])
    start_node("teleop_node", *words)
    camera = ros_node.create_publisher(Image, "/wx250s/camera/image_raw", STREAM)
    bridge = ros_node.create_publisher(SafetyState, "/wx250s/safety/state", LATCHED)
    stops, elsewhere = listen(Bool, "/wx250s/e_stop", STATE), listen(Bool, "/e_stop", STATE)
    pad = Pad(ros_node)  # on /joy
    spin_until(camera.get_subscription_count, 60.0, "teleop_node to look at the namespace's camera")
    spin_until(bridge.get_subscription_count, 60.0, "teleop_node to hear the namespace's bridge")

    def stopped():
        pad.hold(*((BACK,) if int(2 * time.monotonic()) % 2 else ()))  # pressed again until it is received
        return any(m.data for m in stops)

    spin_until(stopped, 60.0, "the emergency stop of /wx250s")
    assert not elsewhere
