"""The policy over HTTP and WebSocket: a server that OpenVLA's clients can call, and clients that are Policies."""

from __future__ import annotations

from typing import Any

from openvla_policy.serving.http_client import Client
from openvla_policy.serving.remote_policy import LateAnswer, RemotePolicy, ServerRefused

__all__ = ["Client", "LateAnswer", "RemotePolicy", "ServerRefused", "connect"]


def connect(url: str, **options: Any) -> RemotePolicy:
    """The client for `url`: http:// and https:// as the reference's clients ask, ws:// and wss:// for streaming.

    `options` are those of RemotePolicy. Nothing is sent yet.
    """
    if url.startswith(("ws://", "wss://")):
        from openvla_policy.serving.websocket_client import (
            StreamClient,  # only where it is used: websockets and msgpack
        )

        return StreamClient(url, **options)
    return Client(url, **options)
