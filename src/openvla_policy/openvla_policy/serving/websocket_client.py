"""A policy on another machine over a WebSocket: arrays as bytes, several requests under way at a time."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from openvla_policy.contract.action import ActionChunk
from openvla_policy.contract.observation import Observation
from openvla_policy.serving.json_codec import BadRequest
from openvla_policy.serving.msgpack_codec import PROTOCOL, pack, pack_array, pack_jpeg, read_actions, unpack
from openvla_policy.serving.remote_policy import LateAnswer, RemotePolicy, ServerRefused, sentence_of

_MAX_ANSWER = 2**20  # bytes


class _Asked:
    """A request that is not answered yet."""

    def __init__(self, budget: float) -> None:
        self.budget, self.start = budget, time.perf_counter()
        self.future: Future[ActionChunk] = Future()


class StreamClient(RemotePolicy):
    """Asks an `openvla-serve` at ws:// or wss:// (the path is /ws unless the URL has one).

    The connection is opened by the first request, and again by the first one after it broke; what was under way
    then fails with ConnectionError and is never sent again. Safe to call from several threads.
    """

    def __init__(self, url: str = "ws://127.0.0.1:8000", **options: Any) -> None:
        """`options` are those of RemotePolicy."""
        super().__init__(url, **options)
        if not self.url.startswith(("ws://", "wss://")):
            raise ValueError(f"{url}: expected ws:// or wss://; connect() takes http:// too")
        self._address = self.url + ("" if urlsplit(self.url).path else "/ws")
        self._opening = threading.Lock()
        self._socket: ClientConnection | None = None
        self._metadata: dict[str, Any] = {}
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Asked] = {}

    def metadata(self) -> dict[str, Any]:
        """What the server said of itself when the connection was opened."""
        self._connection()
        return self._metadata

    def reset(self) -> None:
        """Tell the server that a new episode begins, if there is a connection; without one nothing is kept."""
        socket = self._socket
        if socket is not None:
            try:
                socket.send(pack({"type": "reset"}))
            except (WebSocketException, OSError):
                pass  # the next request finds out, and a new connection is as good as reset

    def predict(self, observation: Observation, instruction: str, deadline: float | None = None) -> ActionChunk:
        """See RemotePolicy."""
        budget = self.timeout if deadline is None else deadline
        start = time.perf_counter()
        future = self.ask(observation, instruction, budget)
        try:
            return future.result(max(0.0, budget - (time.perf_counter() - start)))
        except LateAnswer:
            raise
        except TimeoutError as error:
            self._forget(future)
            raise self._late(budget, start) from error

    def ask(self, observation: Observation, instruction: str, deadline: float | None = None) -> Future[ActionChunk]:
        """As `predict`, without waiting: several may be under way. The future raises what `predict` does.

        Whoever stops waiting for the future before its deadline has its answer dropped by `cancel()`.
        """
        budget = self.timeout if deadline is None else deadline
        if not budget > 0:
            raise ValueError(f"deadline: expected seconds > 0, got {budget}")
        asked = _Asked(budget)
        encode_image = pack_array if self.jpeg_quality is None else partial(pack_jpeg, quality=self.jpeg_quality)
        message = self._payload(observation, instruction, pack_array, encode_image)
        socket = self._connection(budget)
        number = next(self._numbers)
        self._asked[number] = asked
        left = budget - (time.perf_counter() - asked.start)
        try:
            socket.send(pack({"type": "act", **message, "id": number, "deadline_ms": max(1.0, left * 1e3)}))
        except (WebSocketException, OSError) as error:
            self._asked.pop(number, None)
            raise self._lost(error) from error
        return asked.future

    def close(self) -> None:
        """Close the connection; what is under way fails."""
        socket = self._socket
        if socket is not None:
            socket.close()

    # ---- the connection --------------------------------------------------------------------------

    def _connection(self, timeout: float | None = None) -> ClientConnection:
        with self._opening:
            if self._socket is None:
                self._socket = self._open(self.timeout if timeout is None else timeout)
                threading.Thread(target=self._listen, args=(self._socket,), name="answers", daemon=True).start()
            return self._socket

    def _open(self, timeout: float) -> ClientConnection:
        try:
            opening = connect(
                self._address, additional_headers=self._headers, ssl=self._ssl, open_timeout=timeout,
                compression=None, max_size=_MAX_ANSWER, ping_interval=5.0, ping_timeout=10.0,
            )  # fmt: skip
            socket = opening.__enter__()  # left by close(), or by whoever closes at the other end
        except InvalidStatus as error:
            said = sentence_of(bytes(error.response.body or b"").decode(errors="replace")) or "no WebSocket there"
            raise ServerRefused(self._address, error.response.status_code, said) from error
        except (WebSocketException, OSError, TimeoutError) as error:
            raise self._lost(error) from error
        try:
            hello = _unpack(socket.recv(timeout))
        except (WebSocketException, OSError, TimeoutError, BadRequest) as error:
            socket.close()
            raise self._lost(error) from error
        if hello.get("type") != "hello" or hello.get("protocol") != PROTOCOL:
            socket.close()
            found = f"{hello.get('type')!s:.20} {hello.get('protocol')!s:.20}"
            raise ConnectionError(f"{self._address}: speaks '{found}', this client 'hello {PROTOCOL}'")
        metadata = hello.get("metadata")
        self._metadata = metadata if isinstance(metadata, dict) else {}
        return socket

    def _listen(self, socket: ClientConnection) -> None:
        """In a thread of its own: hand each answer to whoever asked."""
        reason: Exception = ConnectionError("closed")
        try:
            for raw in socket:
                self._take(_unpack(raw))
        except (WebSocketException, OSError, BadRequest) as error:
            reason = error
            socket.close()
        with self._opening:
            self._socket = None
            lost, self._asked = self._asked, {}
        for asked in lost.values():
            if asked.future.set_running_or_notify_cancel():
                asked.future.set_exception(self._lost(reason))

    def _take(self, message: Mapping[str, Any]) -> None:
        number, kind = message.get("id"), message.get("type")
        asked = self._asked.pop(number, None) if isinstance(number, int) else None
        if asked is None or not asked.future.set_running_or_notify_cancel():
            return  # given up long ago: the answer is to move nobody
        round_trip = time.perf_counter() - asked.start
        try:
            if kind == "late" or (kind == "action" and round_trip > asked.budget):
                raise self._late(asked.budget, asked.start)
            if kind != "action":
                status = message.get("status")
                raise ServerRefused(self._address, status if isinstance(status, int) else 0, str(message.get("detail")))
            said, timings = message.get("statistics") or {}, message.get("timings") or {}
            actions = read_actions(message.get("actions"))
            chunk = self._chunk(actions, str(said.get("name", "")), str(said.get("hash", "")), timings, round_trip)
        except Exception as error:
            asked.future.set_exception(error)
        else:
            asked.future.set_result(chunk)

    def _forget(self, future: Future[ActionChunk]) -> None:
        future.cancel()
        for number, asked in list(self._asked.items()):
            if asked.future is future:
                self._asked.pop(number, None)

    def _lost(self, error: Exception) -> ConnectionError:
        return ConnectionError(f"{self._address}: {type(error).__name__} {error}".rstrip())


def _unpack(message: bytes | str) -> dict[str, Any]:
    if isinstance(message, str):
        raise BadRequest("the server sent text")
    return unpack(message, _MAX_ANSWER, items=4096)  # a checkpoint may have a hundred statistics
