"""Silences warnings of libraries about optional kernels for other hardware, on which a user cannot act."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# peft imports the other two.
_NOISY = ("torchao", "torchao.kernel.intmm", "bitsandbytes", "bitsandbytes.backends.cpu.ops", "torch.utils._pytree")


def silence_library_logs() -> None:
    """Make torchao and bitsandbytes log errors only. Call it before their first import."""
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def without_peft_guesses() -> Iterator[None]:
    """A context in which peft does not warn that the model is not one of transformers'."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting `save_embedding_layers`|Could not identify embedding layer")
        yield
