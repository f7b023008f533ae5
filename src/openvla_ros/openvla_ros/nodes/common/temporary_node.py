"""A temporary node, to wait for other nodes within a transition, when the node's own executor is busy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node


@contextmanager
def temporary_node(node: Node, suffix: str) -> Iterator[tuple[Node, SingleThreadedExecutor]]:
    """Create a node in the same namespace, with an executor; both are destroyed at the end of the block.

    Args:
        node: The node that waits.
        suffix: Appended to its name.

    Yields:
        The temporary node and the executor to spin it with.
    """
    context = node.context
    temporary = rclpy.create_node(
        f"{node.get_name()}_{suffix}", namespace=node.get_namespace(), context=context, use_global_arguments=False
    )
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(temporary)
    try:
        yield temporary, executor
    finally:
        executor.shutdown()
        temporary.destroy_node()
