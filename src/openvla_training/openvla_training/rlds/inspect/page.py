"""The report as one HTML page with the pictures inside: nothing to load, so it can be mailed or archived."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from openvla_training.rlds.inspect.figures import action_histograms, contact_sheet, lengths_and_idleness, trajectories
from openvla_training.rlds.inspect.quality import ACTION_NAMES, Inspection

MAX_SHEETS, MAX_ROWS = 24, 200
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #fff; margin: 2rem auto; max-width: 68rem;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .5rem; }
p.path { color: #616e7c; margin: .2rem 0 1.2rem; word-break: break-all; }
.facts { display: flex; flex-wrap: wrap; gap: .75rem; }
.facts div { border: 1px solid #e4e7eb; border-radius: .4rem; padding: .5rem .9rem; }
.facts b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.warn { border-left: 4px solid #c2410c; background: #fff4ed; padding: .5rem 1rem; margin: 1.2rem 0; }
.fine { border-left: 4px solid #3f8f5f; background: #f0f7f2; padding: .5rem 1rem; margin: 1.2rem 0; }
.warn ul { margin: .3rem 0; padding-left: 1.2rem; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #e4e7eb; padding: .25rem .8rem .25rem 0; text-align: right; vertical-align: top; }
th:first-child, td:first-child, td.text { text-align: left; word-break: break-word; }
img { max-width: 100%; } figure { margin: 0 0 1rem; } figcaption { font-size: 13px; color: #3e4c59; }
details { margin: .5rem 0; }
"""


def page(found: Inspection) -> str:
    """Return the page's HTML."""
    facts = found.to_json()
    steps = facts["episode_steps"]
    cards = {
        "episodes": " + ".join(f"{number} {split}" for split, number in found.splits.items()),
        "steps": f"{facts['steps']:,}",
        "steps an episode": f"{steps['min']} – {steps['median']:g} – {steps['max']}",
        "instructions": str(len(facts["instructions"])),
        "idle": f"{facts['idle_fraction']:.0%}",
        "outcomes": ", ".join(f"{number} {outcome}" for outcome, number in facts["outcomes"].items()),
    }
    parts = [
        f"<h1>{escape(found.name)}</h1><p class=path>{escape(str(found.folder))}</p>",
        "<div class=facts>" + "".join(f"<div><b>{escape(v)}</b>{escape(k)}</div>" for k, v in cards.items()) + "</div>",
        _warnings(found.warnings),
        "<h2>Actions</h2>",
        _picture(
            action_histograms(found), "Histograms of the seven numbers of an action; counts on a logarithmic axis"
        ),
        _statistics(found),
        "<h2>Where the end effector went</h2>",
        _picture(
            trajectories(found), "Paths of the end effector; a dot where an episode begins, a cross where it ends"
        ),
        "<h2>First and last frames</h2>",
        *_sheets(found),
        "<h2>Episodes</h2>",
        _picture(lengths_and_idleness(found), "Lengths and idle shares of the episodes"),
        _episodes(found),
        "<h2>Timing and losses</h2>",
        _timing(found),
        "<h2>Left out</h2>",
        _left_out(found),
        "<h2>Settings</h2>",
        _table(("setting", "value"), [(key, str(value)) for key, value in found.settings.items()]),
    ]
    body = "\n".join(parts)
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{escape(found.name)}: dataset report</title>"
        f"<style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def _warnings(said: Sequence[str]) -> str:
    if not said:
        return "<div class=fine>Nothing looks wrong.</div>"
    return (
        "<div class=warn><b>Look at this first</b><ul>" + "".join(f"<li>{escape(s)}</li>" for s in said) + "</ul></div>"
    )


def _picture(data: bytes, caption: str) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    encoded = base64.b64encode(data).decode()
    text = escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/{kind};base64,{encoded}"><figcaption>{text}</figcaption></figure>'
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    def cells(row: Sequence[object]) -> str:
        return "".join(
            f"<td class=text>{escape(value)}</td>" if isinstance(value, str) else f"<td>{value}</td>" for value in row
        )

    lines = "".join(f"<tr>{cells(row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{lines}</table>"


def _statistics(found: Inspection) -> str:
    action = found.statistics.action
    head = ("", "mean", "std", "q01", "q99", "min", "max", "at its limit")
    columns = (action.mean, action.std, action.q01, action.q99, action.min, action.max)
    saturated = [f"{share:.1%}" for share in found.saturated] + ["–"]
    rows = [
        (name, *(_Number(f"{column[index]:.4f}") for column in columns), _Number(saturated[index]))
        for index, name in enumerate(ACTION_NAMES)
    ]
    return _table(head, rows)


class _Number:
    """A formatted number: set to the right, as numbers are."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


def _sheets(found: Inspection) -> list[str]:
    counts = Counter(one.instruction for one in found.episodes)
    drawn = [
        _picture(contact_sheet(found.first_last[text]), f"{text} ({number} episodes; first frames above, last below)")
        for text, number in counts.most_common(MAX_SHEETS)
    ]
    rest = len(counts) - MAX_SHEETS
    return [*drawn, f"<p>and {rest} more instructions</p>"] if rest > 0 else drawn


def _episodes(found: Inspection) -> str:
    rows = [
        (one.episode_id, one.split, one.instruction, one.outcome, one.steps, _Number(f"{one.idle:.0%}"),
         "yes" if one.closes else "no")
        for one in found.episodes[:MAX_ROWS]
    ]  # fmt: skip
    table = _table(("episode", "split", "instruction", "outcome", "steps", "idle", "gripper closes"), rows)
    more = f" (the first {MAX_ROWS})" if len(found.episodes) > MAX_ROWS else ""
    return f"<details><summary>All {len(found.episodes)} episodes{more}</summary>{table}</details>"


def _timing(found: Inspection) -> str:
    if not found.skew:
        return "<p>Not known: the dataset was not converted from bags by openvla-convert.</p>"
    rows = [
        (name, _Number(f"{1e3 * values['mean']:.1f}"), _Number(f"{1e3 * values['max']:.1f}"))
        for name, values in found.skew.items()
    ]
    lost = [(topic, number) for topic, number in found.lost.items()]
    return (
        _table(("distance in time from the frame [ms]", "mean", "largest"), rows)
        + f"<p>Gaps in the video: {found.gaps}. Messages that the recorder lost: "
        + (
            f"{int(np.sum([number for _, number in lost]))}.</p>" + _table(("topic", "lost"), lost)
            if lost
            else "0.</p>"
        )
    )


def _left_out(found: Inspection) -> str:
    parts = []
    if found.left_out:
        parts.append(_table(("steps left out because", "steps"), list(found.left_out.items())))
    if found.dropped:
        parts.append(_table(("episode dropped", "why"), list(found.dropped.items())[:MAX_ROWS]))
    if found.bad:
        parts.append(_table(("bad bag or episode", "why"), list(found.bad.items())[:MAX_ROWS]))
    return "<br>".join(parts) or "<p>Nothing.</p>"
