"""The stop guard without the driver's messages. (With an arm: test_robot_interface.py.)"""

from __future__ import annotations

import pytest
import robot_interfaces

pytestmark = pytest.mark.ros


@pytest.mark.skipif(robot_interfaces.installed(), reason="the robots' interfaces are installed here")
def test_missing_driver_messages_are_reported_in_one_line(start_node, wait_for, root):
    file = root / "config" / "robots" / "widowx.yaml"
    bridge = start_node("bridge_node", "--ros-args", "--params-file", str(file), "-p", "autostart:=true")
    wait_for(lambda: not bridge.running, 60.0, "the bridge to refuse")
    said = [line for line in bridge.output.splitlines() if line.strip()]
    assert len(said) == 1 and "but interbotix_xs_msgs does not import" in said[0], bridge.output
    assert "build github.com/Interbotix/interbotix_ros_core" in said[0]
