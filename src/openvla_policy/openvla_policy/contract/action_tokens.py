"""Numbers in [-1, 1] as tokens: 256 bins in place of the last tokens of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class ActionTokenizer:
    """Uniform bins over [-1, 1] (paper, section 3.2; reference: prismatic/vla/action_tokenizer.py).

    `vocab_size` is the vocabulary before padding: text_config.vocab_size - pad_to_multiple_of.
    The token of the lowest bin is `vocab_size - 1`; higher values get lower ids.
    """

    vocab_size: int
    bins: int = 256

    @cached_property
    def edges(self) -> np.ndarray:
        """The `bins` bin edges, float64."""
        return np.linspace(-1.0, 1.0, self.bins)

    @cached_property
    def centers(self) -> np.ndarray:
        """The `bins - 1` values a token can decode to (256 edges enclose 255 bins)."""
        return (self.edges[:-1] + self.edges[1:]) / 2.0

    @property
    def first_id(self) -> int:
        """The lowest action token id."""
        return self.vocab_size - self.bins

    @property
    def last_id(self) -> int:
        """The highest action token id."""
        return self.vocab_size - 1

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """Token ids (int64, same shape) of normalised actions; values outside [-1, 1] are clipped."""
        actions = np.asarray(actions)
        if np.isnan(actions).any():
            raise ValueError(f"actions: NaN at {np.argwhere(np.isnan(actions))[0].tolist()} has no token")
        return self.vocab_size - np.digitize(np.clip(actions, -1.0, 1.0), self.edges)

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Bin centres (float64, same shape). Ids outside the action range clip to the nearest bin."""
        index = np.clip(self.vocab_size - np.asarray(ids, dtype=np.int64) - 1, 0, len(self.centers) - 1)
        return self.centers[index]

    def is_action(self, ids: np.ndarray) -> np.ndarray:
        """Which ids are action tokens."""
        ids = np.asarray(ids)
        return (ids >= self.first_id) & (ids <= self.last_id)
