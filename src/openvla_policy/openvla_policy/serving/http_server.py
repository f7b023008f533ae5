"""The HTTP application: `POST /act`, as of the reference's deploy.py, and `/ws` for streaming control."""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import quote

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from openvla_policy import __version__
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.serving.json_codec import BadRequest, answer, parse_request
from openvla_policy.serving.limits import Limits, Refused
from openvla_policy.serving.service import PolicyService
from openvla_policy.serving.websocket import Stream

DEADLINE = "x-openvla-deadline-ms"  # request header: how long after receipt an answer is of use [ms]
STATISTICS = "x-openvla-statistics"  # response header: hash and percent-encoded name


class PolicyServer:
    """One policy behind HTTP and WebSocket."""

    def __init__(
        self,
        policy: LocalPolicy,
        token: str | None = None,
        limits: Limits | None = None,
        about: Mapping[str, object] | None = None,
    ) -> None:
        """Serve `policy`.

        Args:
            policy: The policy to serve.
            token: The bearer token that clients must send. None: no authentication.
            limits: What clients may request.
            about: Further entries of /metadata, which the policy itself does not have.
        """
        self.service = PolicyService(policy, limits, about)
        self.metrics, self.limits = self.service.metrics, self.service.limits
        self._token = token
        self._connections = self._receiving = 0

    def app(self) -> FastAPI:
        """Build the application with its routes: /act, /ws, /health, /metadata, /metrics."""

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            yield
            await run_in_threadpool(self.service.close)

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

    async def _act(self, request: Request) -> Response:
        try:
            response = await self._answer(request)
        except Refused as refused:
            response = _refusal(refused)
        self.metrics.count("/act", response.status_code)
        return response

    async def _answer(self, request: Request) -> Response:
        self._authorize(request)
        if self._receiving >= self.limits.queue:
            raise Refused(503, f"{self._receiving} requests are arriving already; ask again later")
        self._receiving += 1
        try:
            body = await asyncio.wait_for(self._body(request), self.limits.receive)
            received = time.perf_counter()
            budget = _budget(request.headers.get(DEADLINE))
            parsed = await run_in_threadpool(parse_request, body)
        except BadRequest as error:
            raise Refused(400, str(error)) from error
        except TimeoutError as error:
            raise Refused(408, f"the body did not arrive within {self.limits.receive:g} s") from error
        finally:
            self._receiving -= 1
        stream = "http {0[0]}:{0[1]}".format(request.client or ("?", 0))
        chunk = await self.service.ask(parsed, stream, received, budget)
        self.metrics.observe("/act", chunk.timings)
        stages = ", ".join(f"{stage};dur={seconds * 1e3:.3f}" for stage, seconds in chunk.timings.items())
        return Response(
            answer(chunk.actions[0] if len(chunk) == 1 else chunk.actions, parsed.double_encoded),
            media_type="application/json",
            headers={
                "Server-Timing": stages,  # [ms], as browsers' developer tools read it
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

    def _authorize(self, connection: HTTPConnection) -> None:
        if self._token is None:
            return
        given = connection.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            raise Refused(401, "a bearer token is needed, and this one is missing or wrong")

    async def _stream(self, websocket: WebSocket) -> None:
        try:
            self._authorize(websocket)
            if self._connections >= self.limits.connections:
                raise Refused(503, f"{self._connections} WebSockets are open already; ask again later")
        except Refused as refused:
            self.metrics.count("/ws", refused.status)
            await websocket.send_denial_response(_refusal(refused))
            return
        self._connections += 1
        self.metrics.set_connections(self._connections)
        try:
            await Stream(self.service, websocket).serve()
        finally:
            self._connections -= 1
            self.metrics.set_connections(self._connections)

    async def _health(self) -> dict[str, str]:
        return {"status": "ok"}

    async def _metadata(self, request: Request) -> Response:
        try:
            self._authorize(request)
        except Refused as refused:
            return _refusal(refused)
        return JSONResponse(self.service.metadata())

    async def _metrics(self) -> Response:
        return PlainTextResponse(self.metrics.render(), media_type="text/plain; version=0.0.4")


def _refusal(refused: Refused) -> JSONResponse:
    return JSONResponse({"detail": refused.sentence}, refused.status)


def _budget(header: str | None) -> float | None:
    """Seconds from a deadline header in milliseconds."""
    if header is None:
        return None
    try:
        milliseconds = float(header)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < 86_400_000:
        raise BadRequest(f"{DEADLINE}: expected milliseconds > 0, got {header[:40]!r}")
    return milliseconds / 1e3
