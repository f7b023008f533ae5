"""Where batches come from: frames in memory, or a mixture streamed from disk. Both go on at the exact sample."""

from __future__ import annotations
