"""Starting and stopping episodes from a button or a key, without waiting: the answer is told when it comes."""

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
    """Client of a recorder's two services; `tell(fine, line)` is called with every answer."""

    def __init__(self, node: Node, tell: Callable[[bool, str], None]) -> None:
        self._node, self._tell = node, tell
        self._start = node.create_client(StartEpisode, "start_episode")
        self._stop = node.create_client(StopEpisode, "stop_episode")

    def command(self, name: str, note: str = "", instruction: str = "") -> None:
        """'start', or one of ENDS. instruction: '' = the newest on the topic `instruction`."""
        client, request = self._start, StartEpisode.Request(instruction=instruction, operator_note=note)
        if name in ENDS:
            outcome, score = ENDS[name]
            client, request = self._stop, StopEpisode.Request(outcome=outcome, score=score, note=note)
        if not client.service_is_ready():
            self._tell(False, f"no recorder answers on {client.srv_name}: start recorder_node")
            return
        client.call_async(request).add_done_callback(self._answered)

    def _answered(self, future: Any) -> None:
        answer = future.result()
        self._tell(bool(answer.success), str(answer.message))

    def close(self) -> None:
        """Drop the clients."""
        self._node.destroy_client(self._start)
        self._node.destroy_client(self._stop)
