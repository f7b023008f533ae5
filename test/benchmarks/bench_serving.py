"""`make bench`: the policy server with 1, 4 and 16 clients, over HTTP and WebSocket, with and without batching.

Each client requests an action as soon as it has the last one, for SECONDS. OPENVLA_BENCH_CHECKPOINT names a checkpoint
other than the shipped one, OPENVLA_BENCH_SERVE further options of openvla-serve (`--precision bf16 …`).
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from policy_bench.machine import describe
from rich.console import Console
from rich.table import Table
from serving import serve_process

from openvla_policy.contract.observation import Observation
from openvla_policy.serving import connect

ROOT = Path(__file__).parents[2]
CHECKPOINT = os.environ.get("OPENVLA_BENCH_CHECKPOINT", str(ROOT / "checkpoints" / "openvla-tiny-sim"))
OPTIONS = shlex.split(os.environ.get("OPENVLA_BENCH_SERVE", "--vocabulary actions"))
RESULT = ROOT / "outputs" / "bench" / "serving.json"
CLIENTS, TRANSPORTS, BATCHES = (1, 4, 16), ("http", "ws"), (1, 16)
SECONDS, WARM_UP = 3.0, 0.5


@dataclass(frozen=True)
class Row:
    """Results of one combination.

    Attributes:
        transport: "http" or "ws".
        clients: Number of clients.
        max_batch: The server's limit of requests in one pass.
        actions_per_second: Rate of all clients together.
        p50: Median round trip [ms].
        p99: 99th percentile of the round trip [ms].
        batch: Mean number of requests in one pass.
        answers: Number of round trips.
    """

    transport: str
    clients: int
    max_batch: int
    actions_per_second: float
    p50: float
    p99: float
    batch: float
    answers: int


def load(url: str, clients: int) -> tuple[float, list[float]]:
    """Run `clients` in parallel; return actions per second and the round trips [s] after WARM_UP."""
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    begin = threading.Barrier(clients + 1)
    trips: list[float] = []
    failures: list[Exception] = []

    def run() -> None:
        client = connect(url, timeout=60.0)
        try:
            client.metadata()
            begin.wait()
            start = time.perf_counter()
            while (now := time.perf_counter() - start) < WARM_UP + SECONDS:
                chunk = client.predict(Observation(image), "lift the red cube")
                if now > WARM_UP:
                    trips.append(chunk.timings["round_trip"])
        except Exception as error:
            failures.append(error)
            begin.abort()
        finally:
            client.close()

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    begin.wait()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return len(trips) / SECONDS, trips


def passes(address: str) -> tuple[float, float]:
    """Return the numbers of computed requests and of passes since the start of the server."""
    lines = httpx.get(f"http://{address}/metrics").text.splitlines()
    value = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return float(value["openvla_batch_size_sum"]), float(value["openvla_batch_size_count"])


def measure(address: str, transport: str, clients: int, max_batch: int) -> Row:
    """Measure one combination."""
    before = passes(address)
    rate, trips = load(f"{transport}://{address}", clients)
    computed, count = (after - b for after, b in zip(passes(address), before, strict=True))
    p50, p99 = np.percentile(trips, [50, 99]) * 1e3
    return Row(transport, clients, max_batch, rate, p50, p99, computed / count, len(trips))


@pytest.mark.timeout(1200)
def test_serving(tmp_path: Path) -> None:
    """Measure, print and write the comparison."""
    if CHECKPOINT.startswith("/") and not Path(CHECKPOINT).is_dir():
        pytest.skip(f"{CHECKPOINT} does not exist")
    rows: list[Row] = []
    with ExitStack() as started:
        servers = {
            n: serve_process(CHECKPOINT, *OPTIONS, "--max-batch", str(n), log=tmp_path / f"serve_{n}.log")
            for n in BATCHES
        }
        addresses = {n: f"127.0.0.1:{started.enter_context(server)[1]}" for n, server in servers.items()}
        about = httpx.get(f"http://{addresses[BATCHES[0]]}/metadata").json()
        # Compared combinations are measured in direct succession, because the load of a machine changes by the minute.
        for transport, clients, max_batch in product(TRANSPORTS, CLIENTS, BATCHES):
            rows.append(measure(addresses[max_batch], transport, clients, max_batch))
    table = Table(title=f"{Path(CHECKPOINT).name}, {about['precision']}, {about['runtime']}, {about['device']}")
    for column in ("transport", "clients", "max batch", "actions/s", "p50 [ms]", "p99 [ms]", "mean batch"):
        table.add_column(column, justify="left" if column == "transport" else "right")
    for row in rows:
        table.add_row(row.transport, str(row.clients), str(row.max_batch), f"{row.actions_per_second:.1f}",
                      f"{row.p50:.1f}", f"{row.p99:.1f}", f"{row.batch:.1f}")  # fmt: skip
    Console().print(table)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "revision": describe(torch.device("cpu"))["git"],
        "machine": platform.platform(), "cores": os.cpu_count(), "options": OPTIONS, "seconds": SECONDS,
        "server": about, "rows": [asdict(row) for row in rows],
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    assert all(row.answers >= row.clients for row in rows)
