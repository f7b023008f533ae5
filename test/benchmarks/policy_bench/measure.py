"""Latencies of policies and baselines, measured in turns, so that other load on the machine affects all alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import numpy as np
import torch

from openvla_policy.contract.observation import Observation
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.model.config import OpenVLAConfig
from openvla_policy.runtime import memory
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.runtime.precision import Precision, obstacle
from openvla_policy.runtime.runtimes import RuntimeName

from .baseline import Baseline, Form
from .cost import costs, floor
from .models import INSTRUCTION, frames, random_checkpoint

PARTS = ("preparation", "vision", "prefill", "decode", "detokenise")
FRAMES = 4
WARM_UPS = 2
Step = Callable[[int], tuple[np.ndarray, dict[str, float]]]


@dataclass
class Row:
    """One row of the table. Times in seconds, sizes in bytes.

    Attributes:
        name: Runtime, or form of the baseline.
        precision: Number format of the weights.
        rounds: Measured actions.
        p50: Median time by stage.
        p95: 95th percentile of the time by stage.
        versus: By form of the baseline, its time over this row's; median of the rounds.
        floor: Least time by stage on this machine.
        cost: Bytes and operations of one pass, by stage.
        step_bytes: Read by one decoding step.
        steps: Mean number of passes of the language model after the prefill.
        accepted: Mean number of drafted tokens that the prefill confirmed.
        weights: Size of the weights.
        peak: Peak memory above that in use before the model was created.
        differing: Number of tokens that differ from eager in the same precision.
        problem: Why this precision has no figures.
    """

    name: str
    precision: str
    rounds: int = 0
    p50: dict[str, float] = field(default_factory=dict)
    p95: dict[str, float] = field(default_factory=dict)
    versus: dict[str, float] = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)
    cost: dict[str, dict[str, float]] = field(default_factory=dict)
    step_bytes: float = 0.0
    steps: float = 0.0
    accepted: float | None = None
    weights: int = 0
    peak: int = 0
    differing: int | None = None
    problem: str = ""

    @property
    def rate(self) -> float:
        """Actions per second."""
        return 1.0 / self.p50["total"] if self.p50 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the rate for JSON."""
        return asdict(self) | {"rate": self.rate}


@dataclass
class _Contender:
    row: Row
    step: Step
    samples: list[dict[str, float]] = field(default_factory=list)
    tokens: dict[int, np.ndarray] = field(default_factory=dict)
    accepted: list[int] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)


def measure_all(
    config: OpenVLAConfig,
    device: torch.device,
    precisions: Sequence[Precision],
    seconds: float,
    machine: dict[str, Any],
    say: Callable[[str], None],
) -> list[Row]:
    """Measure every runtime in every precision, and the baselines in turns with them.

    Args:
        config: Shape of the random model.
        device: Where to measure.
        precisions: To measure.
        seconds: Duration for each precision.
        machine: Its measured bandwidth and rates.
        say: Receives progress.

    Returns:
        A row for each runtime, baseline and precision.
    """
    usual = plain_precision(device)
    images = frames(FRAMES)
    say(f"baseline: {usual}")
    plain = LocalPolicy(random_checkpoint(config, usual, device), vocabulary="full")
    baselines = {form: Baseline(plain, form) for form in get_args(Form)}
    rows: list[Row] = []
    for precision in precisions:
        reason = obstacle(precision, device)
        if reason:
            rows.append(Row("", precision, problem=reason))
            continue
        say(f"measuring {precision}")
        try:
            rows += _group(config, device, precision, plain, baselines, images, seconds, machine)
        except (RuntimeError, NotImplementedError, ValueError, AssertionError, ImportError) as error:
            # This GPU or this build of a library lacks a kernel; the other precisions are measured.
            rows.append(Row("", precision, problem=f"{type(error).__name__}: {str(error).splitlines()[0]}"))
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return rows


def _group(
    config: OpenVLAConfig,
    device: torch.device,
    precision: Precision,
    plain: LocalPolicy,
    baselines: dict[Form, Baseline],
    images: list[np.ndarray],
    seconds: float,
    machine: dict[str, Any],
) -> list[Row]:
    memory.release_free_memory()
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else memory.resident()
    memory.reset_peak(device)
    same = precision == plain_precision(device)
    checkpoint = plain.checkpoint if same else random_checkpoint(config, precision, device)
    contenders = [
        _Contender(Row(f"baseline: {form}", plain_precision(device)), _baseline_step(baseline, images))
        for form, baseline in baselines.items()
    ]
    if not same and precision in ("fp32", "bf16"):  # the reference in this precision as well
        own = LocalPolicy(checkpoint, vocabulary="full")
        contenders.append(
            _Contender(Row("baseline: reference", precision), _baseline_step(Baseline(own, "reference"), images))
        )
    for name in get_args(RuntimeName):
        for case in (", guess right", ", no guess") if name == "draft" else ("",):
            policy = LocalPolicy(checkpoint, runtime=name, vocabulary="actions")
            seen = images[:1] if "right" in case else images
            contenders.append(_policy_contender(name + case, precision, policy, seen, forget="no" in case))
    prompt = len(plain.checkpoint.tokenizer.encode_prompt(build_prompt(INSTRUCTION, plain.prompt_style)))
    _take_turns(contenders, seconds, device)
    peak = max(memory.peak(device) - before, 0)
    for contender in contenders:
        of_baseline = contender.row.name.startswith("baseline")
        model = plain.checkpoint.model if contender.row.precision != precision else checkpoint.model
        rows = config.text.vocab_size if of_baseline else config.n_action_bins
        _finish(contender, contenders, costs(model, prompt, rows), machine)
        contender.row.weights = memory.measure(model, device).total
        contender.row.peak = 0 if of_baseline or same else peak
    return [contender.row for contender in contenders]


def plain_precision(device: torch.device) -> Precision:
    """Return the precision in which the reference runs on such a device by default."""
    return "bf16" if device.type == "cuda" else "fp32"


def _baseline_step(baseline: Baseline, images: list[np.ndarray]) -> Step:
    return lambda turn: baseline.predict(images[turn % len(images)], INSTRUCTION)


def _policy_contender(
    name: str, precision: Precision, policy: LocalPolicy, images: list[np.ndarray], forget: bool
) -> _Contender:
    made = _Contender(Row(name, precision), lambda turn: (np.empty(0), {}))
    generate = policy.runtime.generate

    def watched(*arguments: Any, **options: Any) -> Any:
        generated = generate(*arguments, **options)
        made.passes.append(generated.passes)
        return generated

    def step(turn: int) -> tuple[np.ndarray, dict[str, float]]:
        if forget:
            policy.reset()
        policy.runtime.generate = watched  # type: ignore[method-assign]
        start = time.perf_counter()
        chunk = policy.predict(Observation(images[turn % len(images)]), INSTRUCTION)
        total = time.perf_counter() - start
        if chunk.accepted is not None:
            made.accepted.append(chunk.accepted)
        timings = {part: chunk.timings.get(part, 0.0) for part in PARTS} | {"total": total}
        return chunk.token_ids[0], timings

    made.step = step
    return made


def _take_turns(contenders: list[_Contender], seconds: float, device: torch.device, least: int = 4) -> None:
    """Run rounds of all contenders, starting with another one each time, until `seconds` have passed."""
    for contender in contenders:
        for turn in range(WARM_UPS):
            contender.step(turn)
        contender.accepted.clear()
        contender.passes.clear()
    end = time.monotonic() + seconds
    turn = 0
    while turn < least or (time.monotonic() < end and turn < 500):
        for place in range(len(contenders)):
            contender = contenders[(place + turn) % len(contenders)]
            ids, timings = contender.step(turn)
            contender.tokens.setdefault(turn % FRAMES if "right" not in contender.row.name else 0, ids)
            contender.samples.append(timings)
        turn += 1


def _finish(
    contender: _Contender, all_of_them: list[_Contender], cost: dict[str, Any], machine: dict[str, Any]
) -> None:
    row, samples = contender.row, contender.samples
    row.rounds = len(samples)
    for part in (*PARTS, "total"):
        row.p50[part], row.p95[part] = (float(x) for x in np.percentile([s[part] for s in samples], [50, 95]))
    totals = np.array([s["total"] for s in samples])
    for other in reversed(all_of_them):  # the reference in its usual precision is first and overwrites others
        if other.row.name.startswith("baseline"):
            ratios = np.array([s["total"] for s in other.samples]) / totals
            row.versus[other.row.name.removeprefix("baseline: ")] = float(np.median(ratios))
    row.cost = {stage: asdict(of) for stage, of in cost.items()}
    row.step_bytes = cost["decode"].bytes
    row.steps = float(np.mean(contender.passes)) if contender.passes else 6.0
    row.accepted = float(np.mean(contender.accepted)) if contender.accepted else None
    row.floor = floor(cost, row.precision, machine["bandwidth"]["read"], machine["rates"], steps=round(row.steps))
    if not row.name.startswith("baseline"):
        eager = next(other for other in all_of_them if other.row.name == "eager")
        shared = contender.tokens.keys() & eager.tokens.keys()
        row.differing = int(sum((contender.tokens[i] != eager.tokens[i]).sum() for i in shared))
