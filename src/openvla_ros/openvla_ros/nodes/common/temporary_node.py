"""A node beside a node, to wait for others in the middle of a transition, when the node's own executor is busy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node


@contextmanager
def side_node(node: Node, suffix: str) -> Iterator[tuple[Node, SingleThreadedExecutor]]:
    """A node in the same namespace, and the executor to spin it with; both end with the block."""
    context = node.context
    beside = rclpy.create_node(
        f"{node.get_name()}_{suffix}", namespace=node.get_namespace(), context=context, use_global_arguments=False
    )
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(beside)
    try:
        yield beside, executor
    finally:
        executor.shutdown()
        beside.destroy_node()
