"""`python -m train_bench`: time and memory of training steps of random models, ours and a plain loop's."""

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
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

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
from openvla_training.trainer.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    OutputConfig,
    ParallelConfig,
    TrainConfig,
)
from openvla_training.trainer.data.batch import Batch, collate_tokens
from openvla_training.trainer.parallel import World
from openvla_training.trainer.progress.reporting import peak_rate
from openvla_training.trainer.resources.dry_run import USABLE, estimate_run
from openvla_training.trainer.train_step import TrainStep

from .plain import PlainLoop

MODELS = {"tiny": tiny, "mid": mid, "7b": openvla_7b}
PAPER = 59.7e9  # bytes, LoRA r=32 with batch 16 (paper, Table 1)
RANK = 32
Step = Callable[[Batch, int], float]


@dataclass
class Row:
    """Results of one loop: seconds of each step; peak memory [bytes]; `problem`: why it failed."""

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
    """Measure, print and write the results; returns the JSON file."""
    a = parser().parse_args(arguments)
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=150)
    silence_library_logs()
    for library in ("peft", "transformers"):  # before the measurements, so that their memory is in none of them
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
            path.write_text(
                json.dumps(result, indent=2) + "\n"
            )  # after each model, so that a later failure loses nothing
    console.print(_table(rows))
    console.print(f"written: {path}", soft_wrap=True)
    return path


def _of_model(name: str, batch: int, steps: int, device: torch.device, peak: float) -> Iterator[list[Row]]:
    """The rows of LoRA, then those of full training."""
    shape = MODELS[name]()
    for what, configs in _ways(name == "7b", batch, shape, device).items():
        rows = [
            Row(name, what, loop, batch, config.parallel.micro_batch_size or batch) for loop, config in configs.items()
        ]
        contenders = [
            _Contender(row, shape, config, device) for row, config in zip(rows, configs.values(), strict=True)
        ]
        if name == "7b":  # one at a time: two do not fit into memory
            for contender in contenders:
                contender.begin()
                for _ in range(steps):
                    contender.step()
                contender.end()
        else:  # in turns, so that other load on the machine affects all alike
            for contender in contenders:
                contender.begin()
            for _ in range(steps):
                for contender in contenders:
                    contender.step()
            for contender in contenders:
                contender.end()
        flops = estimate_run(configs["ours"], shape, 1, checkpointing=False).flops
        plain = rows[-1]
        for row in rows:
            if row.seconds and not row.problem:
                row.samples_per_s = batch / statistics.median(row.seconds)
                row.mfu = row.samples_per_s * flops / peak
                if row is not plain and plain.seconds and not plain.problem:
                    row.versus = statistics.median(plain.seconds) / statistics.median(row.seconds)
        rows[0].estimate = estimate_run(configs["ours"], shape).total
        yield rows


def _ways(large: bool, batch: int, shape: OpenVLAConfig, device: torch.device) -> dict[str, dict[str, TrainConfig]]:
    """By what is trained: our configuration (as the recipes have it), ours compiled, and the plain loop's."""
    gpu = device.type == "cuda"
    if not large:
        lora, full = _config(batch, gpu, "lora"), _config(batch, gpu, "full")
        return {f"lora r={RANK}": {"ours": lora, "plain": lora}, "full": {"ours": full, "plain": full}}
    half = max(1, batch // 2)
    full = _config(batch, gpu, "full", micro_batch_size=half, activation_checkpointing=True)
    if gpu:
        room = USABLE * torch.cuda.get_device_properties(device).total_memory
        if estimate_run(full, shape).total > room:
            full = replace(full, optimizer=replace(full.optimizer, name="adamw8bit"))
    return {
        f"lora r={RANK}": {
            "ours": _config(batch, gpu, "lora", micro_batch_size=half),
            "ours, compiled": _config(batch, gpu, "lora", compile=True),
            "plain": _config(batch, gpu, "lora"),
        },
        "full": {"ours": full, "plain": _config(batch, gpu, "full")},
    }


def _config(batch: int, bf16: bool, strategy: Literal["full", "lora"], **parallel: Any) -> TrainConfig:
    return TrainConfig(
        output=OutputConfig("none"),
        data=DataConfig(datasets=("none",), dataset_name="random", batch_size=batch),
        model=ModelConfig("random", strategy=strategy, lora_rank=RANK),
        optimizer=OptimizerConfig(learning_rate=5e-4),
        parallel=ParallelConfig(precision="bf16" if bf16 else "fp32", **parallel),
    )


class _Contender:
    """One loop: built, warmed up (which measures its peak memory), stepped, freed. A failure is noted in its row."""

    def __init__(self, row: Row, shape: OpenVLAConfig, config: TrainConfig, device: torch.device) -> None:
        self._row, self._shape, self._config, self._device = row, shape, config, device
        self._made: tuple[Step, Batch] | None = None

    def begin(self) -> None:
        """Build the loop, and take two steps."""
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
        """Take and time one step."""
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
        """Free its memory."""
        self._made = None
        if self._config.parallel.compile:
            torch.compiler.reset()  # whose cache refers to the layers

    def _fail(self, error: Exception) -> None:
        kind = "out of memory" if isinstance(error, torch.OutOfMemoryError) else type(error).__name__
        self._row.problem = f"{kind}: {(str(error).splitlines() or [''])[0][:120]}"
        self.end()


def _make(
    shape: OpenVLAConfig, config: TrainConfig, loop: str, samples: int, device: torch.device
) -> tuple[Step, Batch]:
    lora = config.model.strategy == "lora"
    # The plain loop is given a frozen base in bf16, as the reference has it; ours converts it from float32 itself.
    bf16 = loop == "plain" and lora and config.parallel.precision == "bf16"
    checkpoint = random_checkpoint(shape, "bf16" if bf16 else "fp32", device)
    batch = random_batch(checkpoint, samples)
    if loop != "plain":
        train_step = TrainStep(checkpoint, config, device, World())
        return lambda batch, number: train_step.run(batch, number).loss, batch
    plain = PlainLoop(checkpoint, RANK if lora else 0, config.parallel.precision == "bf16", device)
    return lambda batch, number: plain.step(batch), batch


def random_batch(checkpoint: Checkpoint, samples: int) -> Batch:
    """Random images and actions with one instruction."""
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
    text = row.problem or f"{row.samples_per_s:.3g} samples/s, peak {row.peak / 1e9:.2f} GB"
    over = " (above the paper's 59.7 GB)" if row.model == "7b" and "lora" in row.what and row.peak > PAPER else ""
    return f"{row.model} {row.what} {row.loop}: {text}{over}"


if __name__ == "__main__":
    run()
