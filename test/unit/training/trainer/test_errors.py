"""Explained runtime errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_training import toy_config

from openvla_policy.model.config import siglip_7b
from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.errors import RunError, diagnose
from openvla_training.trainer.parallel import World

CPU = torch.device("cpu")


def explain(error: RuntimeError, config: TrainConfig, processes: int = 1) -> RunError | None:
    return diagnose(error, config, siglip_7b(), CPU, World(0, processes), 3)


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return toy_config(Path("o"), Path("d"), checkpoint="c", batch_size=64, precision="bf16")


def test_out_of_memory_says_what_to_lower(config: TrainConfig) -> None:
    message = str(explain(torch.OutOfMemoryError("CUDA out of memory."), config))
    assert message.startswith("out of memory at step 3. An estimated pass of 64 samples needs ")
    assert "activations" in message
    assert "lower parallel.micro_batch_size, or set parallel.activation_checkpointing=true" in message


def test_out_of_memory_on_a_cpu_is_recognised(config: TrainConfig) -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert explain(caught.value, config) is not None


def test_lost_process_is_recognised(config: TrainConfig) -> None:
    lost = RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4242")
    message = str(explain(lost, config, processes=2))
    assert "process 0 of 2 lost the connection to another one at step 3" in message
    assert "any number of processes" in message


def test_other_errors_are_not_explained(config: TrainConfig) -> None:
    assert explain(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), config, processes=2) is None
