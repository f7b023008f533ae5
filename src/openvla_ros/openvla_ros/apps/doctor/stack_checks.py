"""Checks of a running stack: pure functions from facts to findings with remedies. No ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from openvla_ros.apps.doctor.finding import BAD, OK, SKIP, Finding
from openvla_ros.apps.doctor.stream import FEW, Stream

LOST = 0.02  # share of frames that may be lost
READY, EXECUTING, HOLD, ESTOP = "READY", "EXECUTING", "HOLD", "ESTOP"
ACTIVE = "active"
# Reasons why no controller's state is known.
NO_MANAGER = "no controller_manager in the graph"
NO_MANAGER_MESSAGES = "controller_manager_msgs is not installed (sudo apt install ros-jazzy-controller-manager-msgs)"
MANAGER_SILENT = "the controller_manager does not answer, or has loaded no controller"


def nodes(states: Mapping[str, str]) -> Finding:
    """Lifecycle states by node; '' for a node that does not answer."""
    found = ", ".join(f"{name} {state or 'absent'}" for name, state in states.items())
    absent = [name for name, state in states.items() if not state]
    idle = [name for name, state in states.items() if state and state != ACTIVE]
    if absent:
        remedy = f"start the stack (ros2 launch openvla_ros …); missing: {', '.join(absent)}"
        return Finding("nodes", BAD, found, remedy)
    if idle:
        return Finding("nodes", BAD, found, f"read the reason in the log of {idle[0]}; then restart the stack")
    return Finding("nodes", OK, found)


def camera_rate(images: Stream, needed: float, others: Sequence[str], simulated: bool) -> Finding:
    """Whether there is a new image for each action.

    Args:
        images: The policy's image topic.
        needed: Actions per second [Hz].
        others: Other topics with images.
        simulated: Measure the rate in simulated time.

    Returns:
        The finding.
    """
    name = "camera rate"
    if not images.publishers:
        elsewhere = f"; images are on: {', '.join(others)}" if others else ""
        return Finding(
            name,
            BAD,
            f"no publisher on {images.topic}{elsewhere}",
            "start the camera's driver, or set image.topic in config/cameras/*.yaml",
        )
    rate = images.rate(by_stamps=simulated)
    if len(images.arrivals) < FEW:
        return Finding(
            name,
            BAD,
            f"{len(images.arrivals)} images on {images.topic} in {images.listened:.1f} s",
            "check the driver's log and its cable; a driver on another machine must use the same ROS domain",
        )
    found = f"{rate:.1f} Hz on {images.topic}, {needed:g} Hz needed"
    if rate < needed * (1 - LOST):
        return Finding(name, BAD, found, "raise the driver's frame rate, lower its resolution, or use a USB 3 port")
    return Finding(name, OK, found)


def camera_stamps(images: Stream, max_age: float, future: float) -> Finding:
    """Whether stamps advance and agree with this machine's clock.

    Args:
        images: The policy's image topic.
        max_age: The policy's image.max_age [s].
        future: The bridge's watchdog.future [s].

    Returns:
        The finding.
    """
    name = "camera stamps"
    if not images.ages:
        return Finding(name, SKIP, "no images")
    low, high = min(images.ages), max(images.ages)
    found = f"{1e3 * low:.0f} … {1e3 * high:.0f} ms old on arrival"
    if len(set(images.stamps)) < len(images.stamps):
        return Finding(name, BAD, "two images have the same stamp: the image is frozen", "restart the camera's driver")
    if low < -future:
        return Finding(name, BAD, found, "synchronise the clocks (chrony), or let the driver stamp with this clock")
    if high > max_age:
        return Finding(
            name,
            BAD,
            f"{found}, limit {1e3 * max_age:.0f} ms",
            "synchronise the clocks (chrony), or let the driver stamp with this clock; else raise image.max_age",
        )
    return Finding(name, OK, found)


def image_transport(images: Stream, transport: str) -> Finding:
    """Whether images are lost between the driver and this machine, by the gaps between their stamps."""
    name = "image transport"
    if len(images.stamps) <= FEW:
        return Finding(name, SKIP, "too few images to measure")
    how = "reliable" if images.reliable else "best effort"
    found = f"{transport}, {how}, {images.size / 1e3:.0f} kB: {100 * images.lost():.1f} % of the frames lost"
    if images.lost() > LOST:
        return Finding(
            name,
            BAD,
            found,
            "use the DDS profile (row above) where the driver runs, image.transport: compressed, "
            "or a reliable publisher",
        )
    return Finding(name, OK, found)


def robot_state(streams: Sequence[Stream], limit: float) -> Finding:
    """Whether the robot's measurements arrive within the bridge's watchdog.state [s]."""
    name = "robot state"
    if not streams:
        return Finding(name, SKIP, "no bridge is running, its topics are unknown")
    dead = [s.topic for s in streams if not s.publishers]
    if dead:
        return Finding(name, BAD, f"no publisher on {', '.join(dead)}", "start the robot's driver, unlock the arm")
    rates = ", ".join(f"{s.topic} {s.rate():.0f} Hz" for s in streams)
    worst = max(streams, key=Stream.silence)
    if worst.silence() >= limit:
        return Finding(
            name,
            BAD,
            f"{rates}; {worst.topic} was silent for {worst.silence():.2f} s, limit {limit:g} s",
            "check the robot driver's log and the machine's load; a Franka needs a real-time kernel",
        )
    return Finding(name, OK, rates)


def controllers(commands: Mapping[str, Sequence[str]], states: Mapping[str, str], unknown: str) -> Finding:
    """Whether an active controller receives the bridge's commands.

    Args:
        commands: Topic -> full names of its subscribers. A controller may subscribe while it is inactive.
        states: Full node name -> state, of the controller_managers' controllers.
        unknown: Why there are no states; '' when there are.

    Returns:
        The finding.
    """
    name = "controllers"
    if not commands:
        return Finding(name, SKIP, "no bridge is running, its topics are unknown")
    unread = [topic for topic, subscribers in commands.items() if not subscribers]
    active = [one for one, state in states.items() if state == ACTIVE]
    idle = [one for one, state in states.items() if state != ACTIVE]
    listed = [f"active: {', '.join(map(_short, active)) or 'none'}"] if states else [unknown]
    listed += [f"not active: {', '.join(f'{_short(one)} ({states[one]})' for one in idle)}"] if idle else []
    read = ", ".join(topic for topic in commands if topic not in unread)
    found = f"subscribers on {read or 'no topic'}; {'; '.join(listed)}"
    for topic, subscribers in commands.items():
        if subscribers and all(one in idle for one in subscribers):
            return Finding(
                name,
                BAD,
                f"only {', '.join(map(_short, subscribers))} subscribes to {topic}, and is not active; {found}",
                _activate(subscribers[0]),
            )
    if unread:
        remedy = f"activate {', '.join(map(_short, idle))}" if idle else "load and activate the robot's controller"
        return Finding(name, BAD, f"no subscriber on {', '.join(unread)}; {'; '.join(listed)}", remedy)
    if states and not active:
        return Finding(name, BAD, found, _activate(idle[0]))
    if unknown not in ("", NO_MANAGER):
        return Finding(name, SKIP, f"{found}: whether a controller is active is unknown")
    return Finding(name, OK, found)


def _activate(controller: str) -> str:
    namespace, _, short = controller.rpartition("/")
    manager = f" -c {namespace}/controller_manager" if namespace else ""
    return f"ros2 control set_controller_state{manager} {short} active"


def _short(node: str) -> str:
    return node if node.count("/") > 1 else node.lstrip("/")


def gate(state: str, reason: str, node: str = "bridge_node") -> Finding:
    """The safety gate's state and reason; '' when nothing was received on safety/state."""
    name, found = "safety gate", f"{state}: {reason}" if reason else state
    if not state:
        return Finding(
            name, BAD, "nothing received on safety/state", "start the bridge; its log has the reason if it fails"
        )
    if state in (READY, EXECUTING):
        return Finding(name, OK, found)
    if state == ESTOP:
        remedy = (
            f"release the button, then ros2 service call {node}/reset_e_stop openvla_msgs/srv/ResetEStop "
            "'{operator_name: YOU}'"
        )
        return Finding(name, BAD, found, remedy)
    if reason == "not enabled":
        return Finding(name, SKIP, f"{found} (as it should be until you allow motion: {node}/enable)")
    remedy = "activate the bridge; its log has the reason" if state != HOLD else "fix what the reason names"
    if "button" in reason:
        remedy = "hold the deadman button while the robot may move"
    return Finding(name, BAD, found, remedy)
