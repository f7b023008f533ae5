"""Libraries that warn, when imported, of optional kernels for other hardware: what a user cannot and need not mend."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# peft imports the other two.
_NOISY = ("torchao", "torchao.kernel.intmm", "bitsandbytes", "bitsandbytes.backends.cpu.ops", "torch.utils._pytree")


def quieten() -> None:
    """Let torchao and bitsandbytes speak of errors alone; before their first import."""
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def without_peft_guesses() -> Iterator[None]:
    """Within, peft does not warn that a model is none of transformers', nor of what it saves therefore."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting `save_embedding_layers`|Could not identify embedding layer")
        yield
