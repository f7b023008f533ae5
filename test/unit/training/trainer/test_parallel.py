"""Runs on one process and on two (FSDP2 over gloo) that are killed or stopped, and resume with the same losses."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_training import toy_overrides

from openvla_policy.checkpoint.folder import load_folder
from openvla_training.openx.synthetic import write_synthetic
from openvla_training.trainer.parallel import World
from openvla_training.trainer.read_config import load_config
from openvla_training.trainer.setup_model import check_processes
from openvla_training.trainer.trainer import Trainer

STEPS = 24


def options(data: Path | None, output: Path, /, **more: object) -> list[str]:
    """Overrides of a run that saves often."""
    return toy_overrides(output, data, **({"steps": STEPS, "validate_every": 6, "save_every": 4} | more))


def here(data: Path | None, output: Path, /, **more: object) -> Trainer:
    """Run to the end in this process."""
    trainer = Trainer(load_config(None, options(data, output, **more)))
    trainer.run()
    return trainer


def workers(parent: int) -> list[int]:
    """The processes that torchrun started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:
            continue  # the process has ended meanwhile
        if int(fields["PPid"]) == parent:
            found.append(int(fields["Pid"]))
    return sorted(found)


KILLED_WRITING = """
import os, signal, sys
from pathlib import Path
from openvla_training.trainer import state
from openvla_training.trainer.cli import main

save = state.dcp.save

def save_half(tensors, checkpoint_id, no_dist):
    save(tensors, checkpoint_id=checkpoint_id, no_dist=no_dist)
    if Path(checkpoint_id).name.startswith("step-12"):
        data = max(Path(checkpoint_id).iterdir(), key=lambda path: path.stat().st_size)
        os.truncate(data, data.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

state.dcp.save = save_half
main(sys.argv[1:])
"""


def test_run_killed_while_saving_resumes_exactly(data: Path, tmp_path: Path, start_process):
    whole = here(data, tmp_path / "whole")
    killed = start_process("python", "-c", KILLED_WRITING, *options(data, tmp_path / "killed"), OMP_NUM_THREADS="1")
    assert killed.popen.wait(120) == -signal.SIGKILL, killed.output
    states = tmp_path / "killed" / "states"
    assert {"step-8", "step-12.unfinished"} <= {path.name for path in states.iterdir()}
    assert not (states / "step-12").exists()
    resumed = here(data, tmp_path / "killed")
    assert resumed.losses == whole.losses
    for (name, a), b in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    kept = sorted(path.name for path in states.iterdir())
    assert {"step-20", "step-24"} <= set(kept) and len(kept) <= 3  # the last two, and the best


@pytest.mark.slow
def test_killed_run_of_two_processes_resumes_on_one(data: Path, tmp_path: Path, start_process, wait_for):
    alone = here(data, tmp_path / "alone")
    output = tmp_path / "two"
    pair = torchrun(start_process, options(data, output))
    wait_for(lambda: (output / "states" / "step-8").exists() or not pair.running, 120, "the second state")
    second = workers(pair.popen.pid)[1]
    os.kill(second, signal.SIGKILL)
    wait_for(lambda: not pair.running, 60, "torchrun to end the other process")
    assert pair.popen.wait() != 0
    done = max(int(path.name.removeprefix("step-")) for path in (output / "states").glob("step-*[0-9]"))
    facts = json.loads((output / "states" / f"step-{done}" / "run.json").read_text())
    assert facts["processes"] == 2 and done < STEPS
    resumed = here(data, output)
    np.testing.assert_allclose(resumed.losses, alone.losses, rtol=1e-4)
    ours, theirs = (load_folder(place / "checkpoint").model for place in (output, tmp_path / "alone"))
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-2, rtol=2e-2, msg=name)  # both are written in bf16


@pytest.mark.slow
def test_ctrl_c_stops_two_processes_at_the_same_step(data: Path, tmp_path: Path, start_process, wait_for):
    # torchrun passes Ctrl-C on, and it may reach each process in another step.
    output = tmp_path / "two"
    pair = torchrun(start_process, options(data, output, steps=100_000), "--shutdown-timeout", "120")
    wait_for(lambda: (output / "states" / "step-4").exists() or not pair.running, 120, "the first state")
    os.kill(pair.popen.pid, signal.SIGINT)
    pair.popen.wait(150)
    assert "forcefully" not in pair.output, pair.output  # both ended by themselves
    stopped = re.search(r"stopped at step (\d+); the same command resumes it", pair.output)
    assert stopped, pair.output
    assert "KeyboardInterrupt" not in pair.output, pair.output
    step = int(stopped[1])
    facts = json.loads((output / "states" / f"step-{step}" / "run.json").read_text())
    assert facts["processes"] == 2 and len(facts["losses"]) == step
    resumed, alone = here(data, output, steps=step + 2), here(data, tmp_path / "alone", steps=step + 2)
    np.testing.assert_allclose(resumed.losses, alone.losses, rtol=1e-3)


@pytest.mark.slow
def test_adapter_of_two_processes_is_written_like_that_of_one(data: Path, tmp_path: Path, start_process):
    # In bf16, with micro-batches and recomputed activations; started on one process, finished on two.
    base = here(data, tmp_path / "base", steps=4)
    more = {
        "checkpoint": tmp_path / "base" / "checkpoint", "strategy": "lora", "lora_rank": 4, "precision": "bf16",
        "micro_batch_size": 2, "activation_checkpointing": "true",
    }  # fmt: skip
    assert base.step == 4
    alone = here(data, tmp_path / "alone", **more)
    here(data, tmp_path / "two", **more, steps=12)
    pair = torchrun(start_process, options(data, tmp_path / "two", **more))
    assert pair.popen.wait(120) == 0, pair.output
    assert f"trained {STEPS} steps of 8 samples" in pair.output
    facts = json.loads((tmp_path / "two" / "states" / f"step-{STEPS}" / "run.json").read_text())
    assert facts["processes"] == 2
    np.testing.assert_allclose(facts["losses"], alone.losses, rtol=2e-2)  # layers are gathered in bf16
    for folder in ("adapter", "checkpoint"):
        assert {p.name for p in (tmp_path / "two" / folder).iterdir()} == {
            p.name for p in (tmp_path / "alone" / folder).iterdir()
        }
    ours, theirs = (load_folder(tmp_path / run / "checkpoint").model for run in ("two", "alone"))
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-2, rtol=5e-2, msg=name)


@pytest.mark.slow
def test_torchrun_restarts_a_streamed_run(data: Path, tmp_path: Path, start_process, wait_for):
    here(data, tmp_path / "base", steps=1)
    (tmp_path / "two.yaml").write_text("datasets: {bridge_orig: 1.0, viola: 2.0}\n")
    for name in ("bridge_orig", "viola"):
        write_synthetic(tmp_path / "openx", name, episodes=12, val_episodes=2)
    more = {
        "mixture": tmp_path / "two.yaml", "data_dir": tmp_path / "openx",
        "checkpoint": tmp_path / "base" / "checkpoint", "lanes": 4, "shuffle_mib": 1,
    }  # fmt: skip
    alone = here(None, tmp_path / "alone", **more)
    pair = torchrun(start_process, options(None, tmp_path / "two", **more), "--max-restarts", "1")
    wait_for(lambda: (tmp_path / "two" / "states" / "step-4").exists() or not pair.running, 120, "the first state")
    os.kill(workers(pair.popen.pid)[1], signal.SIGKILL)
    assert pair.popen.wait(60) == 0, pair.output
    assert "resuming" in pair.output
    facts = json.loads((tmp_path / "two" / "states" / f"step-{STEPS}" / "run.json").read_text())
    np.testing.assert_allclose(facts["losses"], alone.losses, rtol=1e-3)


def torchrun(start_process: Callable[..., Any], arguments: list[str], *more: str) -> Any:
    """Start two processes of a run."""
    command = ["--standalone", "--nproc-per-node", "2", *more, "-m", "openvla_training.trainer.cli", *arguments]
    return start_process("torchrun", *command, OMP_NUM_THREADS="1")


@pytest.mark.parametrize(
    ("more", "processes", "message"),
    [
        ({}, 3, "data.batch_size: 16 cannot be divided evenly among 3 processes; choose data.batch_size=15"),
        ({"strategy": "qlora"}, 2, "model.strategy: qlora runs on one process, not 2; use lora"),
        ({"optimizer": "adamw8bit"}, 2, "optimizer.name: adamw8bit runs on one process, not 2; use adamw"),
        ({"mixture": "bridge", "data_dir": "d", "lanes": 2}, 4,
         "data.lanes: 2 cannot be divided among 4 processes; choose a multiple of 4"),
    ],
)  # fmt: skip
def test_indivisible_run_is_refused(more: dict[str, object], processes: int, message: str) -> None:
    data = None if "mixture" in more else Path("d")
    config = load_config(None, options(data, Path("o"), batch_size=16, checkpoint="c", **more))
    with pytest.raises(ValueError, match=message):
        check_processes(config, World(0, processes))
    check_processes(config, World())


def test_world_divides_evenly() -> None:
    assert World(1, 4).divide(16, "data.batch_size") == 4
