"""What goes over the wire: JSON with arrays in it, as the `json-numpy` package writes them. No pickle."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_SIDE = 8192  # px


class BadRequest(ValueError):
    """The request cannot be understood; the message is one sentence for whoever sent it."""


@dataclass(frozen=True)
class ActRequest:
    """One question. `double_encoded` requests get their answer as a JSON string holding JSON."""

    image: np.ndarray
    instruction: str
    unnorm_key: str | None = None
    double_encoded: bool = False


def encode_array(array: np.ndarray) -> dict[str, Any]:
    """An array as json-numpy writes it: its bytes in base64, dtype and shape."""
    return {
        "__numpy__": base64.b64encode(array.tobytes()).decode(),
        "dtype": array.dtype.str,
        "shape": list(array.shape),
    }


def decode_array(data: dict[str, Any]) -> np.ndarray:
    """The array in `data`; plain numbers only, and exactly as many bytes as dtype and shape say."""
    text, name, shape = data.get("__numpy__"), data.get("dtype"), data.get("shape")
    try:
        dtype = np.dtype(name) if isinstance(name, str) else None
    except (TypeError, ValueError):
        dtype = None
    if dtype is None or dtype.kind not in "biuf" or dtype.subdtype is not None:
        raise BadRequest(f"array: dtype {str(name)[:40]!r} is not a plain number type")
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise BadRequest(f"array: shape {str(shape)[:80]} is not a list of sizes")
    try:
        raw = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"array: its bytes are not base64 ({error})") from error
    expected = dtype.itemsize
    for size in shape:
        expected *= size
    if len(raw) != expected:
        raise BadRequest(f"array: {dtype.str} {shape} needs {expected} bytes, got {len(raw)}")
    return np.frombuffer(raw, dtype).reshape(shape)


def parse_request(body: bytes | str) -> ActRequest:
    """Read what the reference's deploy client posts: {image, instruction, unnorm_key?}, or that in `encoded`."""
    payload = _load(body)
    double = "encoded" in payload
    if double:
        if len(payload) != 1 or not isinstance(payload["encoded"], str):
            raise BadRequest("encoded: expected a JSON string as the only entry")
        payload = _load(payload["encoded"])
    unknown = sorted(set(payload) - {"image", "instruction", "unnorm_key"})
    if unknown:
        raise BadRequest(f"unknown entry {unknown[0][:40]!r}; expected image, instruction and optionally unnorm_key")
    for required in ("image", "instruction"):
        if required not in payload:
            raise BadRequest(f"{required}: missing")
    instruction, key = payload["instruction"], payload.get("unnorm_key")
    if not isinstance(instruction, str) or not instruction.strip():
        raise BadRequest("instruction: expected a sentence")
    if key is not None and not isinstance(key, str):
        raise BadRequest(f"unnorm_key: expected a name, got a {type(key).__name__}")
    return ActRequest(_image(payload["image"]), instruction, key, double)


def _image(data: Any) -> np.ndarray:
    if not isinstance(data, dict) or "__numpy__" not in data:
        raise BadRequest(f"image: expected a json-numpy array, got a {type(data).__name__}")
    image = decode_array(data)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise BadRequest(f"image: expected uint8 RGB (H, W, 3), got {image.dtype} {image.shape}")
    if max(image.shape) > MAX_SIDE:
        raise BadRequest(f"image: {image.shape[1]} x {image.shape[0]} px is over the limit of {MAX_SIDE} a side")
    return image


def _load(text: bytes | str) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise BadRequest(f"{name} is not a number in JSON")

    try:
        data = json.loads(text, parse_constant=refuse)
    except BadRequest:
        raise
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON ({str(error)[:80]})") from error
    if not isinstance(data, dict):
        raise BadRequest(f"expected a JSON object, got a {type(data).__name__}")
    return data


def answer(action: np.ndarray, double_encoded: bool) -> str:
    """The response body for `action` (7,), in the form its request came in."""
    encoded = encode_array(np.asarray(action, dtype=np.float64))
    if double_encoded:
        return json.dumps(json.dumps(encoded))
    return json.dumps(encoded, separators=(",", ":"))
