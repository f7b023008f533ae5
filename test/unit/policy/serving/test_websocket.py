"""The WebSocket: pipelined requests, deadlines, refusals and limits of a connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
from serving import IMAGE, checkpoint, listening
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as open_socket

from openvla_policy.contract.observation import Observation
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.serving import LateAnswer, ServerRefused, connect
from openvla_policy.serving.http_server import PolicyServer
from openvla_policy.serving.limits import Limits
from openvla_policy.serving.msgpack_codec import pack_array, pack_jpeg, unpack_array

OBSERVATION = Observation(IMAGE)


@pytest.fixture(scope="module")
def policy() -> LocalPolicy:
    return LocalPolicy(checkpoint(), key_per_request=True)


class Gate:
    """Blocks every pass through the policy until it is opened, and records the requests in each."""

    def __init__(self, policy: LocalPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []
        original = policy.predict_batch

        def held(observations: Any, instructions: Any, statistics: Any = None, streams: Any = None) -> Any:
            self.batches.append(list(instructions))
            self.entered.set()
            assert self.open.wait(20)
            return original(observations, instructions, statistics)

        monkeypatch.setattr(policy, "predict_batch", held)


@pytest.fixture
def gate(policy: LocalPolicy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(policy, monkeypatch)
    yield made
    made.open.set()


@pytest.fixture
def talk() -> Iterator[Callable[..., Any]]:
    """Give `talk(address)`: a bare WebSocket after its hello, with send(map) and receive() -> map."""
    opened = []

    class Talk:
        def __init__(self, address: str, **headers: str) -> None:
            self.context = open_socket(f"ws://{address}/ws", additional_headers=headers, compression=None)
            opened.append(self.context)
            self.socket = self.context.__enter__()
            self.hello = self.receive()

        def send(self, message: dict[str, Any] | bytes | str) -> None:
            self.socket.send(msgpack.packb(message) if isinstance(message, dict) else message)

        def receive(self) -> dict[str, Any]:
            return msgpack.unpackb(self.socket.recv(20))

    yield Talk
    for context in opened:
        context.__exit__(None, None, None)


def act(number: int = 1, **changes: Any) -> dict[str, Any]:
    message = {"type": "act", "id": number, "image": pack_array(IMAGE), "instruction": "lift the cube"}
    return message | {"unnorm_key": "one"} | changes


def metric(address: str, name: str) -> float:
    text = httpx.get(f"http://{address}/metrics").text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def test_messages_are_as_documented(policy, talk):
    expected = policy.predict_batch([OBSERVATION], ["lift the cube"], ["one"])[0]
    with listening(PolicyServer(policy)) as address:
        client = talk(address)
        assert client.hello["type"] == "hello" and client.hello["protocol"] == 1
        assert client.hello["metadata"]["image_size"] == [28, 28]
        client.send({"type": "reset"})
        client.send(act(7, deadline_ms=60_000))
        answer = client.receive()
    assert (answer["type"], answer["id"]) == ("action", 7)
    assert (unpack_array("actions", answer["actions"]) == expected.actions).all()
    assert answer["statistics"] == {"name": "one", "hash": expected.statistics_hash}
    assert {"queue", "preparation", "vision", "prefill", "decode", "total"} <= answer["timings"].keys()


@pytest.mark.parametrize(
    ("message", "number", "status", "sentence"),
    [
        ("text", None, 400, "a text message; expected a binary one"),
        (b"\xc1", None, 400, "not msgpack that this server supports"),
        (b"\x93\x01\x02\x03", None, 400, "expected a msgpack map with names as keys, got a list"),
        (b"\x91" * 5000 + b"\xc0", None, 400, "not msgpack"),
        (b"\xdd\xff\xff\xff\xff", None, 400, "not msgpack"),
        (b"\xc6\xff\xff\xff\xff", None, 400, "not msgpack"),
        (msgpack.packb({"a": [[]] * 60, "b": [[]] * 60}), None, 400, "over 64 maps and lists"),
        (msgpack.packb({"type": msgpack.Timestamp(1)}), None, 400, "not msgpack"),
        (msgpack.packb({"type": msgpack.ExtType(4, b"")}), None, 400, "extension type 4 is not supported"),
        ({"type": "eval", "id": 3}, 3, 400, "type: expected 'act' or 'reset', got 'eval'"),
        (act("three"), None, 400, "id: expected a whole number"),
        (act(-1), None, 400, "id: expected a whole number"),
        (act(4, deadline_ms=0), 4, 400, "deadline_ms: expected milliseconds > 0, got 0"),
        (act(4, deadline_ms=float("nan")), 4, 400, "deadline_ms: expected milliseconds > 0, got nan"),
        (act(4, instruction="x" * 1001), 4, 400, "over the limit of 1000"),
        (act(4, image=b"pixels"), 4, 400, "image: expected an array {dtype, shape, data}, got a bytes"),
        (act(4, image=pack_array(IMAGE.astype(np.float32))), 4, 400, "expected uint8 RGB (H, W, 3), got float32"),
        (act(4, image=pack_array(IMAGE) | {"dtype": "O"}), 4, 400, "dtype 'O' is not a plain number type"),
        (act(4, image=pack_array(IMAGE) | {"shape": [2**30, 2**30, 3]}), 4, 400, "bytes, got 7200"),
        (act(4, image=pack_array(IMAGE) | {"data": "text"}), 4, 400, "image: data is a str, expected bytes"),
        (act(4, image={"jpeg": b"\xff\xd8\xff\xe0 no"}), 4, 400, "image: not a JPEG image"),
        (act(4, state=pack_array(np.array([np.inf]))), 4, 400, "state: a value is not finite"),
        (act(4, state=pack_array(np.ones(4))), 4, 422, "state: this policy reads no numbers, got 4"),
        (act(4, unnorm_key="other"), 4, 422, "'other' is unknown; this checkpoint has: one, two"),
        (act(4, speed=1), 4, 400, "unknown entry 'speed'"),
        (act(4, image=pack_array(np.zeros((200, 200, 3), np.uint8))), None, 400, "over the limit of 100000 bytes"),
    ],
)  # fmt: skip
def test_invalid_messages_are_refused_and_the_connection_stays(policy, talk, message, number, status, sentence):
    with listening(PolicyServer(policy, limits=Limits(body=100_000))) as address:
        client = talk(address)
        client.send(message)
        answer = client.receive()
        assert (answer["type"], answer["id"], answer["status"]) == ("error", number, status), answer
        assert sentence in answer["detail"] and "\n" not in answer["detail"]
        client.send(act(9))
        assert client.receive()["type"] == "action"
        assert metric(address, f'openvla_requests_total{{route="/ws",status="{status}"}}') == 1


def test_the_handshake_checks_token_and_connection_limit(policy, talk):
    with listening(PolicyServer(policy, token="secret", limits=Limits(connections=1))) as address:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            with pytest.raises(InvalidStatus) as refused:
                talk(address, **headers)
            assert refused.value.response.status_code == 401
        talk(address, Authorization="Bearer secret")
        with pytest.raises(ServerRefused, match="503, 1 WebSockets are open already") as full:
            connect(f"ws://{address}", token="secret").metadata()
        assert full.value.passing


def test_an_oversized_message_closes_only_its_connection(policy, talk):
    with listening(PolicyServer(policy), ws_max_size=100_000) as address:
        client = talk(address)
        client.send(b"\x00" * 200_000)
        with pytest.raises(ConnectionClosed):
            client.receive()
        again = talk(address)
        again.send(act())
        assert again.receive()["type"] == "action"


def test_pending_requests_are_limited(policy, talk, gate):
    with listening(PolicyServer(policy, limits=Limits(in_flight=3))) as address:
        client = talk(address)
        for number in (1, 2, 3):
            client.send(act(number))
        client.send(act(2))
        doubled = client.receive()
        assert (doubled["id"], doubled["status"]) == (2, 400) and "already in use" in doubled["detail"]
        client.send(act(4))
        refused = client.receive()
        assert (refused["id"], refused["status"]) == (4, 429)
        assert refused["detail"] == "3 requests of this connection are not answered yet; ask again later"
        gate.open.set()
        assert [client.receive()["id"] for _ in range(3)] == [1, 2, 3]
        assert [len(batch) for batch in gate.batches] == [1, 1, 1], "a stream's requests are answered one after another"


def test_late_answers_are_dropped_reported_and_counted(policy, talk, gate):
    with listening(PolicyServer(policy)) as address:
        client = talk(address)
        client.send(act(1, deadline_ms=100))  # its deadline passes while it is computed
        assert gate.entered.wait(20)
        client.send(act(2, deadline_ms=100))  # and this one's while it waits in the queue
        client.send(act(3, deadline_ms=60_000))
        time.sleep(0.2)
        gate.open.set()
        answers = [client.receive() for _ in range(3)]
        assert [(a["type"], a["id"]) for a in answers] == [("late", 1), ("late", 2), ("action", 3)]
        assert answers[0]["detail"].startswith("late: the deadline was 100 ms, ") and "actions" not in answers[0]
        assert len(gate.batches) == 2, "what was late before its turn is not computed"
        assert metric(address, "openvla_late_total") == 2 and metric(address, "openvla_actions_total") == 1


def test_a_client_s_deadline_and_its_late_answer(policy, gate):
    with listening(PolicyServer(policy)) as address:
        client = connect(f"ws://{address}", unnorm_key="one")
        future = client.ask(OBSERVATION, "lift the cube", deadline=20.0)
        with pytest.raises(LateAnswer, match="no answer within 200 ms"):
            client.predict(OBSERVATION, "lift the cube", deadline=0.2)
        assert client.late_answers == 1
        gate.open.set()
        assert len(future.result(20)) == 1 and client.round_trips()["count"] == 1
        client.close()


def test_requests_of_disconnected_clients_are_not_computed(policy, talk, gate, wait_for):
    with listening(PolicyServer(policy)) as address:
        leaving, staying = talk(address), talk(address)
        staying.send(act(1, instruction="first"))
        assert gate.entered.wait(20)
        leaving.send(act(1, instruction="nobody waits for this"))
        wait_for(lambda: metric(address, "openvla_queue_length") == 1, 10, "the second to wait")
        leaving.socket.close()
        wait_for(lambda: metric(address, "openvla_dropped_total") == 1, 10, "the drop to be counted")
        gate.open.set()
        assert staying.receive()["type"] == "action"
        staying.send(act(2, instruction="second"))
        assert staying.receive()["type"] == "action"
        assert gate.batches == [["first"], ["second"]]


def test_pending_requests_fail_when_the_server_stops(policy, gate):
    with listening(PolicyServer(policy), timeout_graceful_shutdown=1) as address:
        client = connect(f"ws://{address}", unnorm_key="one", timeout=20.0)
        future = client.ask(OBSERVATION, "lift the cube")
        assert gate.entered.wait(20)
        threading.Timer(1.5, gate.open.set).start()
    with pytest.raises(ConnectionError):
        future.result(20)


def test_jpeg_images_are_close_to_the_original(policy):
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    again = unpack_array("image", pack_jpeg(smooth, 90))
    assert again.shape == smooth.shape and not (again == smooth).all()
    assert np.abs(again.astype(int) - smooth).mean() < 3
    with listening(PolicyServer(policy)) as address:
        client = connect(f"ws://{address}", unnorm_key="one", jpeg_quality=90)
        expected = policy.predict_batch([Observation(again)], ["lift the cube"], ["one"])[0]
        assert (client.predict(Observation(smooth), "lift the cube").actions == expected.actions).all()
        client.close()
    with pytest.raises(ValueError, match="jpeg_quality is for ws:// only"):
        connect("http://127.0.0.1:1", jpeg_quality=90)
