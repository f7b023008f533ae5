"""`openvla-serve CHECKPOINT`: the policy over HTTP."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import uvicorn

from ..contract.prompt import PromptStyle
from ..runtime.decoding import Vocabulary
from ..runtime.local_policy import LocalPolicy, Precision
from .server import Limits, PolicyServer

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parser() -> argparse.ArgumentParser:
    """Every option, with its default and unit."""
    p = argparse.ArgumentParser(
        prog="openvla-serve", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    p.add_argument("checkpoint", help="checkpoint folder, hub id or un-merged adapter")
    p.add_argument("--base", help="the base of an adapter, where its own entry does not lead to it")
    p.add_argument("--host", default="127.0.0.1", help="address to listen on")
    p.add_argument("--port", type=int, default=8000, help="port to listen on")
    p.add_argument("--precision", choices=get_args(Precision), default="fp32", help="of the weights and arithmetic")
    p.add_argument("--device", help="cpu, cuda, cuda:1 …; a GPU where there is one if not given")
    p.add_argument("--vocabulary", choices=get_args(Vocabulary), default="full", help="tokens decoding may choose")
    p.add_argument("--unnorm-key", help="statistics for requests that name none")
    p.add_argument("--prompt-style", choices=get_args(PromptStyle), help="by the checkpoint's name if not given")
    p.add_argument("--center-crop", action="store_true", help="for policies trained with random crops")
    p.add_argument("--token-file", type=Path, help="file with the bearer token that clients must send")
    p.add_argument("--tls-certificate", type=Path, help="PEM file; needs --tls-key")
    p.add_argument("--tls-key", type=Path, help="PEM file")
    p.add_argument("--max-body", type=int, default=Limits.body, help="request size limit, bytes")
    p.add_argument("--max-wait", type=float, default=Limits.wait, help="longest wait for the policy to be free, s")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the policy, then serve until interrupted. Returns the exit code."""
    p = parser()
    a = p.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    log = logging.getLogger("openvla.serve")
    if (a.tls_certificate is None) != (a.tls_key is None):
        p.error("--tls-certificate and --tls-key belong together")
    try:
        token = a.token_file.read_text().strip() if a.token_file else None
        if token == "":
            p.error(f"--token-file {a.token_file}: the file is empty")
        policy = LocalPolicy.from_folder(
            a.checkpoint,
            base=a.base,
            precision=a.precision,
            device=a.device,
            vocabulary=a.vocabulary,
            unnorm_key=a.unnorm_key,
            key_per_request=True,
            prompt_style=a.prompt_style,
            center_crop=a.center_crop,
        )
    except (OSError, ValueError, RuntimeError) as error:
        p.exit(2, f"openvla-serve: {error}\n")
    if a.host not in _LOOPBACK and token is None:
        log.warning("listening on %s with no --token-file: whoever reaches the port can ask", a.host)
    server = PolicyServer(policy, token, Limits(body=a.max_body, wait=a.max_wait))
    uvicorn.run(
        server.app(),
        host=a.host,
        port=a.port,
        log_level="warning",
        ssl_certfile=a.tls_certificate,
        ssl_keyfile=a.tls_key,
    )
    return 0
