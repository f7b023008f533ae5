"""The policy over HTTP and WebSocket: a server that OpenVLA's clients can call, and clients that are Policies.

The server may import all of this package. The clients (`http_client`, `websocket_client`, `remote_policy`, codecs)
import only `contract.action` and `contract.observation`: they need NumPy, but neither torch nor transformers.
"""

from __future__ import annotations

from typing import Any

from openvla_policy.serving.http_client import Client
from openvla_policy.serving.remote_policy import LateAnswer, RemotePolicy, ServerRefused

__all__ = ["Client", "LateAnswer", "RemotePolicy", "ServerRefused", "connect"]


def connect(url: str, **options: Any) -> RemotePolicy:
    """Make a client. It connects at the first request.

    Args:
        url: http:// or https:// for requests as of the reference's clients, ws:// or wss:// for streaming.
        **options: Of RemotePolicy.

    Returns:
        The client.
    """
    if url.startswith(("ws://", "wss://")):
        # Here, as only this one needs websockets and msgpack.
        from openvla_policy.serving.websocket_client import StreamClient

        return StreamClient(url, **options)
    return Client(url, **options)
