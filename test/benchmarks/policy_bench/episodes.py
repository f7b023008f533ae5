"""Acceptance of the previous action as a draft: the shipped policy on episodes recorded in the simulator."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from openvla_policy.contract.observation import Observation
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.runtime.runtimes import RuntimeName

CHECKPOINT = Path(__file__).parents[3] / "checkpoints" / "openvla-tiny-sim"
SEED = 1_000_700  # of the first episode; no training episode has such a seed
MOST_STEPS = 25


@dataclass
class Recorded:
    """One episode: instruction and camera images."""

    instruction: str
    images: list[np.ndarray] = field(default_factory=list)
    lifted: bool = False


def record(policy: LocalPolicy, count: int) -> list[Recorded]:
    """Run `policy` in the simulator for `count` episodes, in blocking control as in the demo."""
    os.environ.setdefault("MUJOCO_GL", "osmesa")
    from openvla_evaluation.suites import cubes
    from openvla_ros.sim.scene import Scene
    from openvla_ros.sim.scoring import Scorer

    scene = Scene()
    episodes = []
    for seed in range(SEED, SEED + count):
        scene.reset(seed)
        scorer = Scorer(scene)
        episode = Recorded(cubes.instruction_of_seed(seed))
        target = cubes.target_of(episode.instruction)
        for _ in range(MOST_STEPS):
            image = scene.render().copy()
            episode.images.append(image)
            _execute(scene, policy.predict(Observation(image), episode.instruction).actions[0], scorer)
            if scorer.lifted[target]:
                episode.lifted = True
                break
        episodes.append(episode)
    scene.close()
    return episodes


def _execute(scene: Any, action: np.ndarray, scorer: Any) -> None:
    """Move the gripper, then ramp to the target pose and settle."""
    from scipy.spatial.transform import Rotation

    position, quaternion = scene.ee_pose()
    goal = (Rotation.from_euler("xyz", action[3:6]) * Rotation.from_quat(quaternion)).as_quat()
    if abs(action[6] - scene.gripper_opening()) > 0.3:
        scene.set_gripper(float(action[6]))
        scene.step(0.4)
    for share in np.linspace(0.05, 1.0, 20):
        scene.set_target(position + share * action[:3], goal)
        scene.step(0.02)
    for _ in range(6):
        scene.step(0.05)
        scorer.update()


def compare(episodes: Sequence[Recorded], policies: dict[str, LocalPolicy]) -> dict[str, Any]:
    """Run the policies in turns on the recorded frames, in order; return latencies [s] and the acceptance of draft."""
    times: dict[str, list[float]] = {name: [] for name in policies}
    passes: dict[str, list[int]] = {name: [] for name in policies}
    accepted: list[int] = []
    differing = steps = 0
    for name, policy in policies.items():
        _count_passes(policy, passes[name])
        for episode in episodes[:1]:
            for image in episode.images[:3]:
                policy.predict(Observation(image), episode.instruction)
        passes[name].clear()
    for episode in episodes:
        for policy in policies.values():
            policy.reset()
        for image in episode.images:
            ids = {}
            for name, policy in policies.items():
                start = time.perf_counter()
                chunk = policy.predict(Observation(image), episode.instruction)
                times[name].append(time.perf_counter() - start)
                ids[name] = chunk.token_ids
                if chunk.accepted is not None:
                    accepted.append(chunk.accepted)
            steps += 1
            differing += sum(int((row != ids["eager"]).any()) for row in ids.values())
    histogram = np.bincount(accepted, minlength=7)
    return {
        "checkpoint": CHECKPOINT.name,
        "episodes": len(episodes),
        "lifted": sum(episode.lifted for episode in episodes),
        "steps": steps,
        "accepted_mean": float(np.mean(accepted)),
        "accepted_histogram": histogram.tolist(),
        "p50": {name: float(np.median(values)) for name, values in times.items()},
        "p95": {name: float(np.percentile(values, 95)) for name, values in times.items()},
        "decoding_passes_mean": {name: float(np.mean(values)) for name, values in passes.items()},
        "actions_differing_from_eager": differing,
    }


def record_shipped_policy(device: torch.device, count: int) -> list[Recorded]:
    """Record episodes of the shipped policy.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ImportError: There is no simulator.
    """
    if not (CHECKPOINT / "config.json").is_file():
        raise FileNotFoundError(f"{CHECKPOINT}: no checkpoint (config.json)")
    return record(load_policy(CHECKPOINT, device=device, vocabulary="actions"), count)


def acceptance(episodes: Sequence[Recorded], device: torch.device) -> dict[str, Any]:
    """Compare all runtimes of the shipped policy on recorded episodes."""
    names = get_args(RuntimeName)
    policies = {name: load_policy(CHECKPOINT, device=device, runtime=name, vocabulary="actions") for name in names}
    return compare(episodes, policies)


def _count_passes(policy: LocalPolicy, into: list[int]) -> None:
    generate = policy.runtime.generate

    def counted(*arguments: Any, **options: Any) -> Any:
        generated = generate(*arguments, **options)
        into.append(generated.passes)
        return generated

    policy.runtime.generate = counted  # type: ignore[method-assign]
