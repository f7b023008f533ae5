"""One recorded demonstration: reset, record, judge, close the bag; and the index of what was recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openvla_msgs.srv import StopEpisode

from openvla_evaluation.plan import Trial
from openvla_evaluation.report import outcomes
from openvla_evaluation.report.outcomes import Episode
from openvla_evaluation.suites import cubes
from openvla_ros.evaluation.episode_runner import EpisodeRunner, Limits
from openvla_ros.evaluation.stack_client import StackClient


def record_episode(client: StackClient, seed: int, role: str, limits: Limits) -> dict[str, Any] | None:
    """Record one seed.

    Args:
        client: A stack with a recorder.
        seed: Seed of the scene; it also gives target and instruction.
        role: `expert`: the expert acts; `dagger`: the policy acts and the expert labels.
        limits: When the episode ends.

    Returns:
        The episode's entry in episodes.jsonl; None when the run was interrupted.

    Raises:
        RuntimeError: The stack failed; the bag is discarded.
    """
    target, instruction = cubes.target_for(seed), cubes.instruction_of_seed(seed)
    # With a target the acting expert starts at once: reset without one, start the recording, then reset with it.
    client.reset(seed)
    if role == "expert":
        client.publish_instruction(instruction)
    started = client.start_recording(instruction, f"openvla-collect role={role} seed={seed}")
    try:
        client.reset(seed, target)
        episode = EpisodeRunner(client, limits).run(seed, Trial(seed, instruction, target))
    except BaseException:
        client.stop_recording(StopEpisode.Request.DISCARD, 0.0, "the stack failed")
        raise
    success = episode.outcome == outcomes.SUCCESS
    stopped = client.stop_recording(recorder_outcome(episode), float(success), episode.reason)
    if episode.outcome == outcomes.FAULT:
        raise RuntimeError(f"seed {seed}: {episode.reason}")
    if episode.outcome == outcomes.INTERRUPTED:
        return None
    return {
        "seed": seed,
        "role": role,
        "instruction": instruction,
        "target": target,
        "outcome": episode.outcome,
        "steps": episode.count,
        "seconds": round(episode.duration, 2),
        "episode_id": started.episode_id,
        "bag": str(Path(stopped.path)) if stopped.path else "",
    }


def recorder_outcome(episode: Episode) -> int:
    """The outcome for the recorder: bags of unsuccessful episodes are kept, those of broken ones are discarded."""
    if episode.outcome in (outcomes.FAULT, outcomes.INTERRUPTED):
        return StopEpisode.Request.DISCARD
    if episode.outcome == outcomes.SUCCESS:
        return StopEpisode.Request.SUCCESS
    return StopEpisode.Request.FAILURE


def recorded_seeds(index: Path, role: str) -> set[int]:
    """Seeds that an episodes.jsonl lists for `role`; ignores a last line that a crash cut short."""
    seeds = set()
    if index.exists():
        for line in index.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if entry.get("role") == role:
                seeds.add(int(entry["seed"]))
    return seeds
