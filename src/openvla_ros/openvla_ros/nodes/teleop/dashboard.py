"""The operator's dashboard in the terminal: whether the arm follows or why not, gripper, gate and episode."""

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

REFRESH = 8  # [Hz] of the dashboard
POLL_RATE = 50  # [Hz] of calls of `Dashboard.update`


@dataclass(frozen=True)
class DashboardState:
    """State of the node at one moment.

    Attributes:
        active: Whether the node is active.
        guiding: Whether the arm is guided by hand, so that no actions are sent.
        device: The device.
        frame: Axes along which it moves the arm.
        state: What the arm does, or why it does not move.
        action: The newest action; None without one.
        gripper: Commanded opening, 0 closed … 1 open; None while unknown.
        speed: Full speed [m/s, rad/s].
        button: '', 'slow' or 'fast'.
        safety: The bridge's state; None without a bridge.
        instruction: The instruction of the episode.
        recorder: The recorder's status; None without a recorder.
        news: The newest event, in one line.
    """

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


class Dashboard:
    """A few lines that stay in place while the node runs."""

    def __init__(self, keyboard: bool, console: Console | None = None) -> None:
        self._live = Live(console=console or Console(highlight=False), auto_refresh=False, transient=False)
        if keyboard:
            self._live.console.print(HELP, style="dim", markup=False)
        self._live.start()
        self._frame = 0

    def update(self, state: DashboardState) -> None:
        """Show the state; called at the poll rate, it draws at the lower rate `REFRESH`."""
        self._frame += 1
        if self._frame % max(1, round(POLL_RATE / REFRESH)) == 0:
            self._live.update(lines(state), refresh=True)

    def close(self) -> None:
        """Stop updating; the last state stays in the terminal."""
        self._live.stop()


def lines(state: DashboardState) -> Group:
    """The lines of the dashboard."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    style = "bold green" if state.action is not None else "default" if state.active else "yellow"
    table.add_row("arm", Text(state.state, style=style).append(f"  {motion(state.action)}", style="default"))
    if not state.guiding:
        linear, angular = state.speed
        gripper = "unknown" if state.gripper is None else "open" if state.gripper >= 0.5 else "closed"
        button = f"  {state.button}" if state.button else ""
        axes = f"{state.device} along the {state.frame.replace('_', ' ')}'s axes"
        table.add_row("gripper", Text(f"{gripper}    speed {linear:g} m/s, {angular:g} rad/s{button}    {axes}"))
        table.add_row("gate", gate(state.safety))
    table.add_row("task", Text(f"“{state.instruction}”" if state.instruction else "no instruction yet"))
    table.add_row("episode", episode_line(state.recorder))
    if state.recorder is not None:
        table.add_row("session", session_line(state.recorder))
    if state.news:
        table.add_row("", Text(state.news, style="italic"))
    return Group(table)


def gate(safety: SafetyState | None) -> Text:
    """State of the safety gate with its reason."""
    if safety is None:
        return Text("no bridge", style="yellow")
    bad = safety.state in (SafetyState.HOLD, SafetyState.ESTOP)
    name = SAFETY_NAMES.get(safety.state, str(safety.state))
    style = "bold red" if safety.state == SafetyState.ESTOP else "yellow" if bad else "default"
    clipped = f"  (clipped: {', '.join(safety.clipped)})" if safety.clipped else ""
    return Text(f"{name}  {safety.reason}{clipped}".rstrip() + f"  {safety.control_mode}", style=style)


def motion(action: tuple[float, ...] | None) -> str:
    """An action for a person: `x +10 mm  yaw -3.0°`."""
    if action is None:
        return ""
    moves = [f"{n} {1000 * v:+.0f} mm" for n, v in zip("xyz", action[:3], strict=True) if abs(v) >= 5e-4]
    turns = [
        f"{n} {math.degrees(v):+.1f}°"
        for n, v in zip(("roll", "pitch", "yaw"), action[3:6], strict=True)
        if abs(v) >= 1e-3
    ]
    return "  ".join(moves + turns)
