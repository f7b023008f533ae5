"""A recorder's status as lines for a terminal; shared by the teleoperation's dashboard and `openvla-record`."""

from __future__ import annotations

from openvla_msgs.msg import RecorderStatus
from rich.table import Table
from rich.text import Text

GIB = 2**30


def episode_line(status: RecorderStatus | None) -> Text:
    """The episode being recorded, or why none can start."""
    if status is None:
        return Text("no recorder", style="yellow")
    if status.state in ("recording", "marking"):
        line = Text("● ", style="bold red").append(f"{status.state} {status.duration:.1f} s  ", style="bold")
        line.append(f"“{status.instruction}”  {status.messages} messages, {status.bytes / 2**20:.0f} MiB")
    elif status.missing:
        line = Text(f"not ready: no publisher of {', '.join(status.missing)}", style="yellow")
    else:
        idle = status.state == "idle"
        line = Text("ready" if idle else status.state, style="green" if idle else "")
    dropped = sum(status.dropped)
    if dropped:
        line.append(f"  {dropped} DROPPED", style="bold red")
    return line


def session_line(status: RecorderStatus) -> Text:
    """Counters, target, free disk space and write rate."""
    wanted = f" of {status.target}" if status.target else ""
    line = Text(f"{status.success}{wanted} successes", style="green")
    line.append(f", {status.failure} failures, {status.discard} discarded", style="default")
    if status.unfinished:
        line.append(f", {status.unfinished} unfinished", style="yellow")
    line.append(f"  ·  {status.free_gib:.1f} GiB left", style="yellow" if status.free_gib < 5 else "default")
    if status.time_left >= 0:
        line.append(f", {duration(status.time_left)} at {status.write_rate / 1e6:.1f} MB/s")
    if status.backlog > 2**23:
        line.append(f"  ·  {status.backlog / 2**20:.0f} MiB wait for the disk", style="yellow")
    return line


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3.5 h`, `over 4 days`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 4 * 86400 else "over 4 days"


def topic_table(status: RecorderStatus) -> Table:
    """One row a topic: rate, messages received, dropped and missing."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, justify in (("topic", "left"), ("Hz", "right"), ("received", "right"), ("dropped", "right"),
                          ("gaps", "right")):  # fmt: skip
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    rows = zip(status.topics, status.rates, status.received, status.dropped, status.gaps, strict=True)
    for topic, rate, received, dropped, gaps in rows:
        table.add_row(
            topic, f"{rate:.1f}" if rate else "·", str(received),
            Text(str(dropped), style="bold red" if dropped else "dim"),
            Text(str(gaps), style="yellow" if gaps else "dim"),
        )  # fmt: skip
    for topic in status.missing:
        table.add_row(topic, Text("no publisher", style="yellow"), "", "", "")
    return table
