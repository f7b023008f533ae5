"""POST /act: the reference's client, refusals, and a server that continues after them."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import json_numpy
import numpy as np
import pytest
import torch
from serving import IMAGE, checkpoint, listening, serve_process

from openvla_policy.checkpoint.folder import save_folder
from openvla_policy.contract.observation import Observation
from openvla_policy.contract.policy import Policy
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.serving import Client, LateAnswer, ServerRefused, connect
from openvla_policy.serving.http_server import PolicyServer
from openvla_policy.serving.json_codec import answer, encode_array
from openvla_policy.serving.limits import Limits

RESPONSES = Path(__file__).parents[3] / "fixtures/rest/responses.json"


@pytest.fixture(scope="module")
def policy() -> LocalPolicy:
    return LocalPolicy(checkpoint(), key_per_request=True)


def call(
    server: PolicyServer, body: str | bytes, path: str = "/act", method: str = "POST", **headers: str
) -> httpx.Response:
    """One request to the application, without a socket."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(server.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, content=body, headers=headers)

    return asyncio.run(ask())


def request(**changes: object) -> dict:
    return {"image": encode_array(IMAGE), "instruction": "lift the cube", "unnorm_key": "one"} | changes


def test_the_answer_is_what_the_reference_server_sends(policy):
    body = json_numpy.dumps({"image": IMAGE, "instruction": "lift the cube", "unnorm_key": "one"})
    expected = policy.predict_batch([Observation(IMAGE)], ["lift the cube"], ["one"])[0].actions[0]
    server = PolicyServer(policy)
    plain = call(server, body)
    assert plain.status_code == 200 and plain.headers["content-type"] == "application/json"
    assert (json_numpy.loads(plain.text) == expected).all()
    double = call(server, json.dumps({"encoded": body}))
    assert (json_numpy.loads(json.loads(double.text)) == expected).all()
    # Byte for byte the reference server's forms.
    recorded = {entry["name"]: entry["response_text"] for entry in json.loads(RESPONSES.read_text())}
    action = json_numpy.loads(recorded["plain"])
    assert answer(action, double_encoded=False) == recorded["plain"]
    assert answer(action, double_encoded=True) == recorded["double_encoded"]
    assert "inference;dur=" in plain.headers["server-timing"]


# The reference's client, as a process: json_numpy.patch() changes json for the whole process.
ORIGINAL_CLIENT = """
import sys, json, urllib.request
import json_numpy
json_numpy.patch()
import numpy as np
image = np.load(sys.argv[2])
body = json.dumps({"image": image, "instruction": "lift the cube", "unnorm_key": "one"})
if sys.argv[3] == "double":
    body = json.dumps({"encoded": body})
request = urllib.request.Request(sys.argv[1], body.encode(), {"Content-Type": "application/json"})
action = json.loads(urllib.request.urlopen(request).read())
if sys.argv[3] == "double":
    action = json.loads(action)
assert isinstance(action, np.ndarray) and action.shape == (7,), action
np.save(sys.argv[4], action)
"""


@pytest.mark.parametrize("form", ["plain", "double"])
def test_the_original_client_gets_its_action_through_a_socket(policy, start_process, tmp_path, form, wait_for):
    np.save(tmp_path / "image.npy", IMAGE)
    script = tmp_path / "client.py"
    script.write_text(ORIGINAL_CLIENT)
    with listening(PolicyServer(policy)) as address:
        files = (str(tmp_path / "image.npy"), form, str(tmp_path / "action.npy"))
        client = start_process("python", str(script), f"http://{address}/act", *files)
        wait_for(lambda: not client.running, 60.0, "the client to end")
        assert client.popen.returncode == 0, client.output
    expected = policy.predict_batch([Observation(IMAGE)], ["lift the cube"], ["one"])[0].actions[0]
    assert (np.load(tmp_path / "action.npy") == expected).all()


def large(**changes: object) -> str:
    return json.dumps(request(**changes))


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("{", 400, "not JSON"),
        ("[1]", 400, "expected a JSON object"),
        ("[" * 100_000, 400, "over 4096 values"),
        ('{"image":' + "[" * 2000, 400, "not JSON"),
        (b"\xff\xfe{\x00\xff", 400, "not JSON"),
        ('{"image": NaN}', 400, "NaN is not a number"),
        ('{"image": ' + "1" * 5000 + "}", 400, "not JSON"),
        (json.dumps({"instruction": "x"}), 400, "image: missing"),
        (json.dumps({"image": encode_array(IMAGE)}), 400, "instruction: missing"),
        (large(instruction=" "), 400, "instruction: expected a sentence"),
        (large(instruction=["lift"]), 400, "instruction: expected a sentence"),
        (large(instruction="x" * 1001), 400, "instruction: 1001 characters are over the limit of 1000"),
        (large(instruction="lift \ud800"), 400, "instruction: it has half a surrogate pair"),
        (large(instruction="€" * 999), 422, "instruction: its prompt has"),
        (large(image=IMAGE[:2, :2].tolist()), 400, "image: expected a json-numpy array, got a list"),
        (large(image=IMAGE.tolist()), 400, "over 4096 values; send arrays as json-numpy"),
        (large(image=encode_array(IMAGE / 255)), 400, "expected uint8 RGB"),
        (large(image=encode_array(IMAGE[:, :, :2])), 400, "expected uint8 RGB"),
        (large(image=encode_array(IMAGE[:0])), 400, "expected uint8 RGB"),
        (large(image=encode_array(IMAGE) | {"shape": [40, 60, 4]}), 400, "needs 9600 bytes, got 7200"),
        (large(image=encode_array(IMAGE) | {"shape": [2**30] * 8}), 400, "bytes, got 7200"),
        (large(image=encode_array(IMAGE) | {"shape": [2**31, 60, 3]}), 400, "is not a list of sizes"),
        (large(image=encode_array(IMAGE) | {"dtype": "|O"}), 400, "not a plain number type"),
        (large(image=encode_array(IMAGE) | {"dtype": "u1," * 2000}), 400, "not a plain number type"),
        (large(image=encode_array(IMAGE) | {"__numpy__": "????"}), 400, "not base64"),
        (large(image=encode_array(np.zeros((9000, 1, 3), np.uint8))), 400, "over the limit of 8192"),
        (large(unnorm_key=3), 400, "unnorm_key: expected a name"),
        (large(speed=3), 400, "unknown entry 'speed'"),
        (large(unnorm_key="other"), 422, "'other' is unknown; this checkpoint has: one, two"),
        (large(unnorm_key=None), 422, "unnorm_key is not set"),
        (large(state=encode_array(np.array([0.0, np.nan]))), 400, "state: a value is not finite"),
        (large(state=encode_array(np.arange(3))), 400, "state: expected 1 to 256 floats, got int64"),
        (large(state=encode_array(np.ones(3))), 422, "state: this policy reads no numbers, got 3"),
        (large(extra_images={"wrist": encode_array(IMAGE)}), 422, "extra_images: this policy reads none, got 'wrist'"),
        (large(extra_images={"a\nb": encode_array(IMAGE)}), 422, "this policy reads none, got 'a\\nb'"),
        (large(extra_images={"a\nb": 1}), 400, "extra_images 'a\\nb': expected a json-numpy array, got a int"),
        (large(extra_images=[encode_array(IMAGE)]), 400, "extra_images: expected images by name, got a list"),
        (json.dumps({"encoded": 3}), 400, "encoded: expected a JSON string"),
        (large() + " " * 120_000, 413, "over the limit of 120000 bytes"),
    ],
)
def test_invalid_requests_are_refused_with_one_sentence(policy, body, status, message):
    server = PolicyServer(policy, limits=Limits(body=120_000))
    refused = call(server, body)
    assert refused.status_code == status, refused.text
    assert message in refused.json()["detail"] and "\n" not in refused.json()["detail"]
    assert call(server, json.dumps(request())).status_code == 200  # the server continues
    assert server.metrics.value("openvla_requests_total", route="/act", status=status) == 1
    assert server.metrics.value("openvla_actions_total") == 1


def test_a_failing_policy_gives_500_and_the_server_continues(policy, monkeypatch):
    server = PolicyServer(policy)
    monkeypatch.setattr(policy, "predict_batch", lambda *_, **__: 1 / 0)
    failed = call(server, json.dumps(request()))
    assert failed.status_code == 500 and "division" not in failed.text
    monkeypatch.undo()
    assert call(server, json.dumps(request())).status_code == 200


def test_token(policy):
    server = PolicyServer(policy, token="secret")
    assert call(server, json.dumps(request())).status_code == 401
    assert call(server, json.dumps(request()), Authorization="Bearer wrong").status_code == 401
    assert call(server, json.dumps(request()), Authorization="Bearer secret").status_code == 200
    assert call(server, b"", "/metadata", "GET").status_code == 401
    assert call(server, b"", "/health", "GET").json() == {"status": "ok"}
    assert call(server, b"", "/act", "GET").status_code == 405


def test_a_deadline_in_the_header(policy):
    server = PolicyServer(policy)
    late = call(server, json.dumps(request()), **{"X-OpenVLA-Deadline-Ms": "0.001"})
    assert late.status_code == 504 and late.json()["detail"].startswith("late: the deadline was 0 ms, ")
    assert call(server, json.dumps(request()), **{"X-OpenVLA-Deadline-Ms": "60000"}).status_code == 200
    for wrong in ("soon", "-1", "nan", "inf"):
        refused = call(server, json.dumps(request()), **{"X-OpenVLA-Deadline-Ms": wrong})
        assert refused.status_code == 400 and "expected milliseconds > 0" in refused.json()["detail"]
    text = call(server, b"", "/metrics", "GET").text
    assert "openvla_late_total 1" in text and 'openvla_batch_size_bucket{le="1.0"} 1' in text
    assert 'openvla_latency_seconds_count{route="/act"} 1' in text


def test_a_full_queue_and_a_long_wait_are_503(policy, monkeypatch):
    server = PolicyServer(policy, limits=Limits(queue=1, wait=0.5))
    body, original = json.dumps(request()), policy.predict_batch

    def slow(*arguments, **options):
        time.sleep(0.8)
        return original(*arguments, **options)

    monkeypatch.setattr(policy, "predict_batch", slow)

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(server.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            tasks = []
            for _ in range(3):
                tasks.append(asyncio.create_task(client.post("/act", content=body)))
                await asyncio.sleep(0.1)  # the first is being computed, the second waits
            return await asyncio.gather(*tasks)

    answers = asyncio.run(ask())
    assert [a.status_code for a in answers] == [200, 503, 503]
    assert "not free within 0.5 s" in answers[1].json()["detail"]
    assert "1 requests are waiting already" in answers[2].json()["detail"]


def test_endless_bodies_time_out(policy):
    server = PolicyServer(policy, limits=Limits(queue=2, receive=0.5))

    async def endless() -> Any:
        yield b"{"
        await asyncio.sleep(5)

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(server.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            waiting = [asyncio.create_task(client.post("/act", content=endless())) for _ in range(2)]
            await asyncio.sleep(0.1)
            third = await client.post("/act", content=json.dumps(request()))
            slow = await asyncio.gather(*waiting)
            return [third, *slow, await client.post("/act", content=json.dumps(request()))]

    answers = asyncio.run(ask())
    assert [a.status_code for a in answers] == [503, 408, 408, 200]
    assert "2 requests are arriving already" in answers[0].json()["detail"]
    assert "the body did not arrive within 0.5 s" in answers[1].json()["detail"]


def test_a_server_process_answers_as_the_local_policy(tmp_path):
    folder, token = tmp_path / "checkpoint", tmp_path / "token"
    save_folder(folder, checkpoint(), torch.float32)
    token.write_text("secret\n")
    local = load_policy(folder, unnorm_key="two", device="cpu")
    log = tmp_path / "serve.log"
    with serve_process(folder, "--token-file", str(token), "--frame", "base", log=log) as (process, port):
        for scheme in ("http", "ws"):
            options = {"unnorm_key": "two", "frame": "base", "period": 0.1}
            client = connect(f"{scheme}://127.0.0.1:{port}", token="secret", **options)
            assert isinstance(client, Policy)
            for seed in range(3):
                image = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
                ours = local.predict(Observation(image), "lift the cube")
                chunk = client.predict(Observation(image), "lift the cube")
                assert (chunk.actions == ours.actions).all()
            assert (chunk.statistics_name, chunk.statistics_hash) == ("two", ours.statistics_hash)
            assert (chunk.frame, chunk.period) == ("base", 0.1)
            assert {"queue", "preparation", "vision", "prefill", "decode"} <= chunk.timings.keys()
            assert 0 < chunk.timings["inference"] < chunk.timings["round_trip"]
            assert client.round_trips()["count"] == 3 and 0 < client.round_trips()["p50"] <= client.round_trips()["p99"]
            meta = client.metadata()
            assert meta["statistics"].keys() == {"one", "two"} and meta["image_size"] == [28, 28]
            assert (meta["precision"], meta["runtime"], meta["vocabulary"]) == ("fp32", "eager", "full")
            assert meta["frame"] == "base" and meta["memory"]["total"] > 0 and meta["limits"]["batch"] == 8
            with pytest.raises(LateAnswer, match="no answer within 1 ms"):
                client.predict(Observation(image), "lift the cube", deadline=0.001)
            client.unnorm_key = "three"
            with pytest.raises(ServerRefused, match="422, unnorm_key 'three' is unknown; .* has: one, two") as refused:
                client.predict(Observation(image), "lift the cube")
            assert refused.value.status == 422 and not refused.value.passing
            client.close()
            with pytest.raises(ServerRefused, match="401, a bearer token is needed"):
                connect(f"{scheme}://127.0.0.1:{port}", unnorm_key="two").predict(Observation(image), "lift")
            with pytest.raises(ConnectionError, match="refused"):
                connect(f"{scheme}://127.0.0.1:9").predict(Observation(image), "lift the cube")
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    lines = [line for line in log.read_text().splitlines() if " openvla.serve: " in line]
    assert len(lines) == 2, log.read_text()
    assert "(fp32, 0.9 MB of weights, full vocabulary," in lines[0]
    assert f"eager runtime, on cpu; statistics one, two) at http://127.0.0.1:{port}" in lines[0]
    assert "stopped: " in lines[1] and " 6 actions" in lines[1]


def test_a_client_reconnects_and_never_repeats_a_request(policy):
    for scheme in ("http", "ws"):
        first = PolicyServer(policy)
        with listening(first) as address:
            client = connect(f"{scheme}://{address}", unnorm_key="one", timeout=20.0)
            client.predict(Observation(IMAGE), "lift the cube")
        with pytest.raises(ConnectionError):
            client.predict(Observation(IMAGE), "lift the cube")
        second = PolicyServer(policy)
        with listening(second, port=int(address.rpartition(":")[2])):
            client.predict(Observation(IMAGE), "lift the cube")
            client.close()
        assert (first.metrics.totals()["requests"], second.metrics.totals()["requests"]) == (1, 1)


def test_an_error_with_status_200_is_an_error(monkeypatch):
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text='"error"'))  # what the reference's server sends
    monkeypatch.setattr(httpx, "Client", partial(httpx.Client, transport=transport))
    client = Client("http://reference")
    with pytest.raises(ConnectionError, match="the server answered 'error' instead of an action"):
        client.predict(Observation(IMAGE), "lift the cube")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "config.json: missing; is this a checkpoint folder?"),
        (["--token-file", "/nowhere"], "No such file or directory: '/nowhere'"),
        (["--max-batch", "0"], "limit batch: expected a number > 0, got 0"),
        (["--tls-key", "key.pem"], "--tls-certificate and --tls-key belong together"),
    ],
)
def test_startup_errors_are_one_line(tmp_path, capsys, arguments, message):
    from openvla_policy.serving.cli import main

    assert main([str(tmp_path), *arguments]) == 2
    assert capsys.readouterr().err.strip().endswith(message)
