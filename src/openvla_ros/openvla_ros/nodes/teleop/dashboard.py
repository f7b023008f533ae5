"""What the operator sees in the terminal: whether the arm follows, and if not why; the hand, the gate, the episode."""

from __future__ import annotations

import math
from dataclasses import dataclass

from openvla_msgs.msg import RecorderStatus, SafetyState
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from openvla_ros.nodes.common.action_messages import SAFETY_NAMES
from openvla_ros.nodes.recorder.status_text import episode_line, session_line
from openvla_ros.teleop.keyboard import HELP

REFRESH = 8  # a second


@dataclass(frozen=True)
class Shown:
    """One look at the node."""

    active: bool
    guiding: bool
    device: str
    frame: str
    state: str
    action: tuple[float, ...] | None
    gripper: float | None
    speed: tuple[float, float]
    button: str
    safety: SafetyState | None
    instruction: str
    recorder: RecorderStatus | None
    news: str


class Face:
    """A few lines that stay in place while the node runs."""

    def __init__(self, keyboard: bool, console: Console | None = None) -> None:
        self._live = Live(console=console or Console(highlight=False), auto_refresh=False, transient=False)
        if keyboard:
            self._live.console.print(HELP, style="dim", markup=False)
        self._live.start()
        self._frame = 0

    def show(self, shown: Shown) -> None:
        """Called at the poll rate; draws some of the times."""
        self._frame += 1
        if self._frame % max(1, round(50 / REFRESH)) == 0:
            self._live.update(lines(shown), refresh=True)

    def close(self) -> None:
        """Leave the last state standing."""
        self._live.stop()


def lines(shown: Shown) -> Group:
    """The face's lines."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    moving = shown.action is not None
    style = "bold green" if moving else "default" if shown.active else "yellow"
    table.add_row("arm", Text(shown.state, style=style).append(f"  {motion(shown.action)}", style="default"))
    if not shown.guiding:
        linear, angular = shown.speed
        hand = "unknown" if shown.gripper is None else "open" if shown.gripper >= 0.5 else "closed"
        how = f"  {shown.button}" if shown.button else ""
        table.add_row("hand", Text(f"{hand}    speed {linear:g} m/s, {angular:g} rad/s{how}    {shown.device} along "
                                   f"the {shown.frame.replace('_', ' ')}'s axes"))  # fmt: skip
        table.add_row("gate", gate(shown.safety))
    table.add_row("task", Text(f"“{shown.instruction}”" if shown.instruction else "no instruction yet"))
    table.add_row("episode", episode_line(shown.recorder))
    if shown.recorder is not None:
        table.add_row("session", session_line(shown.recorder))
    if shown.news:
        table.add_row("", Text(shown.news, style="italic"))
    return Group(table)


def gate(safety: SafetyState | None) -> Text:
    """The safety gate's state with its reason."""
    if safety is None:
        return Text("no bridge heard", style="yellow")
    bad = safety.state in (SafetyState.HOLD, SafetyState.ESTOP)
    name = SAFETY_NAMES.get(safety.state, str(safety.state))
    style = "bold red" if safety.state == SafetyState.ESTOP else "yellow" if bad else "default"
    clipped = f"  (clipped: {', '.join(safety.clipped)})" if safety.clipped else ""
    return Text(f"{name}  {safety.reason}{clipped}".rstrip() + f"  {safety.control_mode}", style=style)


def motion(action: tuple[float, ...] | None) -> str:
    """The action as a person reads it: `x +10 mm  yaw -3.0°`."""
    if action is None:
        return ""
    moves = [f"{n} {1000 * v:+.0f} mm" for n, v in zip("xyz", action[:3], strict=True) if abs(v) >= 5e-4]
    turns = [
        f"{n} {math.degrees(v):+.1f}°"
        for n, v in zip(("roll", "pitch", "yaw"), action[3:6], strict=True)
        if abs(v) >= 1e-3
    ]
    return "  ".join(moves + turns)
