"""The HTTP server and client: what the reference's client sends, what is refused, and that the server goes on."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from openvla_policy.checkpoint.folder import Checkpoint, save_folder
from openvla_policy.checkpoint.tokenizer import train_tokenizer
from openvla_policy.contract.image import ImagePreparation
from openvla_policy.contract.observation import Observation
from openvla_policy.contract.policy import Policy
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.contract.statistics import compute
from openvla_policy.model.config import tiny
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.serving.client import Client
from openvla_policy.serving.server import Limits, PolicyServer
from openvla_policy.serving.wire import BadRequest, answer, decode_array, encode_array, parse_request

settings.register_profile("patient", deadline=None)  # a busy machine is not a bug
settings.load_profile("patient")

RESPONSES = Path(__file__).parents[1] / "fixtures/rest/responses.json"
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    config = tiny(image_size=28, vision_width=32, vision_depth=3, vision_heads=2, hidden_size=32, layers=2)
    rng = np.random.default_rng(0)
    return Checkpoint(
        model=OpenVLA(config).eval(),
        config=config,
        tokenizer=train_tokenizer([build_prompt("lift the cube")], config.action_vocab_size),
        preparation=ImagePreparation.standard(28, ["imagenet", "half"]),
        statistics={name: compute([rng.normal(size=(50, 7))]) for name in ("one", "two")},
    )


@pytest.fixture(scope="module")
def policy() -> LocalPolicy:
    return LocalPolicy(checkpoint(), key_per_request=True)


def call(
    server: PolicyServer, body: str | bytes, path: str = "/act", method: str = "POST", **headers
) -> httpx.Response:
    """One request to the application, without a socket."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(server.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, content=body, headers=headers)

    return asyncio.run(ask())


def request(**changes) -> dict:
    return {"image": encode_array(IMAGE), "instruction": "lift the cube", "unnorm_key": "one"} | changes


def test_the_answer_is_what_the_reference_server_sends(policy):
    json_numpy = pytest.importorskip("json_numpy")
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


@pytest.mark.parametrize(
    "body, status, said",
    [
        ("{", 400, "not JSON"),
        ("[1]", 400, "expected a JSON object"),
        ("[" * 100_000, 400, "not JSON"),
        ('{"image": NaN}', 400, "NaN is not a number"),
        (json.dumps({"instruction": "x"}), 400, "image: missing"),
        (json.dumps({"image": encode_array(IMAGE)}), 400, "instruction: missing"),
        (json.dumps(request(instruction=" ")), 400, "instruction: expected a sentence"),
        (json.dumps(request(image=IMAGE[:2, :2].tolist())), 400, "image: expected a json-numpy array, got a list"),
        (json.dumps(request(image=encode_array(IMAGE / 255))), 400, "expected uint8 RGB"),
        (json.dumps(request(image=encode_array(IMAGE[:, :, :2]))), 400, "expected uint8 RGB"),
        (json.dumps(request(image=encode_array(IMAGE) | {"shape": [40, 60, 4]})), 400, "needs 9600 bytes, got 7200"),
        (json.dumps(request(image=encode_array(IMAGE) | {"dtype": "|O"})), 400, "not a plain number type"),
        (json.dumps(request(image=encode_array(np.zeros((9000, 1, 3), np.uint8)))), 400, "over the limit of 8192"),
        (json.dumps(request(unnorm_key=3)), 400, "unnorm_key: expected a name"),
        (json.dumps(request(speed=3)), 400, "unknown entry 'speed'"),
        (json.dumps(request(unnorm_key="other")), 422, "'other' is unknown; this checkpoint has: one, two"),
        (json.dumps(request(unnorm_key=None)), 422, "unnorm_key is not set"),
        (json.dumps({"encoded": 3}), 400, "encoded: expected a JSON string"),
        (json.dumps(request()) + " " * 120_000, 413, "over the limit of 120000 bytes"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_sentence(policy, body, status, said):
    server = PolicyServer(policy, limits=Limits(body=120_000))
    refused = call(server, body)
    assert refused.status_code == status
    assert said in refused.json()["detail"] and "\n" not in refused.json()["detail"]
    assert call(server, json.dumps(request())).status_code == 200  # and the server goes on
    text = call(server, b"", "/metrics", "GET").text
    assert f'openvla_requests_total{{status="{status}"}} 1' in text and "openvla_actions_total 1" in text


def test_a_failing_policy_is_a_500_and_not_the_end(policy, monkeypatch):
    server = PolicyServer(policy)
    monkeypatch.setattr(policy, "predict_batch", lambda *_: 1 / 0)
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


def test_a_full_queue_and_a_long_wait_are_503(policy, monkeypatch):
    server = PolicyServer(policy, limits=Limits(queue=2, wait=1.0))
    body, original = json.dumps(request()), policy.predict_batch

    def slow(*arguments):
        time.sleep(1.5)
        return original(*arguments)

    monkeypatch.setattr(policy, "predict_batch", slow)

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(server.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await asyncio.gather(*(client.post("/act", content=body) for _ in range(3)))

    answers = asyncio.run(ask())
    assert sorted(a.status_code for a in answers) == [200, 503, 503]
    details = sorted(a.json()["detail"] for a in answers if a.status_code == 503)
    assert "2 requests are waiting already" in details[0] and "not free within 1 s" in details[1]


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_body_is_parsed_or_refused(body):
    with pytest.raises(BadRequest):
        parse_request(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {"__numpy__": JSON, "dtype": JSON | st.sampled_from(["|u1", "<f8", "|O", "(2,)i4"]), "shape": JSON}
    )
)
def test_any_array_is_decoded_or_refused(data):
    try:
        array = decode_array(data)
    except BadRequest:
        return
    assert array.dtype.kind in "biuf" and list(array.shape) == data["shape"]


@given(st.sampled_from(["u1", "<f4", ">i2", "?"]), st.lists(st.integers(0, 4), max_size=4))
def test_arrays_survive_the_wire(dtype, shape):
    array = np.random.default_rng(1).integers(0, 2, shape).astype(dtype)
    again = decode_array(json.loads(json.dumps(encode_array(array))))
    assert again.dtype == array.dtype and (again == array).all() and again.shape == array.shape


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """`openvla-serve` as a process of its own, on a port the system chose."""
    folder = tmp_path_factory.mktemp("checkpoint")
    save_folder(folder, checkpoint(), torch.float32)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "import sys; from openvla_policy.serving.cli import main; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder), "--port", str(port), "--device", "cpu"])
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.get(f"{url}/health").is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield url, folder
    finally:
        process.terminate()
        process.wait(10)


def test_client_is_a_policy_that_gives_the_local_one_s_actions(served):
    url, folder = served
    client = Client(url, unnorm_key="two", frame="base", period=0.1)
    assert isinstance(client, Policy)
    local = LocalPolicy.from_folder(folder, unnorm_key="two", device="cpu")
    ours = local.predict(Observation(IMAGE), "lift the cube")
    chunk = client.predict(Observation(IMAGE), "lift the cube")
    assert (chunk.actions == ours.actions).all()
    assert (chunk.statistics_name, chunk.statistics_hash) == ("two", ours.statistics_hash)
    assert (chunk.frame, chunk.period) == ("base", 0.1)
    assert 0 < chunk.timings["inference"] < chunk.timings["round_trip"]
    meta = client.metadata()
    assert meta["statistics"].keys() == {"one", "two"} and meta["image_size"] == [28, 28]

    answers: list[np.ndarray] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(
                Client(url, unnorm_key="two").predict(Observation(IMAGE), "lift the cube").actions
            )
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4 and all((a == ours.actions).all() for a in answers)

    with pytest.raises(ConnectionError, match="422, unnorm_key 'three' is unknown; this checkpoint has: one, two"):
        Client(url, unnorm_key="three").predict(Observation(IMAGE), "lift the cube")
    with pytest.raises(ConnectionError, match="ConnectError"):
        Client("http://127.0.0.1:9").predict(Observation(IMAGE), "lift the cube")


def test_a_bad_checkpoint_ends_the_server_with_one_line(tmp_path, capsys):
    from openvla_policy.serving.cli import main

    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip().endswith("config.json: missing; is this a checkpoint folder?")
