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
from collections.abc import Callable, Iterator, Sequence
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

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.checkpoint.library_logs import silence_library_logs
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.model.config import OpenVLAConfig, mid, openvla_7b, tiny
from openvla_policy.runtime import memory
from openvla_training.trainer.config import TrainConfig, load_config
from openvla_training.trainer.data.batch import Batch, collate_tokens
from openvla_training.trainer.dry_run import USABLE, need
from openvla_training.trainer.parallel import World
from openvla_training.trainer.reporting import peak_rate
from openvla_training.trainer.train_step import Learner

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
    silence_library_logs()
    for library in ("peft", "transformers"):  # now, so that they are in nobody's memory figures
        importlib.import_module(library)
    device = torch.device(a.device)
    machine, started = describe(device), datetime.now().astimezone()
    peak, source = peak_rate(device, "bf16" if device.type == "cuda" else "fp32")
    console.print(f"{machine['device']}: {peak / 1e12:.3g} TFLOP/s, {source}")
    a.output.mkdir(parents=True, exist_ok=True)
    path = a.output / f"train-{machine['host']}-{device.type}-{started:%Y%m%d-%H%M%S}.json"
    rows: list[Row] = []
    for name in a.models or (["7b"] if device.type == "cuda" else ["tiny", "mid"]):
        batch = a.batch or (2 if name == "mid" and device.type == "cpu" else 16)
        for some in _of_model(name, batch, 2 if a.quick else a.steps, device, peak):
            for row in some:
                console.print(_line(row))
            rows += some
            result = {
                "date": started.isoformat(timespec="seconds"),
                "command": " ".join(["train_bench", *(arguments if arguments is not None else sys.argv[1:])]),
                "machine": machine | {"load_at_end": [round(x, 2) for x in os.getloadavg()]},
                "peak_flops": peak,
                "peak_source": source,
                "rows": [asdict(row) for row in rows],
            }
            path.write_text(json.dumps(result, indent=2) + "\n")  # whatever comes after, these are measured
    console.print(_table(rows))
    console.print(f"written: {path}", soft_wrap=True)
    return path


def _of_model(name: str, batch: int, steps: int, device: torch.device, peak: float) -> Iterator[list[Row]]:
    """The rows of LoRA, then those of training everything."""
    shape = MODELS[name]()
    for what, ways in _ways(name == "7b", batch, shape, device).items():
        configs = {loop: _config(batch, device.type == "cuda", options) for loop, options in ways.items()}
        rows = [Row(name, what, loop, batch, config.micro_batch_size or batch) for loop, config in configs.items()]
        contenders = [
            _Contender(row, shape, config, device) for row, config in zip(rows, configs.values(), strict=True)
        ]
        if name == "7b":  # one at a time: two do not fit
            for contender in contenders:
                contender.begin()
                for _ in range(steps):
                    contender.step()
                contender.end()
        else:  # taking turns, so that what else the machine does hits all alike
            for contender in contenders:
                contender.begin()
            for _ in range(steps):
                for contender in contenders:
                    contender.step()
            for contender in contenders:
                contender.end()
        flops = need(configs["ours"], shape, 1, checkpointing=False).flops
        plain = rows[-1]
        for row in rows:
            if row.seconds and not row.problem:
                row.samples_per_s = batch / statistics.median(row.seconds)
                row.mfu = row.samples_per_s * flops / peak
                if row is not plain and plain.seconds and not plain.problem:
                    row.versus = statistics.median(plain.seconds) / statistics.median(row.seconds)
        rows[0].estimate = need(configs["ours"], shape).total
        yield rows


def _ways(large: bool, batch: int, shape: OpenVLAConfig, device: torch.device) -> dict[str, dict[str, list[str]]]:
    """Options of ours (as recipes have them), of ours compiled, and of the plain loop (that of ours: it takes none)."""
    lora = [f"lora_rank={RANK}", "strategy=lora"]
    if not large:
        return {f"lora r={RANK}": {"ours": lora, "plain": lora}, "full": {"ours": [], "plain": []}}
    half = f"micro_batch_size={max(1, batch // 2)}"
    full = ["activation_checkpointing=true", half]
    if device.type == "cuda":
        room = USABLE * torch.cuda.get_device_properties(device).total_memory
        if need(_config(batch, True, full), shape).total > room:
            full.append("optimizer=adamw8bit")
    return {
        f"lora r={RANK}": {"ours": [*lora, half], "ours, compiled": [*lora, "compile=true"], "plain": lora},
        "full": {"ours": full, "plain": []},
    }


def _config(batch: int, bf16: bool, options: Sequence[str]) -> TrainConfig:
    plain = ["output=none", "data=none", "dataset_name=random", "checkpoint=random", "learning_rate=5e-4"]
    return load_config(None, [*plain, f"batch_size={batch}", f"precision={'bf16' if bf16 else 'fp32'}", *options])


class _Contender:
    """One loop: made, warmed up (which gives its peak memory), stepped, thrown away. What fails says why in its row."""

    def __init__(self, row: Row, shape: OpenVLAConfig, config: TrainConfig, device: torch.device) -> None:
        self._row, self._shape, self._config, self._device = row, shape, config, device
        self._made: tuple[Step, Batch] | None = None

    def begin(self) -> None:
        """Make it, and take two steps."""
        row, device = self._row, self._device
        gc.collect()
        memory.release_free_memory()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else memory.resident()
        memory.reset_peak(device)
        try:
            self._made = _make(self._shape, self._config, row.loop, row.batch, device)
        except (RuntimeError, ValueError) as error:
            self._fail(error)
        for _ in range(2):
            self.step()
        row.peak = max(0, memory.peak(device) - before)
        row.seconds.clear()

    def step(self) -> None:
        """One, timed."""
        if self._made is None:
            return
        work, batch = self._made
        synchronise(self._device)
        start = time.perf_counter()
        try:
            self._row.losses.append(work(batch, len(self._row.losses)))
            synchronise(self._device)
        except RuntimeError as error:
            self._fail(error)
            return
        self._row.seconds.append(time.perf_counter() - start)

    def end(self) -> None:
        """Let go of its memory."""
        self._made = None
        if self._config.compile:
            torch.compiler.reset()  # which holds on to the layers

    def _fail(self, error: Exception) -> None:
        kind = "out of memory" if isinstance(error, torch.OutOfMemoryError) else type(error).__name__
        self._row.problem = f"{kind}: {(str(error).splitlines() or [''])[0][:120]}"
        self.end()


def _make(
    shape: OpenVLAConfig, config: TrainConfig, loop: str, samples: int, device: torch.device
) -> tuple[Step, Batch]:
    lora = config.strategy == "lora"
    # The plain loop holds a frozen base in bf16, as the reference does; ours makes it so itself, from float32.
    bf16 = loop == "plain" and lora and config.precision == "bf16"
    checkpoint = random_checkpoint(shape, "bf16" if bf16 else "fp32", device)
    batch = random_batch(checkpoint, samples)
    if loop != "plain":
        learner = Learner(checkpoint, config, device, World())
        return lambda batch, number: learner.step(batch, number).loss, batch
    plain = PlainLoop(checkpoint, RANK if lora else 0, config.precision == "bf16", device)
    return lambda batch, number: plain.step(batch), batch


def random_batch(checkpoint: Checkpoint, samples: int) -> Batch:
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
