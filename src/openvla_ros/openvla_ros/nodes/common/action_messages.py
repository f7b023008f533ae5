"""The stack's own messages, made from and read into the values of the core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Vector3
from openvla_msgs.msg import ActionChunk, EndEffectorDelta, PolicyStatus, SafetyState, SceneScore

from openvla_policy.contract.action import StampedChunk
from openvla_ros.nodes.common.conversions import header, number, numbers, stamp_ns, time_message
from openvla_ros.safety.gate import Gate

SAFETY_NAMES = {0: "INACTIVE", 1: "HOLD", 2: "READY", 3: "EXECUTING", 4: "ESTOP"}


def delta_message(action: Sequence[float] | np.ndarray) -> EndEffectorDelta:
    """Seven numbers as an EndEffectorDelta."""
    x, y, z, roll, pitch, yaw, gripper = numbers(action, "action", 7)
    return EndEffectorDelta(
        translation=Vector3(x=x, y=y, z=z), rotation=Vector3(x=roll, y=pitch, z=yaw), gripper=gripper
    )


def read_delta(delta: EndEffectorDelta) -> tuple[float, ...]:
    """An EndEffectorDelta as seven numbers; not judged, which is the gate's task."""
    t, r = delta.translation, delta.rotation
    return (t.x, t.y, t.z, r.x, r.y, r.z, delta.gripper)


def chunk_message(
    actions: Sequence[Sequence[float] | np.ndarray] | np.ndarray,
    *,
    frame: str,
    at_ns: int,
    observation: Time,
    sequence: int,
    source: str,
    instruction: str,
    period: float,
    statistics: tuple[str, str] = ("", ""),
    latencies: Mapping[str, float] | None = None,
) -> ActionChunk:
    """Make an ActionChunk.

    Args:
        actions: Rows of 3 deltas [m], 3 rotations [rad, fixed axes XYZ] and the gripper's opening 0 … 1.
        frame: Frame of the deltas.
        at_ns: When it was computed [ns, node clock].
        observation: Stamp of the image that it answers, unchanged.
        sequence: Number of the chunk among those of its source.
        source: Name of the sender.
        instruction: The instruction that it follows.
        period: Time between two actions [s].
        statistics: Name and hash of the statistics that the actions were made with.
        latencies: Durations [s] of `preparation`, `inference` and `total`.

    Returns:
        The message.

    Raises:
        ValueError: There is no action, or a number is not finite.
    """
    if len(actions) == 0:
        raise ValueError("a chunk has at least one action")
    times = latencies or {}
    return ActionChunk(
        header=header(at_ns, frame),
        observation_stamp=Time(sec=int(observation.sec), nanosec=int(observation.nanosec)),
        sequence=int(sequence),
        source=str(source),
        instruction=str(instruction),
        period=number(period, "period"),
        actions=[delta_message(a) for a in actions],
        statistics_name=str(statistics[0]),
        statistics_hash=str(statistics[1]),
        **{f"latency_{k}": number(times.get(k, 0.0), k) for k in ("preparation", "inference", "total")},
    )


def read_chunk(message: ActionChunk) -> StampedChunk:
    """An ActionChunk as the command that it carries; not judged, which is the gate's task."""
    return StampedChunk(
        actions=tuple(read_delta(a) for a in message.actions),
        frame=message.header.frame_id,
        stamp_ns=stamp_ns(message.header.stamp),
        observation_ns=stamp_ns(message.observation_stamp),
        sequence=int(message.sequence),
        source=message.source,
        period=float(message.period),
        instruction=str(message.instruction),
    )


def safety_message(gate: Gate, mode: str, frame: str, at_ns: int, stopping: bool = False) -> SafetyState:
    """Make a SafetyState.

    Args:
        gate: State of the gate.
        mode: Control mode.
        frame: Base frame.
        at_ns: Time on the node's clock [ns].
        stopping: Whether the target is being brought to rest.

    Returns:
        The message.
    """
    return SafetyState(
        header=header(at_ns, frame),
        state=int(gate.state),
        reason=str(gate.reason),
        clipped=[str(n) for n in gate.clipped],
        refused=[str(n) for n in gate.refused],
        executing=gate.state == SafetyState.EXECUTING,
        executed_observation_stamp=time_message(gate.executed_observation_ns),
        ready_since=time_message(gate.ready_since_ns),
        executed_sequence=int(gate.executed_sequence),
        refused_count=int(gate.refused_count),
        control_mode=str(mode),
        stopping=bool(stopping),
        source=str(gate.source),
        e_stop_reset_by=str(gate.reset_by),
        e_stop_reset_stamp=time_message(gate.reset_ns),
    )


def status_message(at_ns: int, *, step: int, rate: float, latencies: Mapping[str, float], **texts: str) -> PolicyStatus:
    """Make a PolicyStatus.

    Args:
        at_ns: Time on the node's clock [ns].
        step: Actions since the instruction began.
        rate: Predictions per second [Hz].
        latencies: Durations [s] of `preparation`, `inference` and `total`.
        **texts: state, reason, backend, checkpoint, statistics_name, instruction.

    Returns:
        The message.
    """
    return PolicyStatus(
        header=header(at_ns),
        step=int(step),
        rate=number(rate, "rate"),
        **{k: str(v) for k, v in texts.items()},
        **{f"latency_{k}": number(latencies.get(k, 0.0), k) for k in ("preparation", "inference", "total")},
    )


def score_message(
    seed: int, lifted: Mapping[str, bool], done: bool, at_ns: int, disturbed: Sequence[str] = ()
) -> SceneScore:
    """Make a SceneScore.

    Args:
        seed: Seed of the scene.
        lifted: Whether each object is lifted, by name.
        done: Whether an object is lifted, so that the episode can be scored.
        at_ns: Time on the node's clock [ns].
        disturbed: Names of objects that were moved without being lifted.

    Returns:
        The message.
    """
    return SceneScore(
        header=header(at_ns),
        seed=int(seed),
        objects=[str(n) for n in lifted],
        lifted=[bool(v) for v in lifted.values()],
        done=bool(done),
        disturbed=[str(n) for n in disturbed],
    )
