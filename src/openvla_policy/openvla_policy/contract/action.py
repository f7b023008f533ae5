"""Short sequences of end-effector deltas: the answer of a policy, and the stamped command that a message carries."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

ACTION_DIM = 7
Actions = tuple[tuple[float, ...], ...]
ACTION_NAMES = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")


@dataclass(frozen=True)
class ActionChunk:
    """`T` consecutive actions.

    Attributes:
        actions: float64 (T, 7): dx dy dz [m], droll dpitch dyaw [rad, fixed axes XYZ], gripper [0 closed .. 1 open].
        period: Time between two actions [s].
        frame: Frame in which the actions are expressed.
        statistics_name: Name of the statistics that un-normalised the numbers.
        statistics_hash: Hash of those statistics.
        timings: Wall-clock seconds by stage.
        token_ids: (T, 7) action tokens, where the policy has any.
        accepted: Tokens that the `draft` runtime guessed right (0..6 of the first 6); None for other runtimes.
    """

    actions: np.ndarray
    period: float
    frame: str
    statistics_name: str = ""
    statistics_hash: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    token_ids: np.ndarray | None = None
    accepted: int | None = None

    def __post_init__(self) -> None:
        actions = np.asarray(self.actions, dtype=np.float64)
        if actions.ndim != 2 or actions.shape[1] != ACTION_DIM or len(actions) == 0:
            raise ValueError(f"actions: expected shape (T >= 1, {ACTION_DIM}), got {actions.shape}")
        if not np.isfinite(actions).all():
            raise ValueError(f"actions: a value is not finite: {actions.tolist()}")
        if not self.period > 0.0:
            raise ValueError(f"period: expected seconds > 0, got {self.period}")
        object.__setattr__(self, "actions", actions)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def idle(self) -> bool:
        """Whether no action of the chunk moves anything (see is_all_zero)."""
        return is_all_zero(self.actions)


@dataclass(frozen=True)
class StampedChunk:
    """The command that an `openvla_msgs/ActionChunk` message carries, live or in a bag; not checked.

    Plain floats rather than an array: the safety gate reads them at the controller's rate.

    Attributes:
        actions: Rows of 3 deltas [m], 3 rotations [rad, fixed axes XYZ] and the gripper's opening 0 … 1.
        frame: Frame of the deltas.
        stamp_ns: When it was computed [ns, node clock].
        observation_ns: Stamp of the image that it answers [ns, node clock].
        sequence: Number of the chunk among those of its source.
        source: Name of the sender, such as `policy`.
        period: Time between two actions [s].
        instruction: The instruction that it follows.
    """

    actions: Actions
    frame: str
    stamp_ns: int
    observation_ns: int
    sequence: int
    source: str
    period: float
    instruction: str = ""


def is_all_zero(action: np.ndarray, tolerance: float = 1e-3) -> bool:
    """Whether an action moves nothing. Policies trained on idle frames freeze by repeating such actions (Appendix E).

    Args:
        action: (..., 7) actions.
        tolerance: Largest delta that counts as zero [m, rad].

    Returns:
        Whether all six deltas of all actions are within `tolerance` of zero.
    """
    return bool(np.max(np.abs(np.asarray(action, dtype=np.float64)[..., :6])) <= tolerance)
