"""The keeper of a bridge's last will, as far as it needs no arm (test_robot_link.py has the rest)."""

from __future__ import annotations

import pytest
import robot_interfaces

pytestmark = pytest.mark.ros


@pytest.mark.skipif(robot_interfaces.installed(), reason="the robots' interfaces are installed here")
def test_without_the_driver_s_messages_the_bridge_says_so_in_one_line(start_node, wait_for, root):
    file = root / "config" / "robots" / "widowx.yaml"
    bridge = start_node("bridge_node", "--ros-args", "--params-file", str(file), "-p", "autostart:=true")
    wait_for(lambda: not bridge.running, 60.0, "the bridge to refuse")
    said = [line for line in bridge.output.splitlines() if line.strip()]
    assert len(said) == 1 and "but interbotix_xs_msgs does not import" in said[0], bridge.output
    assert "build github.com/Interbotix/interbotix_ros_core" in said[0]
