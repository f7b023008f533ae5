"""The JSON of `POST /act`, with arrays as the `json-numpy` package writes them; no pickle.

Also the checks of images, instructions and states that all transports share.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAX_SIDE = 8192  # px
MAX_PIXELS = 2**25  # px, also of a decompressed image
MAX_INSTRUCTION = 1000  # characters
MAX_STATE = 256  # numbers
MAX_EXTRA_IMAGES = 8
MAX_JSON_VALUES = 4096  # a request has about 20; a body of brackets would need 20 times its size in memory
_DTYPE = re.compile(r"[<>=|]?[biuf][1248]|[<>=|]?\?")


class BadRequest(ValueError):
    """The request is malformed; the message is one sentence for the client."""


@dataclass(frozen=True)
class ActRequest:
    """A request for an action.

    Attributes:
        image: uint8 RGB (H, W, 3).
        instruction: The task in words.
        unnorm_key: Name of the statistics. None: the server's default.
        double_encoded: Whether the answer is a JSON string that contains JSON.
        extra_images: Further cameras by name, uint8 RGB.
        state: Proprioception, float64 (D,).
    """

    image: np.ndarray
    instruction: str
    unnorm_key: str | None = None
    double_encoded: bool = False
    extra_images: dict[str, np.ndarray] = field(default_factory=dict)
    state: np.ndarray | None = None


def encode_array(array: np.ndarray) -> dict[str, Any]:
    """Encode an array as json-numpy does: bytes in base64, dtype and shape."""
    return {
        "__numpy__": base64.b64encode(array.tobytes()).decode(),
        "dtype": array.dtype.str,
        "shape": list(array.shape),
    }


def decode_array(data: Mapping[str, Any]) -> np.ndarray:
    """Decode an array; BadRequest unless it is plain numbers of exactly the size of dtype and shape."""
    text = data.get("__numpy__")
    dtype, shape = checked_layout(data.get("dtype"), data.get("shape"))
    try:
        raw = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"array: its bytes are not base64 ({error})") from error
    return view(raw, dtype, shape)


def checked_layout(name: Any, shape: Any) -> tuple[np.dtype, list[int]]:
    """Check the dtype and shape of a request, or raise BadRequest. Allocates nothing of the declared size."""
    try:
        dtype = np.dtype(name) if isinstance(name, str) and _DTYPE.fullmatch(name) else None
    except TypeError:  # f1, b4
        dtype = None
    if dtype is None:
        raise BadRequest(f"array: dtype {str(name)[:40]!r} is not a plain number type")
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise BadRequest(f"array: shape {str(shape)[:80]} is not a list of sizes")
    return dtype, shape


def view(raw: bytes, dtype: np.dtype, shape: list[int]) -> np.ndarray:
    """View `raw` as a read-only array; BadRequest unless it has exactly the bytes of that layout."""
    expected = dtype.itemsize
    for size in shape:
        expected *= size
    if len(raw) != expected:
        raise BadRequest(f"array: {dtype.str} {shape} needs {expected} bytes, got {len(raw)}")
    return np.frombuffer(raw, dtype).reshape(shape)


def parse_request(body: bytes | str) -> ActRequest:
    """Parse the body of a request.

    Args:
        body: {image, instruction, unnorm_key?} as the reference's clients post, or that as a string in `encoded`.
            Beyond the reference: `extra_images` {name: array} and `state` (array), for policies that read them.

    Returns:
        The request.

    Raises:
        BadRequest: It is malformed.
    """
    payload = _load(body)
    double = "encoded" in payload
    if double:
        if len(payload) != 1 or not isinstance(payload["encoded"], str):
            raise BadRequest("encoded: expected a JSON string as the only entry")
        payload = _load(payload["encoded"])
    return read_request(payload, _json_array, double)


def read_request(
    payload: Mapping[str, Any], read_array: Callable[[str, Any], np.ndarray], double_encoded: bool = False
) -> ActRequest:
    """Check a decoded request.

    Args:
        payload: Its entries.
        read_array: Decodes an array of the transport, from its name (for errors) and value.
        double_encoded: Whether the answer is a JSON string that contains JSON.

    Returns:
        The request.

    Raises:
        BadRequest: An entry is missing, unknown or out of range.
    """
    known = ("image", "instruction", "unnorm_key", "extra_images", "state")
    unknown = sorted(str(key) for key in set(payload) - set(known))
    if unknown:
        raise BadRequest(f"unknown entry {unknown[0][:40]!r}; expected image, instruction and optionally unnorm_key")
    for required in ("image", "instruction"):
        if required not in payload:
            raise BadRequest(f"{required}: missing")
    instruction, key = payload["instruction"], payload.get("unnorm_key")
    if not isinstance(instruction, str) or not instruction.strip():
        raise BadRequest("instruction: expected a sentence")
    if len(instruction) > MAX_INSTRUCTION:
        raise BadRequest(f"instruction: {len(instruction)} characters are over the limit of {MAX_INSTRUCTION}")
    if key is not None and not isinstance(key, str):
        raise BadRequest(f"unnorm_key: expected a name, got a {type(key).__name__}")
    for name, text in (("instruction", instruction), ("unnorm_key", key or "")):
        if not text.isascii() and not _is_unicode(text):
            raise BadRequest(f"{name}: it has half a surrogate pair, which is not a character")
    image = checked_image("image", read_array("image", payload["image"]))
    extra, state = payload.get("extra_images") or {}, payload.get("state")
    if not isinstance(extra, dict) or not all(isinstance(name, str) and _is_unicode(name) for name in extra):
        raise BadRequest(f"extra_images: expected images by name, got a {type(extra).__name__}")
    if len(extra) > MAX_EXTRA_IMAGES:
        raise BadRequest(f"extra_images: {len(extra)} are over the limit of {MAX_EXTRA_IMAGES}")
    images: dict[str, np.ndarray] = {}
    for name, data in extra.items():
        where = f"extra_images {name[:40]!r}"  # a name may contain anything, for example line breaks
        images[name] = checked_image(where, read_array(where, data))
    vector = None if state is None else checked_state(read_array("state", state))
    return ActRequest(image, instruction, key, double_encoded, images, vector)


def checked_image(name: str, image: np.ndarray) -> np.ndarray:
    """Return `image`, or raise BadRequest unless it is uint8 RGB (H, W, 3) within the limits."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise BadRequest(f"{name}: expected uint8 RGB (H, W, 3), got {image.dtype} {image.shape}")
    checked_size(name, image.shape[1], image.shape[0])
    return image


def checked_size(name: str, width: int, height: int) -> None:
    """Raise BadRequest for an image size [px] over the limits."""
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise BadRequest(f"{name}: {width} x {height} px is over the limit of {MAX_SIDE} a side, {MAX_PIXELS} in all")


def checked_state(state: np.ndarray) -> np.ndarray:
    """Convert `state` to float64 (D,), or raise BadRequest unless it is a short vector of finite floats."""
    if state.dtype.kind != "f" or state.ndim != 1 or not 0 < len(state) <= MAX_STATE:
        raise BadRequest(f"state: expected 1 to {MAX_STATE} floats, got {state.dtype} {state.shape}")
    state = state.astype(np.float64)
    if not np.isfinite(state).all():
        raise BadRequest("state: a value is not finite")
    return state


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json_array(name: str, data: Any) -> np.ndarray:
    if not isinstance(data, dict) or "__numpy__" not in data:
        raise BadRequest(f"{name}: expected a json-numpy array, got a {type(data).__name__}")
    return decode_array(data)


def _load(text: bytes | str) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise BadRequest(f"{name} is not a number in JSON")

    # Counted before parsing, which would need the memory.
    values = sum(text.count(m.encode()) if isinstance(text, bytes) else text.count(m) for m in "[{,")
    if values > MAX_JSON_VALUES:
        raise BadRequest(f"the body has over {MAX_JSON_VALUES} values; send arrays as json-numpy writes them")
    try:
        data = json.loads(text, parse_constant=refuse)
    except BadRequest:
        raise
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON ({str(error)[:80]})") from error
    if not isinstance(data, dict):
        raise BadRequest(f"expected a JSON object, got a {type(data).__name__}")
    return data


def answer(actions: np.ndarray, double_encoded: bool) -> str:
    """Encode the response for `actions` (7,), or (T, 7) of a policy with chunks, in the form of its request."""
    encoded = encode_array(np.asarray(actions, dtype=np.float64))
    if double_encoded:
        return json.dumps(json.dumps(encoded))
    return json.dumps(encoded, separators=(",", ":"))
