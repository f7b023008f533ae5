"""The messages of the WebSocket: msgpack maps, with arrays as {dtype, shape, data} (docs/reference/serving.md)."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from openvla_policy.contract.action import ACTION_DIM, ActionChunk
from openvla_policy.serving.json_codec import ActRequest, BadRequest, checked_layout, checked_size, read_request, view

PROTOCOL = 1
MAX_ITEMS = 64  # maps and lists in a message, and entries in each; a request has about ten


@dataclass(frozen=True)
class Ask:
    """A request for an action.

    Attributes:
        id: Its number in this connection.
        budget: How long after receipt an answer is of use [s]. None: without limit.
        request: The request.
    """

    id: int
    budget: float | None
    request: ActRequest


@dataclass(frozen=True)
class Reset:
    """Begin a new episode on this connection."""


def pack(message: Mapping[str, Any]) -> bytes:
    """Encode a message."""
    return msgpack.packb(message)


def pack_array(array: np.ndarray) -> dict[str, Any]:
    """Encode an array for a message."""
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": array.tobytes()}


def pack_jpeg(image: np.ndarray, quality: int) -> dict[str, Any]:
    """Encode a uint8 RGB image (H, W, 3) as JPEG of `quality` 1..100: a tenth of the bytes, lossy."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return {"jpeg": buffer.getvalue()}


def unpack(raw: bytes, size: int, items: int = MAX_ITEMS) -> dict[str, Any]:
    """Decode a message. Refuses extension types, timestamps and many containers, so that memory stays near its size.

    Args:
        raw: The message.
        size: Its largest size [bytes].
        items: Most maps and lists in it, and entries in each.

    Returns:
        Its entries.

    Raises:
        BadRequest: It is malformed or over a limit.
    """
    if len(raw) > size:
        raise BadRequest(f"the message is over the limit of {size} bytes; send a smaller image")
    count = 0

    def counted(container: Any) -> Any:
        nonlocal count
        count += 1
        if count > items:
            raise BadRequest(f"the message has over {items} maps and lists")
        return container

    def refused(code: int, data: bytes) -> None:
        raise BadRequest(f"msgpack extension type {code} is not supported; only maps, lists, text, numbers, bytes")

    try:
        message = msgpack.unpackb(
            raw, object_hook=counted, list_hook=counted, ext_hook=refused, max_ext_len=0, strict_map_key=True,
            max_array_len=items, max_map_len=items, max_str_len=2**16, max_bin_len=size,
        )  # fmt: skip
    except BadRequest:
        raise
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise BadRequest(f"the message is not msgpack that this server supports ({str(error)[:80]})") from error
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise BadRequest(f"expected a msgpack map with names as keys, got a {type(message).__name__}")
    return message


def unpack_array(name: str, data: Any) -> np.ndarray:
    """Decode an array: a read-only view of the message, or the pixels of a JPEG."""
    if not isinstance(data, dict):
        raise BadRequest(f"{name}: expected an array {{dtype, shape, data}}, got a {type(data).__name__}")
    if "jpeg" in data:
        return _decode_jpeg(name, data["jpeg"])
    dtype, shape = checked_layout(data.get("dtype"), data.get("shape"))
    raw = data.get("data")
    if not isinstance(raw, bytes):
        raise BadRequest(f"{name}: data is a {type(raw).__name__}, expected bytes")
    return view(raw, dtype, shape)


def _decode_jpeg(name: str, raw: Any) -> np.ndarray:
    from PIL import Image

    if not isinstance(raw, bytes):
        raise BadRequest(f"{name}: jpeg is a {type(raw).__name__}, expected bytes")
    try:
        with Image.open(io.BytesIO(raw), formats=("JPEG",)) as image:
            checked_size(name, *image.size)  # by its header, before decompressing a bomb
            return np.asarray(image.convert("RGB"))
    except BadRequest:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds of errors
        raise BadRequest(f"{name}: not a JPEG image ({type(error).__name__})") from error


def message_id(message: Mapping[str, Any]) -> int | None:
    """The id of a message, or None; for answers also to messages that are otherwise malformed."""
    number = message.get("id")
    return number if type(number) is int and 0 <= number < 2**63 else None


def read_message(message: Mapping[str, Any]) -> Ask | Reset:
    """Decode a client's message, or raise BadRequest."""
    kind = message.get("type")
    if kind == "reset":
        return Reset()
    if kind != "act":
        raise BadRequest(f"type: expected 'act' or 'reset', got {str(kind)[:40]!r}")
    number = message_id(message)
    if number is None:
        raise BadRequest("id: expected a whole number from 0 up")
    budget = message.get("deadline_ms")
    if budget is not None and (
        type(budget) not in (int, float) or not 0 < budget < 86_400_000 or not math.isfinite(budget)
    ):
        raise BadRequest(f"deadline_ms: expected milliseconds > 0, got {str(budget)[:40]}")
    payload = {key: value for key, value in message.items() if key not in ("type", "id", "deadline_ms")}
    return Ask(number, None if budget is None else budget / 1e3, read_request(payload, unpack_array))


def action_message(number: int, chunk: ActionChunk) -> dict[str, Any]:
    """Make the answer to request `number`; `timings` are in seconds."""
    return {
        "type": "action",
        "id": number,
        "actions": pack_array(chunk.actions),
        "statistics": {"name": chunk.statistics_name, "hash": chunk.statistics_hash},
        "timings": {stage: float(seconds) for stage, seconds in chunk.timings.items()},
    }


def read_actions(data: Any) -> np.ndarray:
    """Decode the actions of an answer, float64 (T, 7), or raise BadRequest."""
    actions = unpack_array("actions", data)
    if actions.dtype.kind != "f" or actions.ndim != 2 or actions.shape[1] != ACTION_DIM or not len(actions):
        raise BadRequest(f"actions: expected floats (T, {ACTION_DIM}), got {actions.dtype} {actions.shape}")
    return actions.astype(np.float64)
