"""Starts and stops episodes from a button or a key, without waiting: the answer is reported when it arrives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openvla_msgs.srv import StartEpisode, StopEpisode
from rclpy.node import Node

# command -> outcome and score of the episode
ENDS = {
    "success": (StopEpisode.Request.SUCCESS, 1.0),
    "failure": (StopEpisode.Request.FAILURE, 0.0),
    "discard": (StopEpisode.Request.DISCARD, 0.0),
}


class RecorderClient:
    """Client of a recorder's two services."""

    def __init__(self, node: Node, on_answer: Callable[[bool, str], None]) -> None:
        """Create the clients.

        Args:
            node: Node that owns them.
            on_answer: Called with every answer: whether it is a success, and one line.
        """
        self._node, self._on_answer = node, on_answer
        self._start = node.create_client(StartEpisode, "start_episode")
        self._stop = node.create_client(StopEpisode, "stop_episode")

    def command(self, name: str, note: str = "", instruction: str = "") -> None:
        """Send a command.

        Args:
            name: 'start', or one of ENDS.
            note: Free text kept with the episode.
            instruction: Instruction of an episode that starts; '' for the newest on the topic `instruction`.
        """
        client, request = self._start, StartEpisode.Request(instruction=instruction, operator_note=note)
        if name in ENDS:
            outcome, score = ENDS[name]
            client, request = self._stop, StopEpisode.Request(outcome=outcome, score=score, note=note)
        if not client.service_is_ready():
            self._on_answer(False, f"no recorder on {client.srv_name}: start recorder_node")
            return
        client.call_async(request).add_done_callback(self._answered)

    def _answered(self, future: Any) -> None:
        answer = future.result()
        self._on_answer(bool(answer.success), str(answer.message))

    def close(self) -> None:
        """Destroy the clients."""
        self._node.destroy_client(self._start)
        self._node.destroy_client(self._stop)
