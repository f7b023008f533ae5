"""The runtimes by name."""

from __future__ import annotations

from typing import Literal, get_args

from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.decoding import Head, Runtime
from openvla_policy.runtime.eager import EagerRuntime
from openvla_policy.runtime.speculative import DraftRuntime
from openvla_policy.runtime.static import StaticRuntime

RuntimeName = Literal["eager", "static", "draft"]
_RUNTIMES: dict[str, type[EagerRuntime | StaticRuntime | DraftRuntime]] = {
    "eager": EagerRuntime,
    "static": StaticRuntime,
    "draft": DraftRuntime,
}


def make_runtime(name: RuntimeName, model: OpenVLA, head: Head) -> Runtime:
    """Build the runtime `name`. All decode the same tokens (docs/explanation/runtimes.md)."""
    if name not in _RUNTIMES:
        raise ValueError(f"runtime: {name!r} is unknown; choose one of {', '.join(get_args(RuntimeName))}")
    return _RUNTIMES[name](model, head)
