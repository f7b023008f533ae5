"""Checks of the policy: pure functions from facts to findings with remedies. No ROS."""

from __future__ import annotations

from collections.abc import Sequence

from openvla_ros.apps.doctor.finding import BAD, OK, SKIP, Finding

HEADROOM = 1.25  # factor on the weights, for activations and the cache


def checkpoint(folder: str, problem: str, stored: float = 0.0) -> Finding:
    """A checkpoint's files: `problem` is '' when they fit together, `stored` the size of the weights [bytes]."""
    if problem:
        return Finding("checkpoint", BAD, problem, "set `checkpoint` to a complete folder, or copy it again")
    return Finding("checkpoint", OK, f"{folder}, {_size(stored)} of weights, names and shapes match its config")


def served(url: str, name: str, problem: str, remedy: str) -> Finding:
    """A policy server's checkpoint: `problem`, with its `remedy`, says why it cannot be used; '' when it can."""
    if problem:
        return Finding("checkpoint", BAD, f"the policy server cannot be used: {problem}", remedy)
    return Finding("checkpoint", OK, f"{name or 'a checkpoint without a name'}, at the policy server {url}")


def unnorm_key(wanted: str, available: Sequence[str]) -> Finding:
    """The dataset whose statistics un-normalise the actions."""
    name = "unnorm_key"
    if wanted in available or (not wanted and len(available) == 1):
        return Finding(name, OK, wanted or f"{available[0]} (the only one)")
    found = f"'{wanted}' is not in the checkpoint" if wanted else "not set, and the checkpoint has several"
    choices = ", ".join(sorted(available)) or "(it has none)"
    return Finding(name, BAD, found, f"set `unnorm_key` to one of: {choices}")


def memory(needed: float, free: float, device: str, precision: str, loaded: bool) -> Finding:
    """Memory for the weights, with headroom.

    Args:
        needed: Size of the weights in `precision` [bytes].
        free: Free memory on `device` [bytes].
        device: Where the policy runs.
        precision: Number format of the weights.
        loaded: The policy is already loaded, so that its share is not free.

    Returns:
        The finding.
    """
    need = needed * HEADROOM
    found = f"{precision} needs about {_size(need)} on {device}, {_size(free)} free"
    if loaded:
        return Finding("policy memory", OK, f"{found} (the policy is already loaded)")
    if need > free:
        remedy = "end other programs there, or use precision bf16, int8 or int4, or a policy server"
        return Finding("policy memory", BAD, found, remedy)
    return Finding("policy memory", OK, found)


def policy_rate(latency: float | None, source: str, wanted: float, streaming: bool, oldest: float) -> Finding:
    """The policy's rate against the control rate.

    Args:
        latency: Time of a prediction [s]; None: not measured.
        source: Where the latency comes from.
        wanted: Control rate [Hz].
        streaming: Streaming control, which needs the rate; blocking control waits for the policy.
        oldest: The bridge's watchdog.observation [s].

    Returns:
        The finding.
    """
    name = "policy rate"
    if latency is None:
        return Finding(name, SKIP, "no prediction yet: --policy measures some, or give the stack an instruction")
    found = f"{1 / latency:.1f} Hz predicted ({1e3 * latency:.0f} ms, {source}), control at {wanted:g} Hz"
    faster = "use a faster runtime (static, draft), precision or GPU, or a policy server"
    if latency > oldest:
        return Finding(name, BAD, f"{found}; the gate accepts images of at most {oldest:g} s", faster)
    if streaming and 1 / latency < wanted:
        return Finding(name, BAD, found, f"{faster}; or lower `rate`, or set control_mode: blocking")
    slow = "" if streaming or 1 / latency >= wanted else "; blocking control waits for it: slower, and safe"
    return Finding(name, OK, found + slow)


def _size(amount: float) -> str:
    return f"{amount / 1e9:.2f} GB" if amount >= 1e9 else f"{amount / 1e6:.1f} MB"
