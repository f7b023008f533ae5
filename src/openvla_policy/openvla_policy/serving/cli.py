"""`openvla-serve CHECKPOINT`: the policy over HTTP and WebSocket."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import uvicorn
from rich.console import Console
from rich.logging import RichHandler

from openvla_policy.contract.gripper import OPTIONS as GRIPPER_OPTIONS
from openvla_policy.contract.prompt import PromptStyle
from openvla_policy.runtime.decoding import Vocabulary
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.local_policy import Idle, Precision, RuntimeName
from openvla_policy.runtime.memory import readable
from openvla_policy.serving.http_server import PolicyServer
from openvla_policy.serving.limits import Limits

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
log = logging.getLogger("openvla.serve")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says every default, unless the text already says what happens without the option."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        said = action.default is None or action.default is False
        return action.help if said else super()._get_help_string(action)


def parser() -> argparse.ArgumentParser:
    """Every option, with its default and unit."""
    p = argparse.ArgumentParser(prog="openvla-serve", description=__doc__, formatter_class=_Help)
    p.add_argument("checkpoint", help="checkpoint folder, hub id or un-merged adapter")
    what = p.add_argument_group("what is served")
    add: Any = what.add_argument
    add("--base", metavar="PATH", help="the base of an adapter, where its own entry does not lead to it")
    add("--precision", choices=get_args(Precision), default="fp32", help="of the weights and arithmetic")
    add("--runtime", choices=get_args(RuntimeName), default="eager", help="how the model is run; the tokens are equal")
    add("--vocabulary", choices=get_args(Vocabulary), default="full", help="tokens decoding may choose")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1 …; a GPU where there is one if not given")
    add("--unnorm-key", metavar="NAME", help="statistics for requests that name none; the only ones if not given")
    add("--prompt-style", choices=get_args(PromptStyle), help="by the checkpoint's name if not given")
    add("--center-crop", action="store_true", help="for policies trained with random crops; off if not given")
    add("--token-rank", type=int, default=1, metavar="N", help="2: the second most likely token each time")
    add("--idle", choices=get_args(Idle), default="keep", help="requery: second most likely tokens where nothing moves")
    add("--gripper", choices=GRIPPER_OPTIONS, default="auto", help="what the seventh number means")
    add("--frame", default="", metavar="NAME", help="frame of the actions, to tell clients; '' = not said")
    add("--period", type=float, metavar="S", help="s between the actions of the data, to tell clients; or not said")
    where = p.add_argument_group("where, and to whom")
    add = where.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on; 0.0.0.0 = all")
    add("--port", type=int, default=8000, metavar="N", help="port to listen on")
    add("--token-file", type=Path, metavar="FILE", help="holds the bearer token clients must send; none without it")
    add("--tls-certificate", type=Path, metavar="FILE", help="PEM; needs --tls-key; no TLS if not given")
    add("--tls-key", type=Path, metavar="FILE", help="PEM; needs --tls-certificate")
    cost = p.add_argument_group("what clients may cost")
    add = cost.add_argument
    add("--max-batch", type=int, default=Limits.batch, metavar="N", help="requests of different clients in one pass")
    add(
        "--batch-wait",
        type=float,
        default=1e3 * Limits.batch_wait,
        metavar="MS",
        help="a pass waits so long for more, ms",
    )
    add("--max-body", type=int, default=Limits.body, metavar="BYTES", help="size of a request or message, bytes")
    add("--max-queue", type=int, default=Limits.queue, metavar="N", help="requests that wait for the policy")
    add("--max-wait", type=float, default=Limits.wait, metavar="S", help="longest wait for the policy to be free, s")
    add("--max-receive", type=float, default=Limits.receive, metavar="S", help="longest time for a body to arrive, s")
    add("--max-connections", type=int, default=Limits.connections, metavar="N", help="open WebSockets")
    add("--max-in-flight", type=int, default=Limits.in_flight, metavar="N", help="unanswered requests of a WebSocket")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the policy, then serve until SIGINT or SIGTERM. Returns the exit code."""
    p = parser()
    a = p.parse_args(arguments)
    _log_to_stderr()
    if (a.tls_certificate is None) != (a.tls_key is None):
        p.error("--tls-certificate and --tls-key belong together")
    try:
        token = a.token_file.read_text().strip() if a.token_file else None
        if token == "":
            raise ValueError(f"--token-file {a.token_file}: the file is empty")
        limits = Limits(
            body=a.max_body, queue=a.max_queue, wait=a.max_wait, receive=a.max_receive, connections=a.max_connections,
            in_flight=a.max_in_flight, batch=a.max_batch, batch_wait=a.batch_wait / 1e3,
        )  # fmt: skip
        policy = load_policy(
            a.checkpoint, base=a.base, precision=a.precision, device=a.device, runtime=a.runtime,
            vocabulary=a.vocabulary, unnorm_key=a.unnorm_key, key_per_request=True, prompt_style=a.prompt_style,
            center_crop=a.center_crop, token_rank=a.token_rank, idle=a.idle, gripper=a.gripper, frame=a.frame,
            **({} if a.period is None else {"period": a.period}),
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        p.exit(2, f"openvla-serve: {error}\n")
    if a.host not in _LOOPBACK and token is None:
        log.warning("listening on %s with no --token-file: whoever reaches the port can ask", a.host)
    said = ("precision", "runtime", "vocabulary", "token_rank", "idle", "gripper", "period")
    about = {name: getattr(a, name) for name in said}
    server = PolicyServer(policy, token, limits, about)
    return serve(server, a.host, a.port, a.tls_certificate, a.tls_key)


def _log_to_stderr() -> None:
    if sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=False, log_time_format="%H:%M:%S")
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    else:  # a file or a service's journal: one line a record
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


class _Server(uvicorn.Server):
    """uvicorn's, ended once: `ros2 launch` passes on the Ctrl-C that the process group heard already."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends it in order, within timeout_graceful_shutdown; a second one must not cut that short."""
        if not self.should_exit:
            super().handle_exit(sig, frame)


def serve(server: PolicyServer, host: str, port: int, certificate: Path | None = None, key: Path | None = None) -> int:
    """Answer on `host`:`port` until SIGINT or SIGTERM; one line in the log at the start and one at the end."""
    config = uvicorn.Config(
        server.app(), host=host, port=port, log_level="warning", log_config=None, ssl_certfile=certificate,
        ssl_keyfile=key, ws_max_size=2 * server.limits.body, ws_per_message_deflate=False, timeout_graceful_shutdown=5,
    )  # fmt: skip
    about = server.metadata()
    memory = getattr(server.policy, "memory", None)
    weights = f", {readable(memory.total)} of weights" if memory else ""
    log.info(
        "serving %s (%s%s, %s vocabulary, %s runtime, on %s; statistics %s) at http%s://%s:%d",
        about["checkpoint"], about["precision"], weights, about.get("vocabulary"), about.get("runtime"),
        about["device"], ", ".join(server.policy.checkpoint.statistics), "s" if certificate else "", host, port,
    )  # fmt: skip
    # uvicorn raises the signal that ended it once more, for whoever was there before: that is this.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    running = _Server(config)
    running.run()
    log.info("stopped: %s", ", ".join(f"{count} {name}" for name, count in server.metrics.totals().items()))
    return 0 if running.started else 1
