"""Load a policy from a checkpoint folder: an OFT policy where the folder has OFT heads, else the plain one."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

from openvla_policy.checkpoint.checkpoint import resolve
from openvla_policy.checkpoint.oft import is_oft, load_heads
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.runtime.memory import reset_peak
from openvla_policy.runtime.oft_policy import OFTPolicy
from openvla_policy.runtime.precision import Precision, load

_LOG = logging.getLogger("openvla.policy")


def load_policy(
    path: str | Path,
    *,
    precision: Precision = "fp32",
    device: torch.device | str | None = None,
    base: str | Path | None = None,
    **options: object,
) -> LocalPolicy:
    """Load a checkpoint folder, a Hugging Face hub id or an un-merged adapter as a policy.

    Args:
        path: The folder or hub id.
        precision: Number format of the weights; see `runtime.precision`.
        device: None: cuda where there is a GPU, else cpu.
        base: Base model of an un-merged adapter. None: the one its adapter_config.json names.
        **options: Of `LocalPolicy`; for an OFT policy also `images`, `chunk`, `cameras` of `checkpoint.oft.load_heads`.
            Any of these makes an OFT policy also of a folder without heads, whose chunk is tokens chosen in one pass.

    Returns:
        A `LocalPolicy`, or its subclass `OFTPolicy`.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    reset_peak(device)
    start = time.perf_counter()
    checkpoint = load(path, precision, device, base)
    sizes = {name: options.pop(name) for name in ("images", "chunk", "cameras") if name in options}
    policy: LocalPolicy
    if sizes or is_oft(resolve(path)):
        policy = OFTPolicy(checkpoint, load_heads(path, checkpoint, **sizes), **options)  # type: ignore[arg-type]
    else:
        policy = LocalPolicy(checkpoint, **options)  # type: ignore[arg-type]
    took = time.perf_counter() - start
    _LOG.info("%s loaded in %s on %s in %.1f s: %s", path, precision, device, took, policy.memory)
    return policy
