"""Shared fixtures of the node tests: a small random checkpoint, running nodes of the process table, and waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SENTENCES = ["In: What action should the robot take to lift the red cube?\nOut:"]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random tiny OpenVLA, statistics `sim`, actions of at most a few millimetres."""
    import numpy as np
    import torch

    from openvla_policy.checkpoint.checkpoint import Checkpoint
    from openvla_policy.checkpoint.folder import save_folder
    from openvla_policy.checkpoint.tokenizer_training import train_tokenizer
    from openvla_policy.contract.image import ImagePreparation
    from openvla_policy.contract.statistics import compute
    from openvla_policy.model.config import tiny
    from openvla_policy.model.vla import OpenVLA

    torch.manual_seed(0)
    config = tiny(image_size=28, vision_width=32, vision_depth=3, vision_heads=2, hidden_size=32, layers=2)
    scale = np.array([0.004, 0.004, 0.004, 0.01, 0.01, 0.01, 1.0])
    actions = np.random.default_rng(0).uniform(-1, 1, (200, 7)) * scale
    checkpoint = Checkpoint(
        model=OpenVLA(config).eval(),
        config=config,
        tokenizer=train_tokenizer(SENTENCES, config.action_vocab_size),
        preparation=ImagePreparation.standard(config.image_size, ["imagenet", "half"]),
        statistics={"sim": compute([actions], mask=[True] * 6 + [False])},
    )
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_folder(folder, checkpoint)
    return folder


@pytest.fixture
def start_stack(start_process: Any, ros_domain: int) -> Callable[..., dict[str, Any]]:
    """Give `start_stack(overrides, policy=…, manager=…)`: the processes of bringup("sim"), by node name."""
    from openvla_ros.bringup.process_table import argv, bringup, node_module

    def start(overrides: dict[str, dict[str, object]] | None = None, **options: Any) -> dict[str, Any]:
        specs = bringup("sim", overrides, **options)
        return {spec.name: start_process(f"module:{node_module(spec.executable)}", *argv(spec)[3:]) for spec in specs}

    return start


@pytest.fixture
def call(ros_node: Any, spin_until: Any) -> Callable[..., Any]:
    """Give `call(type, name, **fields)`: wait for a service, call it, return its response."""

    def call(kind: type, name: str, **fields: Any) -> Any:
        client = ros_node.create_client(kind, name)
        spin_until(client.service_is_ready, 60.0, f"service {name}")
        future = client.call_async(kind.Request(**fields))
        spin_until(future.done, 60.0, f"a response of {name}")
        ros_node.destroy_client(client)
        return future.result()

    return call


@pytest.fixture
def meet(ros_node: Any, spin_until: Any) -> Callable[[str], None]:
    """Give `meet(node)`: wait until a node has discovered all publishers and subscriptions of the test.

    A publisher's `get_subscription_count()` says that the test has discovered the node, not the reverse: a message
    published once may be lost, or arrive seconds late. DDS announces a process's endpoints in order: a node that
    answers a client created now has discovered everything created before.
    """
    import time

    from lifecycle_msgs.srv import GetState

    def meet(name: str) -> None:
        client = ros_node.create_client(GetState, f"{name}/get_state")
        asked: list[tuple[float, Any]] = []

        def answered() -> bool:
            due = not asked or time.monotonic() > asked[-1][0] + 2.0  # a response may be lost too
            if due and client.service_is_ready():
                asked.append((time.monotonic(), client.call_async(GetState.Request())))
            return any(future.done() for _, future in asked)

        spin_until(answered, 120.0, f"{name} to discover the test")
        ros_node.destroy_client(client)

    return meet


@pytest.fixture
def spin_until(ros_node: Any) -> Iterator[Callable[..., Any]]:
    """As the fixture for all tests, without its pauses: a stream of 50 Hz must not pile up while a test waits."""
    import time

    from rclpy.executors import SingleThreadedExecutor

    executor = SingleThreadedExecutor(context=ros_node.context)
    executor.add_node(ros_node)

    def spin_until(condition: Callable[[], Any], timeout: float = 60.0, what: str = "the condition") -> Any:
        end = time.monotonic() + timeout
        while not (value := condition()):
            if time.monotonic() > end:
                pytest.fail(f"waited {timeout:g} s for {what}")
            executor.spin_once(timeout_sec=0.02)
        return value

    yield spin_until
    executor.shutdown()


@pytest.fixture
def settle(spin_until: Callable[..., Any]) -> Callable[..., None]:
    """Give `settle(seconds=0.3)`: wait, so that a message that must not arrive could arrive."""
    import time

    def settle(seconds: float = 0.3) -> None:
        end = time.monotonic() + seconds
        spin_until(lambda: time.monotonic() > end, seconds + 5.0)

    return settle
