"""The policy server. `POST /act` is what clients of the reference's deploy.py already speak."""

from __future__ import annotations

import asyncio
import hmac
import logging
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool

from .. import __version__
from ..contract.action import ActionChunk
from ..contract.observation import Observation
from ..contract.statistics import choose
from ..runtime.local_policy import LocalPolicy
from .metrics import Metrics
from .wire import ActRequest, BadRequest, answer, parse_request

log = logging.getLogger("openvla.serve")


@dataclass(frozen=True)
class Limits:
    """What a request may cost.

    `body` [bytes] its size; `queue` how many may wait; `wait` [s] for the policy to be free; `receive` [s] for
    the body to arrive.
    """

    body: int = 32 * 2**20
    queue: int = 32
    wait: float = 10.0
    receive: float = 10.0


class Refused(Exception):
    """A request answered with an error: a status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class PolicyServer:
    """One policy behind HTTP. Requests are computed one after another, in the order they came."""

    def __init__(self, policy: LocalPolicy, token: str | None = None, limits: Limits | None = None) -> None:
        self.policy, self.token, self.limits = policy, token, limits or Limits()
        self.metrics = Metrics()
        # One thread for good: the policy is not to be entered twice, and a client that goes away cannot cause it.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")
        self._waiting = 0

    def app(self) -> FastAPI:
        """The routes: /act, /health, /metadata, /metrics."""
        app = FastAPI(title="openvla-serve", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
        app.add_api_route("/act", self._act, methods=["POST"], response_model=None)
        app.add_api_route("/health", self._health, methods=["GET"], response_model=None)
        app.add_api_route("/metadata", self._metadata, methods=["GET"], response_model=None)
        app.add_api_route("/metrics", self._metrics, methods=["GET"], response_model=None)
        return app

    async def _act(self, request: Request) -> Response:
        try:
            response = await self._answer(request)
        except Refused as refused:
            response = JSONResponse({"detail": refused.sentence}, refused.status)
        except Exception:
            # What went wrong is for the log; the server goes on, and the robot must hold.
            log.exception("request failed")
            response = JSONResponse({"detail": "the policy failed on this request; see the server's log"}, 500)
        self.metrics.count(response.status_code)
        return response

    async def _answer(self, request: Request) -> Response:
        self._authorise(request)
        try:
            body = await asyncio.wait_for(self._body(request), self.limits.receive)
            asked = await run_in_threadpool(parse_request, body)
        except BadRequest as error:
            raise Refused(400, str(error)) from error
        except TimeoutError as error:
            raise Refused(408, f"the body did not arrive within {self.limits.receive:g} s") from error
        try:
            choose(self.policy.checkpoint.statistics, asked.unnorm_key or self.policy.unnorm_key)
        except ValueError as error:
            raise Refused(422, str(error)) from error
        chunk = await self._when_free(asked)
        self.metrics.observe(chunk.timings)
        stages = ", ".join(f"{stage};dur={seconds * 1e3:.3f}" for stage, seconds in chunk.timings.items())
        return Response(
            answer(chunk.actions[0], asked.double_encoded),
            media_type="application/json",
            headers={
                "Server-Timing": stages,  # milliseconds, as browsers' tools read it
                "X-OpenVLA-Statistics": f"{chunk.statistics_hash} {chunk.statistics_name}",
            },
        )

    async def _when_free(self, asked: ActRequest) -> ActionChunk:
        if self._waiting >= self.limits.queue:
            raise Refused(503, f"{self._waiting} requests are waiting already; ask again later")
        deadline = time.monotonic() + self.limits.wait

        def work() -> ActionChunk:
            if time.monotonic() > deadline:
                raise Refused(503, f"the policy was not free within {self.limits.wait:g} s; ask again later")
            observation = Observation(asked.image)
            return self.policy.predict_batch([observation], [asked.instruction], [asked.unnorm_key])[0]

        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, work)
        finally:
            self._waiting -= 1

    async def _body(self, request: Request) -> bytes:
        limit, parts, size = self.limits.body, [], 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise Refused(413, f"the body is over the limit of {limit} bytes; send a smaller image")
            parts.append(part)
        return b"".join(parts)

    def _authorise(self, request: Request) -> None:
        if self.token is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise Refused(401, "a bearer token is needed, and this one is missing or wrong")

    async def _health(self) -> dict[str, str]:
        return {"status": "ok"}

    async def _metadata(self, request: Request) -> Response:
        try:
            self._authorise(request)
        except Refused as refused:
            return JSONResponse({"detail": refused.sentence}, refused.status)
        policy = self.policy
        return JSONResponse(
            {
                "checkpoint": policy.checkpoint.path,
                "statistics": {key: entry.hash for key, entry in policy.checkpoint.statistics.items()},
                "unnorm_key": policy.unnorm_key,
                "image_size": list(policy.preparation.size),
                "precision": str(policy.dtype).removeprefix("torch."),
                "device": str(policy.device),
                "period": policy.period,
                "frame": policy.frame,
                "version": __version__,
                "revision": revision(),
            }
        )

    async def _metrics(self) -> Response:
        return PlainTextResponse(self.metrics.render(), media_type="text/plain; version=0.0.4")


def revision() -> str:
    """The git revision this code runs from, or '' outside a working copy."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
