"""A small random policy, and its server on a real socket, in a thread or as `openvla-serve`."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import torch
import uvicorn

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.checkpoint.tokenizer_training import train_tokenizer
from openvla_policy.contract.image import ImagePreparation
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.contract.statistics import compute
from openvla_policy.model.config import tiny
from openvla_policy.model.vla import OpenVLA
from openvla_policy.serving.http_server import PolicyServer

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def checkpoint() -> Checkpoint:
    """Random weights, statistics `one` and `two`."""
    torch.manual_seed(0)
    config = tiny(image_size=28, vision_width=32, vision_depth=3, vision_heads=2, hidden_size=32, layers=2)
    rng = np.random.default_rng(0)
    return Checkpoint(
        model=OpenVLA(config).eval(),
        config=config,
        tokenizer=train_tokenizer([build_prompt("lift the cube")], config.action_vocab_size),
        preparation=ImagePreparation.standard(28, ["imagenet", "half"]),
        statistics={name: compute([rng.normal(size=(50, 7))]) for name in ("one", "two")},
    )


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def listening(server: PolicyServer, port: int = 0, **options: object) -> Iterator[str]:
    """Run `server` on a socket, in a thread of this process; yields `host:port`."""
    config = uvicorn.Config(server.app(), port=port, log_level="warning", ws_per_message_deflate=False, **options)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    try:
        end = time.monotonic() + 30
        while not running.started:
            assert thread.is_alive() and time.monotonic() < end, "the server did not start"
            time.sleep(0.01)
        yield f"127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join(20)


@contextmanager
def serve_process(
    folder: Path | str, *arguments: str, log: Path, port: int = 0
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run `openvla-serve` as a process; yields it, once it answers, and its port."""
    port = port or free_port()
    code = "import sys; from openvla_policy.serving.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, str(folder), "--port", str(port), "--device", "cpu", *arguments]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 300
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
            assert process.poll() is None and time.monotonic() < end, log.read_text()
        yield process, port
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
