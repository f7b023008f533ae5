"""`openvla-serve CHECKPOINT`: the policy over HTTP and WebSocket."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from rich.console import Console
from rich.logging import RichHandler
from tyro.conf import Positional

from openvla_policy.command_line import parse
from openvla_policy.contract.gripper import Option as GripperOption
from openvla_policy.contract.prompt import PromptStyle
from openvla_policy.runtime.decoding import Vocabulary
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.local_policy import Idle, Precision, RuntimeName
from openvla_policy.runtime.memory import readable
from openvla_policy.serving.http_server import PolicyServer
from openvla_policy.serving.limits import Limits

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
log = logging.getLogger("openvla.serve")


@dataclass(frozen=True)
class Options:
    """The command's options."""

    checkpoint: Positional[str]
    """Checkpoint folder, hub id or un-merged adapter."""
    base: str | None = None
    """Base model of an adapter; if not given, the one its adapter_config.json names."""
    precision: Precision = "fp32"
    """Number format of weights and arithmetic."""
    runtime: RuntimeName = "eager"
    """How tokens are computed; the tokens are the same."""
    vocabulary: Vocabulary = "full"
    """Tokens that decoding may choose: all, as the reference, or action tokens only (faster; for robots)."""
    device: str | None = None
    """cpu, cuda, cuda:1 and so on; if not given, a GPU where there is one."""
    unnorm_key: str | None = None
    """Statistics for requests that name none; if not given, the checkpoint's only ones."""
    prompt_style: PromptStyle | None = None
    """Form of the prompt; if not given, by the checkpoint's name."""
    center_crop: bool = False
    """For policies trained with random crops."""
    token_rank: int = 1
    """1: the most likely token each time; 2: the second most likely."""
    idle: Idle = "keep"
    """requery: the second most likely tokens where an action moves nothing."""
    gripper: GripperOption = "auto"
    """What the seventh number means; auto: by the name of the statistics."""
    frame: str = ""
    """Frame of the actions, which clients compare with theirs; '' for unspecified."""
    period: float | None = None
    """Time between the actions of the data, which clients compare with theirs [s]; if not given, unspecified."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    port: int = 8000
    """Port to listen on."""
    token_file: Path | None = None
    """File with the bearer token that clients must send; if not given, no authentication."""
    tls_certificate: Path | None = None
    """PEM file; with --tls-key the server speaks https and wss."""
    tls_key: Path | None = None
    """PEM file."""
    max_batch: int = Limits.batch
    """Requests of different clients computed in one pass."""
    batch_wait: float = 1e3 * Limits.batch_wait
    """How long a pass waits for further requests [ms]."""
    max_body: int = Limits.body
    """Size of a request or message [bytes]."""
    max_queue: int = Limits.queue
    """Requests that wait for the policy."""
    max_wait: float = Limits.wait
    """Longest time that a request waits for the policy [s]."""
    max_receive: float = Limits.receive
    """Longest time for a body to arrive [s]."""
    max_connections: int = Limits.connections
    """Open WebSockets."""
    max_in_flight: int = Limits.in_flight
    """Unanswered requests of one WebSocket."""

    def limits(self) -> Limits:
        """The limits for clients."""
        return Limits(
            body=self.max_body, queue=self.max_queue, wait=self.max_wait, receive=self.max_receive,
            connections=self.max_connections, in_flight=self.max_in_flight, batch=self.max_batch,
            batch_wait=self.batch_wait / 1e3,
        )  # fmt: skip

    def token(self) -> str | None:
        """The bearer token, or None; ValueError or OSError if its file is empty or cannot be read."""
        token = self.token_file.read_text().strip() if self.token_file else None
        if token == "":
            raise ValueError(f"--token-file {self.token_file}: the file is empty")
        return token

    def check_tls(self) -> None:
        """Raise ValueError for a certificate without key, or the reverse."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("--tls-certificate and --tls-key belong together")


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the policy, then serve until SIGINT or SIGTERM.

    Args:
        arguments: The words after the command's name. Default: those of this process.

    Returns:
        The exit code: 0 after a signal, 1 if the server cannot start, 2 for a wrong option or checkpoint.
    """
    o = parse(Options, arguments, prog="openvla-serve", description="Serve a policy over HTTP and WebSocket.")
    _log_to_stderr()
    try:
        o.check_tls()
        token, limits = o.token(), o.limits()
        policy = load_policy(
            o.checkpoint, base=o.base, precision=o.precision, device=o.device, runtime=o.runtime,
            vocabulary=o.vocabulary, unnorm_key=o.unnorm_key, key_per_request=True, prompt_style=o.prompt_style,
            center_crop=o.center_crop, token_rank=o.token_rank, idle=o.idle, gripper=o.gripper, frame=o.frame,
            **({} if o.period is None else {"period": o.period}),
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        print(f"openvla-serve: {error}", file=sys.stderr)
        return 2
    if o.host not in _LOOPBACK and token is None:
        log.warning("listening on %s without --token-file: any client that reaches the port can ask", o.host)
    described = ("precision", "runtime", "vocabulary", "token_rank", "idle", "gripper", "period")
    server = PolicyServer(policy, token, limits, {name: getattr(o, name) for name in described})
    return serve(server, o.host, o.port, o.tls_certificate, o.tls_key)


def _log_to_stderr() -> None:
    if sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=False, log_time_format="%H:%M:%S")
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    else:  # a file or a service's journal: one line a record
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


class _Server(uvicorn.Server):
    """uvicorn's server, stopped once: `ros2 launch` repeats the Ctrl-C that the process group already received."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down in order at the first signal; a second one must not cut timeout_graceful_shutdown short."""
        if not self.should_exit:
            super().handle_exit(sig, frame)


def serve(server: PolicyServer, host: str, port: int, certificate: Path | None = None, key: Path | None = None) -> int:
    """Answer requests until SIGINT or SIGTERM. Logs one line at the start and one at the end.

    Args:
        server: What to serve.
        host: Address to listen on.
        port: Port to listen on.
        certificate: PEM file. None: no TLS.
        key: PEM file of the certificate's key.

    Returns:
        The exit code: 0 after a signal, 1 if the server cannot start.
    """
    config = uvicorn.Config(
        server.app(), host=host, port=port, log_level="warning", log_config=None, ssl_certfile=certificate,
        ssl_keyfile=key, ws_max_size=2 * server.limits.body, ws_per_message_deflate=False, timeout_graceful_shutdown=5,
    )  # fmt: skip
    about = server.service.metadata()
    policy = server.service.policy
    log.info(
        "serving %s (%s, %s of weights, %s vocabulary, %s runtime, on %s; statistics %s) at http%s://%s:%d",
        about["checkpoint"], about["precision"], readable(policy.memory.total), about.get("vocabulary"),
        about.get("runtime"), about["device"], ", ".join(policy.checkpoint.statistics), "s" if certificate else "",
        host, port,
    )  # fmt: skip
    # uvicorn raises the signal that stopped it once more, for the handlers from before: these.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    running = _Server(config)
    running.run()
    log.info("stopped: %s", ", ".join(f"{count} {name}" for name, count in server.metrics.totals().items()))
    return 0 if running.started else 1


if __name__ == "__main__":
    sys.exit(main())
