"""The policy server. `POST /act` is what clients of the reference's deploy.py already speak; `/ws` is for streaming."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from openvla_policy import __version__
from openvla_policy.contract.action import ActionChunk
from openvla_policy.contract.observation import Observation
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.serving.batcher import Job, Worker
from openvla_policy.serving.json_codec import ActRequest, BadRequest, answer, parse_request
from openvla_policy.serving.limits import Limits, Refused
from openvla_policy.serving.metrics import Metrics
from openvla_policy.serving.request_check import InputCheck
from openvla_policy.serving.websocket import Stream

log = logging.getLogger("openvla.serve")

DEADLINE = "x-openvla-deadline-ms"  # header of a request: what of an answer is still of use, from receipt on
STATISTICS = "x-openvla-statistics"  # header of an answer: hash and percent-encoded name


class PolicyServer:
    """One policy behind HTTP and WebSocket."""

    def __init__(
        self,
        policy: LocalPolicy,
        token: str | None = None,
        limits: Limits | None = None,
        about: Mapping[str, object] | None = None,
    ) -> None:
        """`token` is what clients must bear; `about` adds to /metadata what the policy does not know of itself."""
        self.policy, self.token, self.limits = policy, token, limits or Limits()
        self.metrics = Metrics()
        self.worker = Worker(policy, self.limits, self.metrics)
        self.connections = self._receiving = 0
        self._about = dict(about or {})
        self._check = InputCheck(policy)

    def app(self) -> FastAPI:
        """The routes: /act, /ws, /health, /metadata, /metrics."""

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            yield
            await run_in_threadpool(self.close)

        app = FastAPI(
            title="openvla-serve", version=__version__, lifespan=lifespan,
            docs_url=None, redoc_url=None, openapi_url=None,
        )  # fmt: skip
        app.add_api_route("/act", self._act, methods=["POST"], response_model=None)
        app.add_api_route("/health", self._health, methods=["GET"], response_model=None)
        app.add_api_route("/metadata", self._metadata, methods=["GET"], response_model=None)
        app.add_api_route("/metrics", self._metrics, methods=["GET"], response_model=None)
        app.add_api_websocket_route("/ws", self._stream)
        return app

    def close(self) -> None:
        """End the policy's thread; whoever still waits is refused."""
        self.worker.close()

    async def ask(self, asked: ActRequest, stream: str, received: float, budget: float | None = None) -> ActionChunk:
        """The action for one parsed request of whichever transport; raises Refused.

        `stream` names the connection. `received` [s, perf_counter] is when the request came, and `budget` [s] how
        long after that its answer is of use.
        """
        try:
            self._check(asked)
        except ValueError as error:
            raise Refused(422, str(error)) from error
        observation = Observation(asked.image, state=asked.state, extra_images=asked.extra_images)
        job = Job(observation, asked.instruction, asked.unnorm_key, stream, received, budget)
        try:
            return await asyncio.wrap_future(self.worker.submit(job))
        except Refused:
            raise
        except Exception as error:
            # What went wrong is for the log; the server goes on, and the robot must hold.
            log.exception("request failed")
            raise Refused(500, "the policy failed on this request; see the server's log") from error

    # ---- routes ----------------------------------------------------------------------------------

    async def _act(self, request: Request) -> Response:
        try:
            response = await self._answer(request)
        except Refused as refused:
            response = JSONResponse({"detail": refused.sentence}, refused.status)
        self.metrics.count("/act", response.status_code)
        return response

    async def _answer(self, request: Request) -> Response:
        self.authorise(request)
        if self._receiving >= self.limits.queue:
            raise Refused(503, f"{self._receiving} requests are arriving already; ask again later")
        self._receiving += 1
        try:
            body = await asyncio.wait_for(self._body(request), self.limits.receive)
            received = time.perf_counter()
            budget = _budget(request.headers.get(DEADLINE))
            asked = await run_in_threadpool(parse_request, body)
        except BadRequest as error:
            raise Refused(400, str(error)) from error
        except TimeoutError as error:
            raise Refused(408, f"the body did not arrive within {self.limits.receive:g} s") from error
        finally:
            self._receiving -= 1
        chunk = await self.ask(asked, "http {0[0]}:{0[1]}".format(request.client or ("?", 0)), received, budget)
        self.metrics.observe("/act", chunk.timings)
        stages = ", ".join(f"{stage};dur={seconds * 1e3:.3f}" for stage, seconds in chunk.timings.items())
        return Response(
            answer(chunk.actions[0] if len(chunk) == 1 else chunk.actions, asked.double_encoded),
            media_type="application/json",
            headers={
                "Server-Timing": stages,  # milliseconds, as browsers' tools read it
                STATISTICS: f"{chunk.statistics_hash} {quote(chunk.statistics_name)}",
            },
        )

    async def _body(self, request: Request) -> bytes:
        limit, parts, size = self.limits.body, [], 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise Refused(413, f"the body is over the limit of {limit} bytes; send a smaller image")
            parts.append(part)
        return b"".join(parts)

    def authorise(self, connection: HTTPConnection) -> None:
        """Refuse whoever does not bear the token, if there is one."""
        if self.token is None:
            return
        given = connection.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise Refused(401, "a bearer token is needed, and this one is missing or wrong")

    async def _stream(self, websocket: WebSocket) -> None:
        try:
            self.authorise(websocket)
            if self.connections >= self.limits.connections:
                raise Refused(503, f"{self.connections} WebSockets are open already; ask again later")
        except Refused as refused:
            self.metrics.count("/ws", refused.status)
            await websocket.send_denial_response(JSONResponse({"detail": refused.sentence}, refused.status))
            return
        self.connections += 1
        self.metrics.connected(1)
        try:
            await Stream(self, websocket).serve()
        finally:
            self.connections -= 1
            self.metrics.connected(-1)

    async def _health(self) -> dict[str, str]:
        return {"status": "ok"}

    async def _metadata(self, request: Request) -> Response:
        try:
            self.authorise(request)
        except Refused as refused:
            return JSONResponse({"detail": refused.sentence}, refused.status)
        return JSONResponse(self.metadata())

    async def _metrics(self) -> Response:
        return PlainTextResponse(self.metrics.render(), media_type="text/plain; version=0.0.4")

    def metadata(self) -> dict[str, object]:
        """What is served, for /metadata and a WebSocket's first message. Sizes in pixels (height, width)."""
        policy = self.policy
        return {
            "checkpoint": policy.checkpoint.path,
            "statistics": {key: entry.hash for key, entry in policy.checkpoint.statistics.items()},
            "unnorm_key": policy.unnorm_key,
            "image_size": list(policy.preparation.size),
            "extra_images": list(self._check.inputs.cameras),
            "state": self._check.inputs.state,
            "chunk": self._check.inputs.chunk,
            "center_crop": policy.preparation.crop_area is not None,
            "prompt_style": policy.prompt_style,
            "precision": str(policy.dtype).removeprefix("torch."),
            "device": str(policy.device),
            "period": policy.period,
            "frame": policy.frame,
            "memory": policy.memory.to_dict() if hasattr(policy, "memory") else {},
            "limits": asdict(self.limits),
            "version": __version__,
            "revision": revision(),
            **self._about,
        }


def _budget(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        milliseconds = float(header)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < 86_400_000:
        raise BadRequest(f"{DEADLINE}: expected milliseconds > 0, got {header[:40]!r}")
    return milliseconds / 1e3


@lru_cache(maxsize=1)
def revision() -> str:
    """The git revision this code runs from, or '' outside a working copy."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
