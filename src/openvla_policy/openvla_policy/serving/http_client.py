"""A policy on another machine over HTTP: one request for each action, as the reference's clients send."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import unquote

import httpx
import numpy as np

from openvla_policy.contract.action import ACTION_DIM, ActionChunk
from openvla_policy.contract.observation import Observation
from openvla_policy.serving.json_codec import BadRequest, decode_array, encode_array
from openvla_policy.serving.remote_policy import RemotePolicy, ServerRefused, sentence_of


class Client(RemotePolicy):
    """Client of an `openvla-serve` (or the reference's deploy.py) at http:// or https://, one action at a time.

    Connections stay open and are opened again after a failure. A request is never sent twice, as a late answer to an
    old image must not move a robot. Safe to call from several threads.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", **options: Any) -> None:
        """Make a client; `options` are those of RemotePolicy."""
        super().__init__(url, **options)
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{url}: expected http:// or https://; connect() takes ws:// too")
        if self.jpeg_quality is not None:
            raise ValueError(f"{url}: jpeg_quality is for ws:// only; POST /act sends arrays")
        self._http = httpx.Client(
            base_url=self.url, headers=self._headers, verify=self._ssl if self._ssl is not None else True
        )

    def reset(self) -> None:
        """Do nothing: the server keeps nothing between requests of this kind."""

    def metadata(self) -> dict[str, Any]:
        """The server's metadata."""
        return self._checked("GET", "/metadata", self.timeout).json()

    def predict(self, observation: Observation, instruction: str, deadline: float | None = None) -> ActionChunk:
        """See RemotePolicy."""
        budget = self.timeout if deadline is None else deadline
        start = time.perf_counter()
        content = json.dumps(self._payload(observation, instruction, encode_array, encode_array))
        try:
            response = self._checked("POST", "/act", budget, content, {"X-OpenVLA-Deadline-Ms": f"{budget * 1e3:.3f}"})
        except ServerRefused as error:
            if error.status == 504:
                raise self._late(budget, start) from error
            raise
        except httpx.TimeoutException as error:
            raise self._late(budget, start) from error
        round_trip = time.perf_counter() - start
        if round_trip > budget:
            raise self._late(budget, start)
        action = self._read(response)
        digest, _, name = response.headers.get("x-openvla-statistics", "").partition(" ")
        stages = _stages(response.headers.get("server-timing", ""))
        return self._chunk(action, unquote(name), digest, stages, round_trip)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _read(self, response: httpx.Response) -> np.ndarray:
        try:
            data = response.json()
            if isinstance(data, dict):
                return np.asarray(decode_array(data), dtype=np.float64).reshape(-1, ACTION_DIM)
        except (BadRequest, ValueError) as error:
            raise ConnectionError(f"{self.url}: the server's answer has no action ({error})") from error
        # deploy.py answers "error" with status 200.
        raise ConnectionError(f"{self.url}: the server answered {str(data)[:80]!r} instead of an action")

    def _checked(
        self, method: str, path: str, timeout: float, content: str | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        every = {"Content-Type": "application/json", **(headers or {})}
        try:
            response = self._http.request(method, path, content=content, headers=every, timeout=timeout)
        except httpx.TimeoutException as error:
            if method == "POST":
                raise
            raise ConnectionError(f"{self.url}{path}: no answer within {timeout:g} s") from error
        except httpx.HTTPError as error:
            raise ConnectionError(f"{self.url}{path}: {type(error).__name__} {error}".rstrip()) from error
        if response.is_error:
            raise ServerRefused(f"{self.url}{path}", response.status_code, sentence_of(response.text))
        return response


def _stages(header: str) -> dict[str, float]:
    stages = {}
    for entry in filter(None, header.split(", ")):
        name, _, milliseconds = entry.partition(";dur=")
        try:
            stages[name] = float(milliseconds) / 1e3
        except ValueError:  # another server's header, in another form
            continue
    return stages
