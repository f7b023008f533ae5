"""What `openvla-doctor` judges: one pure function a row, from collected facts to ✓, ✗ or – with a remedy. No ROS.

A – is what could not be looked at, or need not be: it does not count against the workstation.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

OK, BAD, SKIP = "ok", "bad", "skip"
SIGNS = {OK: "✓", BAD: "✗", SKIP: "–"}
LOST = 0.02  # share of frames that may be lost
FEW = 3  # fewer messages than this tell no rate
DEFAULT_SEGMENT = 512 * 1024  # bytes of shared memory that Fast DDS takes by itself
LEAST_DISK = 10e9  # bytes: an hour of recording, or a checkpoint
HEADROOM = 1.25  # on the weights, for activations and the cache
SKEW = 0.1  # s between two machines' clocks
READY, EXECUTING, HOLD, ESTOP = "READY", "EXECUTING", "HOLD", "ESTOP"
ACTIVE = "active"
# Why no controller's state is known.
NO_MANAGER = "no controller_manager here"
NO_MANAGER_MESSAGES = "controller_manager_msgs is not installed (sudo apt install ros-jazzy-controller-manager-msgs)"
MANAGER_SILENT = "the controller_manager does not answer, or has loaded no controller"


@dataclass(frozen=True)
class Finding:
    """One row of the table. `remedy` is empty unless the status is bad."""

    name: str
    status: str
    said: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


@dataclass(frozen=True)
class Stream:
    """What was heard of one topic. Times in seconds; `ages` are our clock less the stamp, at arrival."""

    topic: str
    publishers: int = 0
    reliable: bool = False
    listened: float = 0.0
    size: int = 0  # bytes of the newest message's data
    arrivals: tuple[float, ...] = ()
    stamps: tuple[float, ...] = ()
    ages: tuple[float, ...] = ()

    def rate(self, *, by_stamps: bool = False) -> float:
        """Messages a second; 0 with fewer than two. by_stamps: on the stamps' clock (simulated time)."""
        times = sorted(self.stamps if by_stamps else self.arrivals)
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0

    def silence(self) -> float:
        """The longest time without a message while listening, by arrival."""
        times = self.arrivals
        if not times:
            return self.listened
        return max([b - a for a, b in zip(times, times[1:], strict=False)] + [self.listened - (times[-1] - times[0])])

    def lost(self) -> float:
        """Share of messages that the stamps' gaps say were lost."""
        stamps = sorted(set(self.stamps))
        steps = [b - a for a, b in zip(stamps, stamps[1:], strict=False)]
        if len(steps) < FEW:
            return 0.0
        usual = statistics.median(steps)
        missing = sum(max(0, round(step / usual) - 1) for step in steps)
        return missing / (missing + len(stamps))


# ---- the machine -----------------------------------------------------------------------------------


def versions(python: tuple[int, int], distro: str, rclpy: str) -> Finding:
    """Python and ROS."""
    said = f"Python {python[0]}.{python[1]}, ROS 2 {distro or 'from wheels'}, rclpy {rclpy}"
    if distro not in ("", "jazzy"):
        return Finding("versions", BAD, said, "source /opt/ros/jazzy/setup.bash, then `make setup`")
    if not (3, 11) <= python <= (3, 12):
        return Finding("versions", BAD, said, "use Python 3.11 or 3.12: `make setup` finds one")
    return Finding("versions", OK, said)


def domain(environment: Mapping[str, str], rmw: str) -> Finding:
    """Who hears whom."""
    number = environment.get("ROS_DOMAIN_ID", "0") or "0"
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    said = f"domain {number}, discovery {reach}, {rmw}"
    if not number.isdecimal() or int(number) > 101:
        return Finding(
            "ROS domain", BAD, said, "set ROS_DOMAIN_ID to 0 … 101, the same on all machines (above, ports collide)"
        )
    return Finding("ROS domain", OK, said)


def dds_profile(variable: str, segment: int | None, rmw: str, transport: str) -> Finding:
    """Whether Fast DDS has room for camera frames. segment: what the profile's file says; None: no file, or no word."""
    name = "DDS profile"
    if "fastrtps" not in rmw:
        return Finding(name, SKIP, f"{rmw} does not read Fast DDS profiles")
    remedy = (
        "`source env.bash`, or export FASTRTPS_DEFAULT_PROFILES_FILE=…/config/dds/fastdds.xml, "
        "in this shell AND in the camera driver's; then start both again"
    )
    if transport == "compressed":
        return Finding(name, SKIP, "compressed images fit without one")
    if not variable:
        return Finding(name, BAD, "none: raw images do not fit Fast DDS's shared memory, frames get lost", remedy)
    if segment is None or segment <= DEFAULT_SEGMENT:
        size = "no shared-memory segment" if segment is None else f"a segment of {segment / 2**20:g} MiB"
        return Finding(name, BAD, f"{variable} sets {size}", remedy)
    return Finding(name, OK, f"shared memory of {segment / 2**20:g} MiB ({variable})")


def disk(free: float, folder: str) -> Finding:
    """Room for recordings and logs. free: bytes."""
    said = f"{free / 1e9:.0f} GB free in {folder}"
    if free < LEAST_DISK:
        return Finding("disk", BAD, said, f"make room: less than {LEAST_DISK / 1e9:.0f} GB do not hold an hour of bags")
    return Finding("disk", OK, said)


def clock(synchronised: bool | None, source: str, skew: float | None) -> Finding:
    """Whether this machine's clock is true. skew [s]: age of the newest image's stamp; None: none, or simulated."""
    if synchronised:
        return Finding("clock", OK, f"synchronised ({source})")
    if synchronised is False:
        return Finding(
            "clock", BAD, f"not synchronised ({source})", "install chrony on every machine; `chronyc tracking` tells"
        )
    if skew is None:
        return Finding("clock", SKIP, "neither timedatectl nor chronyc tells, nor do stamps of real time")
    if skew < -SKEW:
        return Finding(
            "clock", BAD, f"no word from timedatectl or chronyc; the camera's stamps are {-skew:.3f} s ahead",
            "apt install chrony on every machine, with the same server",
        )  # fmt: skip
    return Finding("clock", OK, f"no word from timedatectl or chronyc; newest image {1e3 * skew:.0f} ms old on arrival")


# ---- the stack -------------------------------------------------------------------------------------


def nodes(states: Mapping[str, str]) -> Finding:
    """Lifecycle states by node; '' where nobody answers."""
    said = ", ".join(f"{name} {state or 'absent'}" for name, state in states.items())
    absent = [name for name, state in states.items() if not state]
    idle = [name for name, state in states.items() if state and state != "active"]
    if absent:
        return Finding("nodes", BAD, said, f"start the stack (ros2 launch openvla_ros …); missing: {', '.join(absent)}")
    if idle:
        return Finding("nodes", BAD, said, f"the log of {idle[0]} says why; then start the stack again")
    return Finding("nodes", OK, said)


def camera_rate(images: Stream, needed: float, others: Sequence[str], simulated: bool) -> Finding:
    """At least one new image for each action. needed [Hz]; others: topics that do carry images."""
    name = "camera rate"
    if not images.publishers:
        there = f"; images are on: {', '.join(others)}" if others else ""
        return Finding(
            name, BAD, f"nobody publishes {images.topic}{there}",
            "start the camera's driver, or set image.topic in config/cameras/*.yaml",
        )  # fmt: skip
    rate = images.rate(by_stamps=simulated)
    if len(images.arrivals) < FEW:
        return Finding(
            name, BAD, f"{len(images.arrivals)} images on {images.topic} in {images.listened:.1f} s",
            "look at the driver's log and its cable; a driver on another machine must share the ROS domain",
        )  # fmt: skip
    said = f"{rate:.1f} Hz on {images.topic}, {needed:g} Hz needed"
    if rate < needed * (1 - LOST):
        return Finding(name, BAD, said, "raise the driver's frame rate, lower its resolution, or use a USB 3 port")
    return Finding(name, OK, said)


def camera_stamps(images: Stream, max_age: float, future: float) -> Finding:
    """Stamps on our clock, that move."""
    name = "camera stamps"
    if not images.ages:
        return Finding(name, SKIP, "no images")
    low, high = min(images.ages), max(images.ages)
    said = f"{1e3 * low:.0f} … {1e3 * high:.0f} ms old on arrival"
    if len(set(images.stamps)) < len(images.stamps):
        return Finding(name, BAD, "the same stamp came twice: the picture is frozen", "restart the camera's driver")
    if low < -future:
        return Finding(name, BAD, said, "synchronise the clocks (chrony), or let the driver stamp with this one")
    if high > max_age:
        return Finding(
            name, BAD, f"{said}, limit {1e3 * max_age:.0f} ms",
            "synchronise the clocks (chrony), or let the driver stamp with this one; then image.max_age",
        )  # fmt: skip
    return Finding(name, OK, said)


def image_transport(images: Stream, transport: str) -> Finding:
    """Whether frames get lost on the way, by the gaps of their stamps."""
    name = "image transport"
    if len(images.stamps) <= FEW:
        return Finding(name, SKIP, "too few images to tell")
    how = "reliable" if images.reliable else "best effort"
    said = f"{transport}, {how}, {images.size / 1e3:.0f} kB: {100 * images.lost():.1f} % of the frames lost"
    if images.lost() > LOST:
        return Finding(
            name, BAD, said,
            "use the DDS profile (row above) where the driver runs, or image.transport: compressed, "
            "or a reliable publisher",
        )  # fmt: skip
    return Finding(name, OK, said)


def robot_state(streams: Sequence[Stream], limit: float) -> Finding:
    """The robot's measurements. limit [s]: the bridge's watchdog.state."""
    name = "robot state"
    if not streams:
        return Finding(name, SKIP, "no bridge is configured: its topics are not known")
    dead = [s.topic for s in streams if not s.publishers]
    if dead:
        return Finding(name, BAD, f"nobody publishes {', '.join(dead)}", "start the robot's driver, unlock the arm")
    rates = ", ".join(f"{s.topic} {s.rate():.0f} Hz" for s in streams)
    worst = max(streams, key=Stream.silence)
    if worst.silence() >= limit:
        return Finding(
            name, BAD, f"{rates}; {worst.topic} was silent for {worst.silence():.2f} s, limit {limit:g} s",
            "look at the robot driver's log and the machine's load; a real-time kernel helps on a Franka",
        )  # fmt: skip
    return Finding(name, OK, rates)


def controllers(commands: Mapping[str, Sequence[str]], states: Mapping[str, str], unknown: str) -> Finding:
    """Whether somebody takes the bridge's commands.

    commands: topic -> its listeners; states: of the controller_managers' controllers (both by full node name, which a
    controller's is); unknown: why there are no states. A controller may listen already while it is inactive.
    """
    name = "controllers"
    if not commands:
        return Finding(name, SKIP, "no bridge is configured: its topics are not known")
    deaf = [topic for topic, listeners in commands.items() if not listeners]
    active, idle = (
        [one for one, state in states.items() if (state == ACTIVE) is wanted] for wanted in (True, False)
    )  # fmt: skip
    listed = [f"active: {', '.join(map(_short, active)) or 'none'}"] if states else [unknown]
    listed += [f"not active: {', '.join(f'{_short(one)} ({states[one]})' for one in idle)}"] if idle else []
    said = f"{', '.join(t for t in commands if t not in deaf) or 'nothing'} heard; {'; '.join(listed)}"
    for topic, listeners in commands.items():
        if listeners and all(one in idle for one in listeners):
            return Finding(
                name, BAD, f"{topic} is heard only by {', '.join(map(_short, listeners))}, not active; {said}",
                _activate(listeners[0]),
            )  # fmt: skip
    if deaf:
        what = f"activate {', '.join(map(_short, idle))}" if idle else "load and activate the robot's controller"
        return Finding(name, BAD, f"nobody listens to {', '.join(deaf)}; {'; '.join(listed)}", what)
    if states and not active:
        return Finding(name, BAD, said, _activate(idle[0]))
    if unknown not in ("", NO_MANAGER):
        return Finding(name, SKIP, f"{said}: whether a controller is active is not known")
    return Finding(name, OK, said)


def _activate(controller: str) -> str:
    namespace, _, short = controller.rpartition("/")
    manager = f" -c {namespace}/controller_manager" if namespace else ""
    return f"ros2 control set_controller_state{manager} {short} active"


def _short(node: str) -> str:
    return node if node.count("/") > 1 else node.lstrip("/")


def gate(state: str, reason: str, node: str = "bridge_node") -> Finding:
    """The safety gate; '' when it was not heard."""
    name, said = "safety gate", f"{state}: {reason}" if reason else state
    if not state:
        return Finding(name, BAD, "safety/state was not heard", "start the bridge; its log says what is wrong")
    if state in (READY, EXECUTING):
        return Finding(name, OK, said)
    if state == ESTOP:
        return Finding(
            name, BAD, said,
            f"release the button, then ros2 service call {node}/reset_e_stop openvla_msgs/srv/ResetEStop "
            "'{operator_name: YOU}'",
        )  # fmt: skip
    if reason == "not enabled":
        return Finding(name, SKIP, f"{said} (as it should be until you allow motion: {node}/enable)")
    remedy = "activate the bridge: its log says what is wrong" if state != HOLD else "mend what the reason names"
    if "button" in reason:
        remedy = "hold the deadman's button while the robot may move"
    return Finding(name, BAD, said, remedy)


# ---- the policy ------------------------------------------------------------------------------------


def checkpoint(where: str, problem: str, stored: float = 0.0) -> Finding:
    """What its files say. problem: '' when they fit together; stored: bytes of weights."""
    if problem:
        return Finding("checkpoint", BAD, problem, "set `checkpoint` to a complete folder, or copy it again")
    return Finding("checkpoint", OK, f"{where}, {_size(stored)} of weights, names and shapes as its config says")


def served(url: str, where: str, problem: str, remedy: str) -> Finding:
    """What a policy server says of itself. problem, with its remedy: why it cannot be used; '' when it can."""
    if problem:
        return Finding("checkpoint", BAD, f"the policy server cannot be used: {problem}", remedy)
    return Finding("checkpoint", OK, f"{where or 'a checkpoint without a name'}, at the policy server {url}")


def unnorm_key(wanted: str, has: Sequence[str]) -> Finding:
    """The statistics that turn tokens into metres."""
    name = "unnorm_key"
    if wanted in has or (not wanted and len(has) == 1):
        return Finding(name, OK, wanted or f"{has[0]} (the only one)")
    said = f"'{wanted}' is not in the checkpoint" if wanted else "not set, and the checkpoint has several"
    return Finding(name, BAD, said, f"set `unnorm_key` to one of: {', '.join(sorted(has)) or '(it has none at all)'}")


def memory(needed: float, free: float, device: str, precision: str, loaded: bool) -> Finding:
    """Weights with headroom against what is free on the policy's device [bytes]. loaded: the policy has its share."""
    need = needed * HEADROOM
    said = f"{precision} takes about {_size(need)} on {device}, {_size(free)} free"
    if loaded:
        return Finding("policy memory", OK, f"{said} (and the policy is loaded already)")
    if need > free:
        return Finding(
            "policy memory", BAD, said, "end what else is there, or take precision bf16, int8, int4, or a policy server"
        )
    return Finding("policy memory", OK, said)


def policy_rate(latency: float | None, source: str, wanted: float, streaming: bool, oldest: float) -> Finding:
    """Predicted rate (1 / latency) against the control rate [Hz]; oldest [s]: watchdog.observation."""
    name = "policy rate"
    if latency is None:
        return Finding(name, SKIP, "no prediction yet: --policy measures some, or give the stack an instruction")
    said = f"{1 / latency:.1f} Hz predicted ({1e3 * latency:.0f} ms, {source}), control at {wanted:g} Hz"
    faster = "a faster runtime (static, draft), precision or GPU, or a policy server"
    if latency > oldest:
        return Finding(name, BAD, f"{said}; the gate takes images of at most {oldest:g} s", faster)
    if streaming and 1 / latency < wanted:
        return Finding(name, BAD, said, f"{faster}; or lower `rate`, or control_mode: blocking")
    slow = "" if streaming or 1 / latency >= wanted else "; blocking control waits for it: slower, and safe"
    return Finding(name, OK, said + slow)


def _size(amount: float) -> str:
    return f"{amount / 1e9:.2f} GB" if amount >= 1e9 else f"{amount / 1e6:.1f} MB"


def python_version() -> tuple[int, int]:
    """Of this interpreter."""
    return sys.version_info[0], sys.version_info[1]
