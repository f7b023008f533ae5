"""The interfaces over the real middleware, and the guard that the other tests of nodes rely on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Vector3
from openvla_msgs.msg import ActionChunk, EndEffectorDelta
from openvla_msgs.srv import StopEpisode
from rclpy.node import Node
from rclpy.qos import QoSProfile

pytestmark = pytest.mark.ros


def test_an_action_chunk_arrives_unchanged(ros_node: Node, spin_until: Callable[..., Any]) -> None:
    received: list[ActionChunk] = []
    reliable = QoSProfile(depth=5)
    ros_node.create_subscription(ActionChunk, "policy/action_chunk", received.append, reliable)
    publisher = ros_node.create_publisher(ActionChunk, "policy/action_chunk", reliable)
    delta = EndEffectorDelta(
        translation=Vector3(x=0.01, y=-0.02, z=0.03), rotation=Vector3(x=0.1, y=-0.2, z=0.3), gripper=0.25
    )
    sent = ActionChunk(
        observation_stamp=Time(sec=12, nanosec=34),
        sequence=2**63,  # needs all 64 bits
        source=ActionChunk.SOURCE_EXPERT,
        instruction="lift the red cube – please",
        period=0.2,
        actions=[delta, EndEffectorDelta(gripper=1.0)],
        statistics_name="sim",
        statistics_hash="0" * 64,
        latency_total=0.125,
    )
    sent.header.frame_id = "panda_link0"
    spin_until(lambda: publisher.get_subscription_count(), what="discovery")
    publisher.publish(sent)
    spin_until(lambda: received, what="the chunk")
    assert received[0] == sent


def test_a_wrong_field_type_is_refused() -> None:
    """Without ROS_PYTHON_CHECK_FIELDS (conftest) a Vector3 of an int would be published as 5e-324."""
    with pytest.raises(AssertionError, match="float"):
        Vector3(x=1)


def test_outcomes_are_distinct() -> None:
    request = StopEpisode.Request
    assert len({request.SUCCESS, request.FAILURE, request.DISCARD}) == 3


def test_every_test_has_its_own_domain(ros_domain: int, start_process: Callable[..., Any]) -> None:
    """Another process that asks for a domain meanwhile gets another one."""
    script = "from openvla_ros.bringup.ros_domain import DomainLease; print('domain', DomainLease().domain)"
    processes = [start_process("python", "-c", script) for _ in range(3)]
    for process in processes:
        assert process.popen.wait(30) == 0, process.output
        assert f"domain {ros_domain}\n" not in process.output
