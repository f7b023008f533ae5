"""The policy benchmark with a tiny model; on a GPU the same functions measure a 7B policy."""

from __future__ import annotations

import io
import json
from functools import partial

import numpy as np
import pytest
import torch
from policy_bench import cost, models
from policy_bench.__main__ import run
from policy_bench.baseline import Baseline, plain_linears
from policy_bench.episodes import Recorded, compare
from policy_bench.machine import bandwidth, matrix_rates
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from openvla_policy.contract.observation import Observation
from openvla_policy.model.config import openvla_7b, tiny
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.runtime.memory import measure

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint():
    return models.random_checkpoint(tiny(), "fp32", CPU)


@pytest.mark.parametrize("form", ["generate", "reference"])
def test_baseline_gives_the_same_tokens_as_our_policy(checkpoint, form):
    """The baseline's language model is transformers', with our weights."""
    policy = LocalPolicy(checkpoint, vocabulary="full")
    baseline = Baseline(policy, form)
    for image in models.frames(2):
        ids, timings = baseline.predict(image, models.INSTRUCTION)
        chunk = policy.predict(Observation(image), models.INSTRUCTION)
        assert ids.tolist() == chunk.token_ids[0].tolist()
        assert len(set(ids.tolist())) > 3  # repeated tokens would prove little
        assert timings["total"] == pytest.approx(sum(timings.values()) - timings["total"], rel=1e-6)


def test_random_weights_are_reproducible(checkpoint):
    again = models.random_checkpoint(tiny(), "fp32", CPU).model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in checkpoint.model.state_dict().items())


def test_random_int8_model_stores_int8_weights(checkpoint):
    quantised = models.random_checkpoint(tiny(), "int8", CPU).model
    assert measure(quantised, CPU).weights["decoder"] < 0.3 * measure(checkpoint.model, CPU).weights["decoder"]


def test_parameter_count_is_that_of_the_model(checkpoint):
    assert models.parameters(tiny()) == sum(p.numel() for p in checkpoint.model.parameters())


def test_costs_agree_with_torch_flop_counter(checkpoint):
    """Operations against torch's counter, bytes against the tensors that a pass reads."""
    model, config = checkpoint.model, checkpoint.config
    counted = cost.costs(model, prompt=16, rows=256)
    length = 16 + config.patches
    # Our linear layers may call an operator that the counter does not know.
    with torch.no_grad(), plain_linears(), FlopCounterMode(display=False) as counter:
        image = model.image_tokens(torch.randn(1, 6, config.image_size, config.image_size))
    assert image.shape[1] == config.patches
    attention = sum(2 * 4 * (g.patches + g.prefix) ** 2 * g.width * (g.depth - 1) for g in config.vision)
    assert counter.get_total_flops() == pytest.approx(counted["vision"].operations, abs=attention)
    with torch.no_grad(), plain_linears(), FlopCounterMode(display=False) as counter:
        model.language_model.model(torch.randn(1, length, config.text.hidden_size))
    assert counter.get_total_flops() == pytest.approx(counted["prefill"].operations, rel=0.15)
    head = 256 * config.text.hidden_size * 4
    cached = 2 * config.text.num_hidden_layers * length * config.text.hidden_size * 4
    assert counted["decode"].bytes == measure(model, CPU).weights["decoder"] + head + cached
    assert counted["decode"].operations < counted["prefill"].operations / 50


def test_costs_of_the_7b_shape_follow_from_its_size():
    """About 13 GB are read for a token in bf16, and 2 x 6.5e9 x 280 operations done for the prompt."""
    with torch.device("meta"):
        model = OpenVLA(openvla_7b()).bfloat16()
    counted = cost.costs(model, prompt=24, rows=256)
    assert counted["decode"].bytes == pytest.approx(13.1e9, rel=0.02)
    assert counted["prefill"].operations == pytest.approx(2 * 6.48e9 * 280, rel=0.02)
    least = cost.floor(counted, "bf16", bandwidth=4.0e12, rates={"fp32": 5e13, "bf16": 7.5e14}, steps=6)
    assert least["decode"] == pytest.approx(6 * 13.1e9 / 4.0e12, rel=0.02)  # bandwidth
    assert least["prefill"] == pytest.approx(3.63e12 / 7.5e14, rel=0.03)  # arithmetic


def test_measured_machine_rates_are_plausible():
    wide = bandwidth(CPU, megabytes=8, repeats=2)
    rates = matrix_rates(CPU, size=128, repeats=2)
    assert 1e8 < wide["read"] < 1e13 and 1e8 < wide["triad"] < 1e13
    assert {"fp32", "bf16"} <= rates.keys() and all(1e7 < rate < 1e16 for rate in rates.values())


def test_draft_accepts_the_previous_action_on_a_still_image(checkpoint):
    """From the second step on the draft is the answer; on the first image of this random model it is not."""
    still = models.frames(1)[0]
    policies = {
        name: LocalPolicy(checkpoint, runtime=name, vocabulary="actions") for name in ("eager", "static", "draft")
    }
    report = compare([Recorded("lift the red cube", [still] * 4)], policies)
    assert report["steps"] == 4 and sum(report["accepted_histogram"]) == 4
    assert report["accepted_histogram"][6] == 3
    assert report["decoding_passes_mean"]["eager"] == 6 > report["decoding_passes_mean"]["draft"]
    assert report["actions_differing_from_eager"] == 0


def run_tiny(folder, *precisions):
    """Return the JSON file of a run, its content, its rows by precision and name, and the printed text."""
    out = io.StringIO()
    options = ["--model", "tiny", "--device", "cpu", "--seconds", "0.1", "--episodes", "0", "--output", str(folder)]
    path = run([*options, "--precisions", *precisions], Console(file=out, force_terminal=True, width=150))
    result = json.loads(path.read_text())
    return path, result, {(row["precision"], row["name"]): row for row in result["rows"]}, out.getvalue()


def check_rows_of_precision(rows, precision):
    for name in ("eager", "static", "draft, guess right"):
        row = rows[precision, name]
        parts = sum(row["p50"][part] for part in ("preparation", "vision", "prefill", "decode", "detokenise"))
        assert 0.5 * row["p50"]["total"] < parts < 1.5 * row["p50"]["total"]
        assert row["p95"]["total"] >= row["p50"]["total"] > 0 and row["versus"].keys() == {"generate", "reference"}


def test_run_writes_rows_and_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("policy_bench.__main__.bandwidth", partial(bandwidth, megabytes=8, repeats=2))
    monkeypatch.setattr("policy_bench.__main__.matrix_rates", partial(matrix_rates, size=128, repeats=2))
    path, result, rows, printed = run_tiny(tmp_path, "fp32", "fp8")
    assert "NVIDIA GPU" in rows["fp8", ""]["problem"] and "fp8: not measured" in printed
    check_rows_of_precision(rows, "fp32")
    assert rows["fp32", "draft, guess right"]["accepted"] == 6 and rows["fp32", "static"]["differing"] == 0
    assert result["machine"]["versions"]["torch"] == torch.__version__ and result["machine"]["git"]
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert np.isfinite([row["rate"] for row in result["rows"]]).all()


@pytest.mark.slow
def test_run_compares_precisions_on_the_measured_machine(tmp_path):
    _, _, rows, _ = run_tiny(tmp_path, "fp32", "int8")
    check_rows_of_precision(rows, "int8")
    assert rows["int8", "eager"]["step_bytes"] < 0.5 * rows["fp32", "eager"]["step_bytes"]
