"""A policy on another machine, as a `Policy`."""

from __future__ import annotations

import json
import time

import httpx
import numpy as np

from ..contract.action import ACTION_DIM, ActionChunk
from ..contract.observation import Observation
from .wire import decode_array, encode_array


class Client:
    """Asks an `openvla-serve` (or the reference's deploy.py) for one action at a time.

    Connections are kept open and opened again after a failure; a request is never sent twice, because a
    late answer to an old image must not move a robot. Failures raise ConnectionError with the server's sentence.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        unnorm_key: str | None = None,
        token: str | None = None,
        timeout: float = 5.0,
        frame: str = "",
        period: float = 0.2,
    ) -> None:
        """`timeout` [s] a request; `frame` and `period` [s] go into every chunk, as in LocalPolicy."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, timeout=timeout, headers=headers)
        self.url, self.unnorm_key, self.frame, self.period = url, unnorm_key, frame, period

    def reset(self) -> None:
        """Nothing is kept between steps."""

    def metadata(self) -> dict[str, object]:
        """What the server says of itself."""
        return self._checked("GET", "/metadata").json()

    def predict(self, observation: Observation, instruction: str) -> ActionChunk:
        """One action; `timings` has the server's stages, `round_trip`, and `network` = what is left of it."""
        payload: dict[str, object] = {"image": encode_array(observation.image), "instruction": instruction}
        if self.unnorm_key is not None:
            payload["unnorm_key"] = self.unnorm_key
        start = time.perf_counter()
        response = self._checked("POST", "/act", json.dumps(payload))
        round_trip = time.perf_counter() - start
        data = response.json()
        if not isinstance(data, dict):  # deploy.py says "error" with status 200
            raise ConnectionError(f"{self.url}: the server answered {str(data)[:80]!r} instead of an action")
        action = np.asarray(decode_array(data), dtype=np.float64)
        timings = _stages(response.headers.get("server-timing", ""))
        digest, _, name = response.headers.get("x-openvla-statistics", "").partition(" ")
        timings |= {"network": round_trip - timings.get("total", 0.0), "round_trip": round_trip, "total": round_trip}
        return ActionChunk(
            actions=action.reshape(-1, ACTION_DIM),
            period=self.period,
            frame=self.frame,
            statistics_name=name or self.unnorm_key or "",
            statistics_hash=digest,
            timings=timings,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _checked(self, method: str, path: str, content: str | None = None) -> httpx.Response:
        try:
            response = self._http.request(method, path, content=content, headers={"Content-Type": "application/json"})
        except httpx.HTTPError as error:
            raise ConnectionError(f"{self.url}{path}: {type(error).__name__} {error}".rstrip()) from error
        if response.is_error:
            try:
                said = response.json()["detail"]
            except (ValueError, KeyError, TypeError):
                said = response.text[:200]
            raise ConnectionError(f"{self.url}{path}: {response.status_code}, {said}")
        return response


def _stages(header: str) -> dict[str, float]:
    stages = {}
    for entry in filter(None, header.split(", ")):
        name, _, milliseconds = entry.partition(";dur=")
        stages[name] = float(milliseconds) / 1e3
    return stages
