"""One WebSocket: requests come in, several at a time, and are answered by id, as each is ready."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from openvla_policy.serving.http_server import PolicyServer

log = logging.getLogger("openvla.serve")
_numbers = itertools.count(1)


class Stream:
    """A connection that was let in, from its hello to its end."""

    def __init__(self, server: PolicyServer, websocket: WebSocket) -> None:
        self._server, self._websocket = server, websocket
        self._name = f"ws {next(_numbers)}"
        self._sending = asyncio.Lock()
        self._asked: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Answer until the client goes; then nothing more is computed for it."""
        try:
            await self._websocket.accept()
            await self._send({"type": "hello", "protocol": PROTOCOL, "metadata": self._server.metadata()})
            while True:
                received = await self._websocket.receive()
                if received["type"] == "websocket.disconnect":
                    break
                await self._take(received.get("bytes"), time.perf_counter())
        except (WebSocketDisconnect, RuntimeError) as error:  # starlette says so when a client went in mid-send
            log.debug("%s: %s", self._name, error)
        finally:
            for task in list(self._asked.values()):
                task.cancel()  # what waits is not computed; what is being computed is thrown away

    async def _take(self, raw: bytes | None, received: float) -> None:
        """One message: start on it, or say what is wrong with it."""
        number: int | None = None
        try:
            if raw is None:
                raise BadRequest("a text message; expected a binary one with a msgpack map")
            message = unpack(raw, self._server.limits.body)
            number = message_id(message)
            # Only a JPEG takes long enough to be worth another thread, which has to wait for its turn.
            asked = await run_in_threadpool(read_message, message) if b"jpeg" in raw else read_message(message)
        except BadRequest as error:
            await self._refuse(number, Refused(400, str(error)))
            return
        if isinstance(asked, Reset):
            self._name = f"ws {next(_numbers)}"  # whoever has a new name is not remembered
        elif asked.id in self._asked:
            await self._refuse(asked.id, Refused(400, f"id {asked.id} is asked already and not answered yet"))
        elif len(self._asked) >= self._server.limits.in_flight:
            sentence = f"{len(self._asked)} requests of this connection are not answered yet; ask again later"
            await self._refuse(asked.id, Refused(429, sentence))
        else:
            self._asked[asked.id] = asyncio.create_task(self._answer(asked, received))

    async def _answer(self, asked: Ask, received: float) -> None:
        try:
            chunk = await self._server.ask(asked.request, self._name, received, asked.budget)
            took = time.perf_counter() - received
            if asked.budget is not None and took > asked.budget:
                raise Late(asked.budget, took)
            await self._send(action_message(asked.id, chunk))
            self._server.metrics.count("/ws", 200)
            self._server.metrics.observe("/ws", chunk.timings)
        except Refused as refused:
            await self._refuse(asked.id, refused)
        except (WebSocketDisconnect, RuntimeError, asyncio.CancelledError):  # the client went meanwhile
            self._server.metrics.count_dropped()
        finally:
            self._asked.pop(asked.id, None)

    async def _refuse(self, number: int | None, refused: Refused) -> None:
        self._server.metrics.count("/ws", refused.status)
        kind: dict[str, Any] = {"type": "late" if isinstance(refused, Late) else "error", "id": number}
        try:
            await self._send({**kind, "status": refused.status, "detail": refused.sentence})
        except (WebSocketDisconnect, RuntimeError) as error:
            log.debug("%s: %s", self._name, error)

    async def _send(self, message: dict[str, Any]) -> None:
        async with self._sending:
            await self._websocket.send_bytes(pack(message))
