"""One WebSocket connection: several requests at a time, each answered by its id when it is ready."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from starlette.concurrency import run_in_threadpool

from openvla_policy.serving.json_codec import BadRequest
from openvla_policy.serving.limits import Late, Refused
from openvla_policy.serving.msgpack_codec import (
    PROTOCOL,
    Ask,
    Reset,
    action_message,
    message_id,
    pack,
    read_message,
    unpack,
)
from openvla_policy.serving.service import PolicyService, log

_numbers = itertools.count(1)


class Stream:
    """An authorized connection, from its hello to its end."""

    def __init__(self, service: PolicyService, websocket: WebSocket) -> None:
        self._service, self._websocket = service, websocket
        self._name = f"ws {next(_numbers)}"
        self._sending = asyncio.Lock()
        self._pending: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Answer until the client disconnects; its pending requests are then cancelled."""
        try:
            await self._websocket.accept()
            await self._send({"type": "hello", "protocol": PROTOCOL, "metadata": self._service.metadata()})
            while True:
                event = await self._websocket.receive()
                if event["type"] == "websocket.disconnect":
                    break
                await self._receive(event.get("bytes"), time.perf_counter())
        except (WebSocketDisconnect, RuntimeError) as error:  # starlette's, when a client disconnects during a send
            log.debug("%s: %s", self._name, error)
        finally:
            for task in list(self._pending.values()):
                task.cancel()  # queued requests are not computed; the answer of a running one is discarded

    async def _receive(self, raw: bytes | None, received: float) -> None:
        """Start on one message, or refuse it."""
        number: int | None = None
        try:
            if raw is None:
                raise BadRequest("a text message; expected a binary one with a msgpack map")
            message = unpack(raw, self._service.limits.body)
            number = message_id(message)
            # Only decoding a JPEG takes long enough to pay for another thread.
            parsed = await run_in_threadpool(read_message, message) if b"jpeg" in raw else read_message(message)
        except BadRequest as error:
            await self._refuse(number, Refused(400, str(error)))
            return
        if isinstance(parsed, Reset):
            self._name = f"ws {next(_numbers)}"  # a new stream, so that `draft` has no earlier answer to guess from
        elif parsed.id in self._pending:
            await self._refuse(parsed.id, Refused(400, f"id {parsed.id} is already in use by a pending request"))
        elif len(self._pending) >= self._service.limits.in_flight:
            sentence = f"{len(self._pending)} requests of this connection are not answered yet; ask again later"
            await self._refuse(parsed.id, Refused(429, sentence))
        else:
            self._pending[parsed.id] = asyncio.create_task(self._answer(parsed, received))

    async def _answer(self, parsed: Ask, received: float) -> None:
        metrics = self._service.metrics
        try:
            chunk = await self._service.ask(parsed.request, self._name, received, parsed.budget)
            took = time.perf_counter() - received
            if parsed.budget is not None and took > parsed.budget:
                raise Late(parsed.budget, took)
            await self._send(action_message(parsed.id, chunk))
            metrics.count("/ws", 200)
            metrics.observe("/ws", chunk.timings)
        except Refused as refused:
            await self._refuse(parsed.id, refused)
        except (WebSocketDisconnect, RuntimeError, asyncio.CancelledError):  # the client has disconnected
            metrics.count_dropped()
        finally:
            self._pending.pop(parsed.id, None)

    async def _refuse(self, number: int | None, refused: Refused) -> None:
        self._service.metrics.count("/ws", refused.status)
        kind = "late" if isinstance(refused, Late) else "error"
        try:
            await self._send({"type": kind, "id": number, "status": refused.status, "detail": refused.sentence})
        except (WebSocketDisconnect, RuntimeError) as error:
            log.debug("%s: %s", self._name, error)

    async def _send(self, message: dict[str, Any]) -> None:
        async with self._sending:
            await self._websocket.send_bytes(pack(message))
