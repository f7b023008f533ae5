"""Many clients at once: each gets its own answer, and a failing request affects no other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from serving import checkpoint, listening

from openvla_policy.contract.observation import Observation
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.serving import ServerRefused, connect
from openvla_policy.serving.http_server import PolicyServer
from openvla_policy.serving.limits import Limits

INSTRUCTIONS = ("lift the cube", "lift the red cube and put it down", "stop")


@pytest.fixture(scope="module")
def policy() -> LocalPolicy:
    return LocalPolicy(checkpoint(), key_per_request=True)


def question(number: int) -> tuple[Observation, str, str]:
    """A request that differs for each client: image, length of the prompt, statistics."""
    image = np.random.default_rng(number).integers(0, 256, (30 + number, 40, 3), dtype=np.uint8)
    return Observation(image), INSTRUCTIONS[number % 3], ("one", "two")[number % 2]


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """`work(0)` … `work(count - 1)` in threads that start together; their results or exceptions."""
    results: list[Any] = [None] * count
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = work(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


@pytest.mark.parametrize("batch", [1, 8])
def test_sixteen_clients_each_get_their_own_answer(policy, batch):
    rounds = 4
    server = PolicyServer(policy, limits=Limits(batch=batch, queue=64))
    with listening(server) as address:

        def ask(number: int) -> list[Any]:
            scheme = ("http", "ws")[number % 2]
            observation, instruction, key = question(number)
            client = connect(f"{scheme}://{address}", unnorm_key=key, timeout=60.0)
            try:
                return [client.predict(observation, instruction) for _ in range(rounds)]
            finally:
                client.close()

        answers = at_once(16, ask)
    for number, chunks in enumerate(answers):
        assert isinstance(chunks, list), chunks
        observation, instruction, key = question(number)
        alone = policy.predict_batch([observation], [instruction], [key])[0]
        for chunk in chunks:
            assert chunk.statistics_name == key
            assert (chunk.actions == alone.actions).all(), f"client {number} got another's answer"
    assert server.metrics.value("openvla_actions_total") == 16 * rounds
    passes = server.metrics.value("openvla_batch_size_count")
    assert passes == 16 * rounds if batch == 1 else passes < 16 * rounds, "batches of several were made, or not"


def test_a_failing_request_affects_no_other(policy, monkeypatch, wait_for):
    original, sizes, go = policy.predict_batch, [], threading.Event()

    def failing(observations, instructions, statistics=None, streams=None):
        sizes.append(len(observations))
        assert go.wait(20)
        if "explode" in instructions:
            raise RuntimeError("out of memory")
        return original(observations, instructions, statistics)

    monkeypatch.setattr(policy, "predict_batch", failing)
    server = PolicyServer(policy)
    with listening(server) as address:

        def ask(number: int) -> Any:
            observation, instruction, key = question(number)
            client = connect(f"ws://{address}", unnorm_key="nowhere" if number == 4 else key, timeout=30.0)
            try:
                return client.predict(observation, "explode" if number == 3 else instruction)
            finally:
                client.close()

        results: list[Any] = []
        asking = threading.Thread(target=lambda: results.extend(at_once(6, ask)))
        asking.start()
        wait_for(
            lambda: sizes and sizes[0] + server.metrics.value("openvla_queue_length") == 5,
            20,
            "the five that can be computed",
        )
        go.set()
        asking.join(60)
    assert isinstance(results[3], ServerRefused) and results[3].status == 500
    assert isinstance(results[4], ServerRefused) and results[4].status == 422
    for number in (0, 1, 2, 5):
        observation, instruction, key = question(number)
        assert (results[number].actions == original([observation], [instruction], [key])[0].actions).all()
    assert max(sizes) > 1, "the failing one was in a batch with others"
