"""Fuzzing of both transports' parsers: any input gives a request or BadRequest, in bounded time and memory."""

from __future__ import annotations

import contextlib
import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from serving import IMAGE

from openvla_policy.serving.json_codec import ActRequest, BadRequest, decode_array, encode_array, parse_request
from openvla_policy.serving.msgpack_codec import (
    Ask,
    Reset,
    message_id,
    pack,
    pack_array,
    pack_jpeg,
    read_message,
    unpack,
    unpack_array,
)

SMALL = IMAGE[:4, :5]
BODY = json.dumps({"image": encode_array(SMALL), "instruction": "lift the cube", "unnorm_key": "one"}).encode()
DOUBLE = json.dumps({"encoded": BODY.decode()}).encode()
STATE = np.arange(4.0)
MESSAGE = pack(
    {"type": "act", "id": 1, "deadline_ms": 50.5, "image": pack_array(SMALL), "instruction": "lift the cube",
     "extra_images": {"wrist": pack_jpeg(SMALL, 80)}, "state": pack_array(STATE)}
)  # fmt: skip
LIMIT = 1_000_000


def parse_message(raw: bytes) -> Ask | Reset:
    return read_message(unpack(raw, LIMIT))


def check_request(request: ActRequest) -> None:
    """The properties on which the server relies."""
    for image in (request.image, *request.extra_images.values()):
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size > 0
    assert request.instruction.strip() and len(request.instruction.encode()) <= 4000
    assert request.unnorm_key is None or request.unnorm_key.encode() is not None
    assert request.state is None or np.isfinite(request.state).all()


def parsed_or_refusal(parse: Callable[[Any], Any], raw: bytes | str) -> Any:
    """The result of `parse`, or the sentence of its refusal."""
    try:
        return parse(raw)
    except BadRequest as error:
        return str(error)


def check_body(body: bytes | str) -> None:
    result = parsed_or_refusal(parse_request, body)
    if isinstance(result, str):
        assert "\n" not in result and len(result) < 400
    else:
        check_request(result)


def check_message(raw: bytes) -> None:
    result = parsed_or_refusal(parse_message, raw)
    if isinstance(result, str):
        assert "\n" not in result and len(result) < 400
    elif isinstance(result, Ask):
        assert result.id >= 0 and (result.budget is None or 0 < result.budget < 86_400)
        check_request(result.request)


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_any_body(body):
    with pytest.raises(BadRequest):
        parse_request(body)


@given(st.binary(max_size=300))
def test_any_message(raw):
    with pytest.raises(BadRequest):
        parse_message(raw)


# Cut, overwritten, doubled or shifted somewhere: mostly valid, which reaches deeper into the parsers.
EDITS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 30), st.binary(max_size=6)), min_size=1, max_size=4)


def edited(raw: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for at, length, bytes_ in edits:
        at %= len(raw) + 1
        raw = raw[:at] + bytes_ + raw[at + length :]
    return raw


@given(st.sampled_from([BODY, DOUBLE]), EDITS)
def test_damaged_bodies(body, edits):
    check_body(edited(body, edits))


@settings(max_examples=300)
@given(EDITS)
def test_damaged_messages(edits):
    check_message(edited(MESSAGE, edits))


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 30), st.binary(max_size=6)), min_size=1, max_size=3))
def test_damaged_jpegs(edits):
    jpeg = edited(pack_jpeg(SMALL, 80)["jpeg"], edits)
    try:
        image = unpack_array("image", {"jpeg": jpeg})
    except BadRequest:
        return
    assert image.dtype == np.uint8 and image.ndim == 3


ENTRIES = "image instruction unnorm_key extra_images state encoded type id deadline_ms __numpy__ dtype shape data jpeg"
NAMES = st.sampled_from(ENTRIES.split()) | st.text(max_size=4)
LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["|u1", "<f8", "|O", "(2,)i4", "act", "reset", "\ud800"]) | st.just(encode_array(SMALL))
    | st.just(encode_array(STATE))
)  # fmt: skip
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
WHOLE = st.fixed_dictionaries(
    {"image": st.just(encode_array(SMALL)) | TREES, "instruction": st.text(max_size=8) | TREES},
    optional={"unnorm_key": TREES, "extra_images": TREES, "state": st.just(encode_array(STATE)) | TREES},
)


@given(WHOLE | TREES)
def test_any_json_tree(tree):
    check_body(json.dumps(tree))
    check_body(json.dumps({"encoded": json.dumps(tree)}))


BINARY_LEAVES = (
    LEAVES.filter(lambda leaf: leaf != "\ud800") | st.binary(max_size=8) | st.just(pack_array(SMALL))
    | st.just(pack_array(STATE)) | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4))
)  # fmt: skip
BINARY_TREES = st.recursive(
    BINARY_LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
ASKED = st.fixed_dictionaries(
    {"type": st.just("act"), "id": st.just(1) | BINARY_TREES, "image": st.just(pack_array(SMALL)) | BINARY_TREES,
     "instruction": st.just("lift") | BINARY_TREES},
    optional={"deadline_ms": BINARY_TREES, "state": st.just(pack_array(STATE)) | BINARY_TREES,
              "unnorm_key": BINARY_TREES, "extra_images": st.dictionaries(NAMES, BINARY_TREES, max_size=3)},
)  # fmt: skip


@given(ASKED | BINARY_TREES)
def test_any_msgpack_tree(tree):
    raw = msgpack.packb(tree, unicode_errors="surrogatepass")
    check_message(raw)
    with contextlib.suppress(BadRequest):
        message_id(unpack(raw, LIMIT))


@given(st.fixed_dictionaries({"__numpy__": TREES, "dtype": TREES, "shape": TREES}))
def test_any_array_is_decoded_or_refused(data):
    try:
        array = decode_array(data)
    except BadRequest:
        return
    assert array.dtype.kind in "biuf" and list(array.shape) == data["shape"]


@given(st.sampled_from(["u1", "<f4", ">i2", "?"]), st.lists(st.integers(0, 4), max_size=4))
def test_arrays_survive_both_codecs(dtype, shape):
    array = np.random.default_rng(1).integers(0, 2, shape).astype(dtype)
    sent = json.loads(json.dumps(encode_array(array))), unpack(pack({"a": pack_array(array)}), LIMIT)["a"]
    for again in (decode_array(sent[0]), unpack_array("a", sent[1])):
        assert again.dtype == array.dtype and (again == array).all() and again.shape == array.shape


def bomb(width: int, height: int) -> bytes:
    """A JPEG whose header declares a size that its data does not have."""
    jpeg = bytearray(pack_jpeg(SMALL, 80)["jpeg"])
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(jpeg)


MEGABYTE = 2**20
HOSTILE: dict[str, Any] = {
    "brackets": b'{"image": ' + b"[[]," * (2 * MEGABYTE),
    "numbers": b'{"image": [' + b"1.5," * (2 * MEGABYTE),
    "names": b'{"image": {' + b'"a":{' * MEGABYTE,
    "escaped": json.dumps({"encoded": '{"image": ' + "[[]," * MEGABYTE}).encode(),
    "digits": b'{"image": ' + b"9" * (4 * MEGABYTE) + b"}",
    "nothing": b"\0" * (8 * MEGABYTE),
    "lists": pack({"a": 1})[:1] + b"\xa1a" + b"\x9f" + (b"\x9f" + b"\x90" * 15) * (MEGABYTE // 4),
    "deep": b"\x81\xa1a" + b"\x91" * (4 * MEGABYTE),
    "promises": b"\x81\xa1a" + b"\xdd\x7f\xff\xff\xff" * 1000,
    "declared": pack({"type": "act", "id": 1, "instruction": "x",
                      "image": {"dtype": "|u1", "shape": [2**31 - 1] * 8, "data": b""}}),
    "bomb": pack({"type": "act", "id": 1, "instruction": "x", "image": {"jpeg": bomb(65000, 65000)}}),
    "large": pack({"type": "act", "id": 1, "instruction": "x", "image": {"jpeg": bomb(8192, 8192)}}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_malicious_inputs_cost_little(name):
    raw = HOSTILE[name]
    parse = parse_request if raw[:1] in (b"{", b"\0") else lambda r: read_message(unpack(r, 32 * MEGABYTE))
    tracemalloc.start()
    try:
        started = time.process_time()
        with pytest.raises(BadRequest):
            parse(raw)
        used, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(raw) + 4 * MEGABYTE, f"{peak / MEGABYTE:.0f} MiB for a request of {len(raw) / MEGABYTE:.1f}"
    assert used < 5.0, "not bounded by the size of the request"
