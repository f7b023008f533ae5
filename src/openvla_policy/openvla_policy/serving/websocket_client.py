"""A policy on another machine over a WebSocket: arrays as bytes, several requests at a time."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
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


class _Pending:
    """A request that is not answered yet."""

    def __init__(self, budget: float) -> None:
        self.budget, self.start = budget, time.perf_counter()
        self.future: Future[ActionChunk] = Future()


class StreamClient(RemotePolicy):
    """Client of an `openvla-serve` at ws:// or wss:// (the path is /ws unless the URL has one).

    The first request opens the connection, and the first one after a failure opens it again. Requests that were pending
    at the failure end with ConnectionError and are never sent again. Safe to call from several threads.
    """

    def __init__(self, url: str = "ws://127.0.0.1:8000", **options: Any) -> None:
        """Make a client; `options` are those of RemotePolicy."""
        super().__init__(url, **options)
        if not self.url.startswith(("ws://", "wss://")):
            raise ValueError(f"{url}: expected ws:// or wss://; connect() takes http:// too")
        self._address = self.url + ("" if urlsplit(self.url).path else "/ws")
        self._opening = threading.Lock()
        self._socket: ClientConnection | None = None
        self._metadata: dict[str, Any] = {}
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Pending] = {}

    def metadata(self) -> dict[str, Any]:
        """The server's metadata as of when the connection was opened."""
        self._connection()
        return self._metadata

    def reset(self) -> None:
        """Tell the server that a new episode begins. Without a connection the server keeps nothing."""
        socket = self._socket
        if socket is not None:
            # After a failure the next request opens a new connection, which has no earlier answers.
            with suppress(WebSocketException, OSError):
                socket.send(pack({"type": "reset"}))

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
            self._abandon(future)
            raise self._late(budget, start) from error

    def ask(self, observation: Observation, instruction: str, deadline: float | None = None) -> Future[ActionChunk]:
        """As `predict`, without waiting for the answer: several requests may be pending.

        Args:
            observation: What the policy observes.
            instruction: The task in words.
            deadline: How long the answer is of use [s]. None: `timeout`.

        Returns:
            The answer, or the exceptions of `predict`. Cancel it to drop the answer.

        Raises:
            ConnectionError: The request cannot be sent.
            ValueError: The deadline is not positive.
        """
        budget = self.timeout if deadline is None else deadline
        if not budget > 0:
            raise ValueError(f"deadline: expected seconds > 0, got {budget}")
        pending = _Pending(budget)
        encode_image = pack_array if self.jpeg_quality is None else partial(pack_jpeg, quality=self.jpeg_quality)
        message = self._payload(observation, instruction, pack_array, encode_image)
        socket = self._connection(budget)
        number = next(self._numbers)
        self._pending[number] = pending
        left = budget - (time.perf_counter() - pending.start)
        try:
            socket.send(pack({"type": "act", **message, "id": number, "deadline_ms": max(1.0, left * 1e3)}))
        except (WebSocketException, OSError) as error:
            self._pending.pop(number, None)
            raise self._lost(error) from error
        return pending.future

    def close(self) -> None:
        """Close the connection; pending requests fail."""
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
            socket = opening.__enter__()  # close() or the server ends it
        except InvalidStatus as error:
            sentence = sentence_of(bytes(error.response.body or b"").decode(errors="replace")) or "no WebSocket there"
            raise ServerRefused(self._address, error.response.status_code, sentence) from error
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
        """Thread: set the result of each request to its answer."""
        reason: Exception = ConnectionError("closed")
        try:
            for raw in socket:
                self._receive(_unpack(raw))
        except (WebSocketException, OSError, BadRequest) as error:
            reason = error
            socket.close()
        with self._opening:
            self._socket = None
            lost, self._pending = self._pending, {}
        for pending in lost.values():
            if pending.future.set_running_or_notify_cancel():
                pending.future.set_exception(self._lost(reason))

    def _receive(self, message: Mapping[str, Any]) -> None:
        number, kind = message.get("id"), message.get("type")
        pending = self._pending.pop(number, None) if isinstance(number, int) else None
        if pending is None or not pending.future.set_running_or_notify_cancel():
            return  # abandoned: its answer must not move a robot
        round_trip = time.perf_counter() - pending.start
        try:
            if kind == "late" or (kind == "action" and round_trip > pending.budget):
                raise self._late(pending.budget, pending.start)
            if kind != "action":
                status = message.get("status")
                raise ServerRefused(self._address, status if isinstance(status, int) else 0, str(message.get("detail")))
            statistics, timings = message.get("statistics") or {}, message.get("timings") or {}
            actions = read_actions(message.get("actions"))
            chunk = self._chunk(
                actions, str(statistics.get("name", "")), str(statistics.get("hash", "")), timings, round_trip
            )
        except Exception as error:
            pending.future.set_exception(error)
        else:
            pending.future.set_result(chunk)

    def _abandon(self, future: Future[ActionChunk]) -> None:
        future.cancel()
        for number, pending in list(self._pending.items()):
            if pending.future is future:
                self._pending.pop(number, None)

    def _lost(self, error: Exception) -> ConnectionError:
        return ConnectionError(f"{self._address}: {type(error).__name__} {error}".rstrip())


def _unpack(message: bytes | str) -> dict[str, Any]:
    if isinstance(message, str):
        raise BadRequest("the server sent text")
    return unpack(message, _MAX_ANSWER, items=4096)  # metadata of a checkpoint with a hundred statistics
