"""Agreement of precisions with fp32 and of runtimes with eager, for the shipped policy on recorded episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from rich.table import Table

from openvla_policy.contract.observation import Observation
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.runtime.precision import Precision, obstacle
from openvla_policy.runtime.runtimes import RuntimeName

from .episodes import CHECKPOINT, Recorded


def agreement(
    episodes: Sequence[Recorded], precisions: Sequence[Precision], device: torch.device
) -> list[dict[str, Any]]:
    """Run all runtimes in each precision on the same frames, over the action vocabulary.

    Args:
        episodes: The frames.
        precisions: Precisions to compare; those that the device does not support are left out.
        device: Where to compute.

    Returns:
        A row for each precision: shares of equal tokens and actions, translation errors [m].
    """
    exact_ids, exact_actions = _answers(load_policy(CHECKPOINT, vocabulary="actions", device=device), episodes)
    rows = []
    for precision in precisions:
        if obstacle(precision, device):
            continue
        loaded = load_policy(CHECKPOINT, precision=precision, vocabulary="actions", device=device)
        ids, actions = _answers(loaded, episodes)
        error = np.abs(actions - exact_actions)[:, :3]
        others = [name for name in get_args(RuntimeName) if name != "eager"]
        differing = {}
        for name in others:
            policy = LocalPolicy(loaded.checkpoint, runtime=name, vocabulary="actions")
            differing[name] = int((_answers(policy, episodes)[0] != ids).any(1).sum())
        rows.append(
            {
                "precision": precision,
                "actions": len(ids),
                "tokens_equal": float((ids == exact_ids).mean()),
                "actions_equal": float((ids == exact_ids).all(1).mean()),
                "translation_error_mean": float(error.mean()),
                "translation_error_p95": float(np.percentile(error, 95)),
                "same_gripper": float(((actions[:, 6] > 0.5) == (exact_actions[:, 6] > 0.5)).mean()),
                "differing_from_eager": differing,
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Format the rows for the terminal."""
    made = Table(
        title=f"{CHECKPOINT.name}, {rows[0]['actions']} recorded actions: eager against fp32, runtimes against eager",
        title_justify="left",
    )
    made.add_column("precision")
    for column in (
        "tokens\nequal, %",
        "actions\nequal, %",
        "dx dy dz\nmean, mm",
        "dx dy dz\np95, mm",
        "gripper\nequal, %",
    ):
        made.add_column(column, justify="right")
    for name in rows[0]["differing_from_eager"]:
        made.add_column(f"{name}:\nactions ≠ eager", justify="right")
    for row in rows:
        made.add_row(
            row["precision"],
            f"{100 * row['tokens_equal']:.1f}",
            f"{100 * row['actions_equal']:.1f}",
            f"{1e3 * row['translation_error_mean']:.2f}",
            f"{1e3 * row['translation_error_p95']:.2f}",
            f"{100 * row['same_gripper']:.1f}",
            *(str(count) for count in row["differing_from_eager"].values()),
        )
    return made


def _answers(policy: LocalPolicy, episodes: Sequence[Recorded]) -> tuple[np.ndarray, np.ndarray]:
    ids, actions = [], []
    for episode in episodes:
        policy.reset()
        for image in episode.images:
            chunk = policy.predict(Observation(image), episode.instruction)
            assert chunk.token_ids is not None
            ids.append(chunk.token_ids[0])
            actions.append(chunk.actions[0])
    return np.stack(ids), np.stack(actions)
