"""The base of the clients: what both transports share. Needs neither torch nor a transport's library."""

from __future__ import annotations

import json
import ssl
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openvla_policy.contract.action import ActionChunk
from openvla_policy.contract.observation import Observation


class ServerRefused(ConnectionError):
    """The server answered with an error: `status` as in HTTP, and a sentence."""

    def __init__(self, where: str, status: int, sentence: str) -> None:
        super().__init__(f"{where}: {status}, {sentence}")
        self.status = status

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in (408, 429, 500, 502, 503, 504)


class LateAnswer(TimeoutError):
    """No answer within the deadline; one that arrives later is discarded."""


class RemotePolicy(ABC):
    """A policy on another machine."""

    def __init__(
        self,
        url: str,
        *,
        unnorm_key: str | None = None,
        token: str | None = None,
        timeout: float = 5.0,
        frame: str = "",
        period: float = 0.2,
        ca_file: str | Path | None = None,
        jpeg_quality: int | None = None,
    ) -> None:
        """Set the options. Nothing is sent yet.

        Args:
            url: Address of the server.
            unnorm_key: Name of the statistics. None: the server's default.
            token: The server's bearer token.
            timeout: Deadline of requests that have none of their own [s].
            frame: Frame in which the statistics were made; part of every chunk.
            period: Time between the actions of the data [s]; part of every chunk.
            ca_file: PEM file of a certificate authority, trusted beside the system's.
            jpeg_quality: 1..100: send images as JPEG (WebSocket only), which changes the pixels that the policy sees.

        Raises:
            ValueError: An option is out of range.
        """
        if not timeout > 0:
            raise ValueError(f"timeout: expected seconds > 0, got {timeout}")
        if jpeg_quality is not None and not 1 <= jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality: expected 1 to 100, got {jpeg_quality}")
        self.url, self.unnorm_key, self.frame, self.period = url.rstrip("/"), unnorm_key, frame, period
        self.timeout, self.jpeg_quality = timeout, jpeg_quality
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._ssl: ssl.SSLContext | None = None
        if self.url.startswith(("https:", "wss:")):
            self._ssl = ssl.create_default_context()
            if ca_file is not None:
                self._ssl.load_verify_locations(ca_file)
        self._lock = threading.Lock()
        self._round_trips: deque[float] = deque(maxlen=256)
        self.late_answers = 0

    @abstractmethod
    def predict(self, observation: Observation, instruction: str, deadline: float | None = None) -> ActionChunk:
        """Predict the next actions.

        Args:
            observation: What the policy observes.
            instruction: The task in words.
            deadline: How long the answer is of use [s]. None: `timeout`.

        Returns:
            The action chunk; its timings are the server's stages, `round_trip` and `network`.

        Raises:
            LateAnswer: The deadline passed.
            ServerRefused: The server answered with an error.
            ConnectionError: Anything else failed.
        """

    @abstractmethod
    def reset(self) -> None:
        """Begin a new episode."""

    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """The server's metadata."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""

    def round_trips(self) -> dict[str, float]:
        """Round trips of the last 256 requests: `count`, `p50` and `p99` [s]."""
        with self._lock:
            newest = list(self._round_trips)
        if not newest:
            return {"count": 0.0}
        p50, p99 = np.percentile(newest, [50, 99])
        return {"count": float(len(newest)), "p50": float(p50), "p99": float(p99)}

    def _chunk(
        self, actions: np.ndarray, name: str, digest: str, timings: Mapping[str, float], round_trip: float
    ) -> ActionChunk:
        """Make the answer; `network` is the part of the round trip that the server did not use [s]."""
        with self._lock:
            self._round_trips.append(round_trip)
        network = round_trip - timings.get("total", 0.0)
        return ActionChunk(
            actions=actions,
            period=self.period,
            frame=self.frame,
            statistics_name=name or self.unnorm_key or "",
            statistics_hash=digest,
            timings={**timings, "network": network, "round_trip": round_trip, "total": round_trip},
        )

    def _late(self, budget: float, start: float) -> LateAnswer:
        with self._lock:
            self.late_answers += 1
        took = time.perf_counter() - start
        return LateAnswer(f"{self.url}: no answer within {budget * 1e3:.0f} ms ({took * 1e3:.0f} ms went by)")

    def _payload(
        self,
        observation: Observation,
        instruction: str,
        encode: Callable[[np.ndarray], dict[str, Any]],
        encode_image: Callable[[np.ndarray], dict[str, Any]],
    ) -> dict[str, Any]:
        """Make the request; with further cameras and the state where the observation has them."""
        payload: dict[str, Any] = {"image": encode_image(observation.image), "instruction": instruction}
        if self.unnorm_key is not None:
            payload["unnorm_key"] = self.unnorm_key
        if observation.extra_images:
            payload["extra_images"] = {name: encode_image(image) for name, image in observation.extra_images.items()}
        if observation.state is not None:
            payload["state"] = encode(np.asarray(observation.state, dtype=np.float64))
        return payload


def sentence_of(body: str) -> str:
    """The sentence in an answer with an error status: its `detail`, else the beginning of its text."""
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return " ".join(body[:200].split())
