"""`python -m train_bench`: training steps of random models, ours and a plain loop's, printed and written as JSON."""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from policy_bench.machine import describe, synchronise
from policy_bench.models import INSTRUCTION, parameters, random_checkpoint
from rich.console import Console
from rich.table import Table

from openvla_policy.checkpoint.folder import Checkpoint
from openvla_policy.checkpoint.quiet import quieten
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.model.config import OpenVLAConfig, mid, openvla_7b, tiny
from openvla_policy.runtime import memory
from openvla_training.trainer.batches import Batch, collate_tokens
from openvla_training.trainer.config import TrainConfig, load_config
from openvla_training.trainer.dry_run import need
from openvla_training.trainer.learner import Learner
from openvla_training.trainer.parallel import World
from openvla_training.trainer.progress import peak_rate

from .plain import PlainLoop

MODELS = {"tiny": tiny, "mid": mid, "7b": openvla_7b}
PAPER = 59.7e9  # bytes, LoRA r=32 with batch 16 (paper, Table 1)
RANK = 32
Step = Callable[[Batch, int], float]


@dataclass
class Row:
    """One contender. `seconds` of each step; bytes of the peak, above what was there before; `problem`: why not."""

    model: str
    what: str
    loop: str
    batch: int
    micro_batch: int
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak: int = 0
    estimate: float = 0.0  # bytes, what --dry-run says
    samples_per_s: float = 0.0
    mfu: float = 0.0
    versus: float | None = None  # times as fast as the plain loop
    problem: str = ""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="train_bench", description=__doc__)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    p.add_argument("--models", nargs="+", choices=MODELS, help="default: tiny mid, on a GPU 7b")
    p.add_argument("--batch", type=int, help="samples a step; default: 16 (of mid on a CPU: 2)")
    p.add_argument("--steps", type=int, default=6, help="timed, after two that are not")
    p.add_argument("--output", type=Path, default=Path("outputs/bench"), help="folder of the JSON file")
    p.add_argument("--quick", action="store_true", help="two timed steps")
    return p


def run(arguments: Sequence[str] | None = None, console: Console | None = None) -> Path:
    """Measure, print, write; returns the JSON file."""
    a = parser().parse_args(arguments)
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=150)
    quieten()
    for library in ("peft", "transformers"):  # now, so that they are in nobody's memory figures
        importlib.import_module(library)
    device = torch.device(a.device)
    machine, started = describe(device), datetime.now().astimezone()
    peak, source = peak_rate(device, "bf16" if device.type == "cuda" else "fp32")
    console.print(f"{machine['device']}: {peak / 1e12:.3g} TFLOP/s, {source}")
    rows = []
    for name in a.models or (["7b"] if device.type == "cuda" else ["tiny", "mid"]):
        batch = a.batch or (2 if name == "mid" and device.type == "cpu" else 16)
        for row in _of_model(name, batch, 2 if a.quick else a.steps, device, peak):
            rows.append(row)
            console.print(_line(row))
    result = {
        "date": started.isoformat(timespec="seconds"),
        "command": " ".join(["train_bench", *(arguments if arguments is not None else sys.argv[1:])]),
        "machine": machine | {"load_at_end": [round(x, 2) for x in os.getloadavg()]},
        "peak_flops": peak,
        "peak_source": source,
        "rows": [asdict(row) for row in rows],
    }
    console.print(_table(rows))
    a.output.mkdir(parents=True, exist_ok=True)
    path = a.output / f"train-{machine['host']}-{device.type}-{started:%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    console.print(f"written: {path}", soft_wrap=True)
    return path


def _of_model(name: str, batch: int, steps: int, device: torch.device, peak: float) -> list[Row]:
    shape = MODELS[name]()
    large, bf16 = name == "7b", device.type == "cuda"
    # Of 7B all parameters fit one GPU only with 8-bit states and activations computed again; the plain loop has
    # neither, and is tried with the weights that it trains in float32, as ours.
    frugal = ["optimizer=adamw8bit", "activation_checkpointing=true", f"micro_batch_size={batch // 2}"] if large else []
    rows = []
    for what, options in ((f"lora r={RANK}", [f"lora_rank={RANK}", "strategy=lora"]), ("full", frugal)):
        config = _config(batch, bf16, options)
        ours, plain = (Row(name, what, loop, batch, config.micro_batch_size or batch) for loop in ("ours", "plain"))
        plain.micro_batch = batch
        together = not (large and what == "full")  # taking turns, so that what else the machine does hits both alike
        contenders = [_Contender(row, shape, config, device) for row in (ours, plain)]
        if together:
            for contender in contenders:
                contender.begin()
            for _ in range(steps):
                for contender in contenders:
                    contender.step()
            for contender in contenders:
                contender.end()
        else:
            for contender in contenders:
                contender.begin()
                for _ in range(steps):
                    contender.step()
                contender.end()
        flops = need(config, shape, 1, checkpointing=False).flops
        ours.estimate = need(config, shape).total
        for row in (ours, plain):
            if row.seconds:
                row.samples_per_s = batch / statistics.median(row.seconds)
                row.mfu = row.samples_per_s * flops / peak
        if ours.seconds and plain.seconds:
            ours.versus = statistics.median(plain.seconds) / statistics.median(ours.seconds)
        rows += [ours, plain]
    return rows


def _config(batch: int, bf16: bool, options: Sequence[str]) -> TrainConfig:
    plain = ["output=none", "data=none", "dataset_name=random", "checkpoint=random", "learning_rate=5e-4"]
    return load_config(None, [*plain, f"batch_size={batch}", f"precision={'bf16' if bf16 else 'fp32'}", *options])


class _Contender:
    """One loop: made, warmed up (which gives its peak memory), stepped, thrown away. Out of memory ends it early."""

    def __init__(self, row: Row, shape: OpenVLAConfig, config: TrainConfig, device: torch.device) -> None:
        self._row, self._shape, self._config, self._device = row, shape, config, device
        self._made: tuple[Step, Batch] | None = None

    def begin(self) -> None:
        """Make it, and take two steps."""
        row, device = self._row, self._device
        gc.collect()
        memory.give_back()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else memory.resident()
        memory.reset_peak(device)
        try:
            self._made = _make(self._shape, self._config, row.loop, row.batch, device)
            for _ in range(2):
                self.step()
        except torch.OutOfMemoryError as error:
            row.problem = f"out of memory: {str(error).splitlines()[0][:120]}"
            self.end()
        row.peak = max(0, memory.peak(device) - before)
        row.seconds.clear()

    def step(self) -> None:
        """One, timed."""
        if self._made is None:
            return
        work, batch = self._made
        synchronise(self._device)
        start = time.perf_counter()
        self._row.losses.append(work(batch, len(self._row.losses)))
        synchronise(self._device)
        self._row.seconds.append(time.perf_counter() - start)

    def end(self) -> None:
        """Let go of its memory."""
        self._made = None


def _make(
    shape: OpenVLAConfig, config: TrainConfig, loop: str, samples: int, device: torch.device
) -> tuple[Step, Batch]:
    lora = config.strategy == "lora"
    # Frozen weights are bf16 in both; what is trained whole is float32.
    checkpoint = random_checkpoint(shape, "bf16" if lora and config.precision == "bf16" else "fp32", device)
    batch = _batch(checkpoint, samples)
    if loop == "ours":
        learner = Learner(checkpoint, config, device, World())
        return lambda batch, number: learner.step(batch, number).loss, batch
    plain = PlainLoop(checkpoint, RANK if lora else 0, config.precision == "bf16", device)
    return lambda batch, number: plain.step(batch), batch


def _batch(checkpoint: Checkpoint, samples: int) -> Batch:
    rng = np.random.default_rng(0)
    prompt = np.array(checkpoint.tokenizer.encode_prompt(build_prompt(INSTRUCTION)))
    actions = checkpoint.action_tokenizer.encode(rng.uniform(-1, 1, (samples, 7)))
    ids, labels, mask = collate_tokens(
        [prompt] * samples, actions, checkpoint.tokenizer.eos_id, checkpoint.config.pad_token_id
    )
    side = checkpoint.config.image_size
    images = torch.from_numpy(rng.integers(0, 256, (samples, side, side, 3), dtype=np.uint8))
    return Batch(ids, labels, mask, images)


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="training steps of random models: medians", title_justify="left")
    for column in ("model", "what", "loop"):
        table.add_column(column)
    for column in ("batch", "samples/s", "× plain", "ms a step", "peak GB", "estimate GB", "MFU %"):
        table.add_column(column, justify="right")
    for row in rows:
        if row.problem:
            table.add_row(row.model, row.what, row.loop, str(row.batch), row.problem)
            continue
        table.add_row(
            f"{row.model} ({parameters(MODELS[row.model]()) / 1e6:.0f} M)", row.what, row.loop, str(row.batch),
            f"{row.samples_per_s:.3g}", f"{row.versus:.2f}" if row.versus else "",
            f"{1e3 * statistics.median(row.seconds):.0f}", f"{row.peak / 1e9:.2f}",
            f"{row.estimate / 1e9:.2f}" if row.estimate else "", f"{100 * row.mfu:.1f}",
        )  # fmt: skip
    return table


def _line(row: Row) -> str:
    said: Any = row.problem or f"{row.samples_per_s:.3g} samples/s, peak {row.peak / 1e9:.2f} GB"
    over = " (above the paper's 59.7 GB)" if row.model == "7b" and "lora" in row.what and row.peak > PAPER else ""
    return f"{row.model} {row.what} {row.loop}: {said}{over}"


if __name__ == "__main__":
    run()
