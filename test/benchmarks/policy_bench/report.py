"""The results as tables in the terminal and as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from .agreement import table as agreement_table
from .cost import STAGES
from .measure import PARTS

COLOURS = {
    "preparation": "#9aa5b1",
    "vision": "#3a7ca5",
    "prefill": "#e09f3e",
    "decode": "#9e2a2b",
    "detokenise": "#4b4b4b",
}


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    machine, model = result["machine"], result["model"]
    rates = ", ".join(f"{name} {rate / 1e12:.2f}" for name, rate in machine["rates"].items())
    wide = machine["bandwidth"]
    title = (
        f"{model['name']}, {model['parameters'] / 1e6:.0f} M random parameters, on {machine['device']} "
        f"({machine['threads']} threads)\nmeasured: memory {wide['triad'] / 1e9:.1f} GB/s triad, "
        f"{wide['read'] / 1e9:.1f} GB/s read; matrix products [TOP/s] {rates}"
    )
    speed, memory = Table(title=title, title_justify="left"), Table()
    for table in (speed, memory):
        table.add_column("precision")
        table.add_column("runtime")
    for column in (*PARTS, "total p50", "p95"):
        speed.add_column(f"{column}\nms", justify="right")
    for column in ("actions\n1/s", "× refe-\nrence", "× gene-\nrate"):
        speed.add_column(column, justify="right")
    for column in (*(f"{stage}\nfloor" for stage in STAGES), "of total\nms", "share\n%", "MB per\nstep"):
        memory.add_column(column, justify="right")
    for column in ("read\nGB/s", "weights\nMB", "peak\nMB", "≠ eager"):
        memory.add_column(column, justify="right")
    last = result["rows"][0]["precision"]
    for row in _measured_once(result["rows"]):
        if row["precision"] != last:
            speed.add_section()
            memory.add_section()
        last = row["precision"]
        _add(row, speed, memory)
    console.print(speed)
    for row in result["rows"]:
        if row["problem"]:
            console.print(f"{row['precision']}: not measured; {row['problem']}")
    console.print(memory)
    console.print(
        "Medians, and p95 of the total. ×: the baseline's time over this row's, median of the rounds. floor: "
        "the longer of reading (bytes over bandwidth) and computing (operations over rate) [ms]; share: floor over "
        "total. MB per step: weights, keys and values that one decoding step reads; read: bandwidth of decoding. peak: "
        "memory above that in use before the model was created. ≠ eager: tokens that differ from eager.",
        style="dim",
    )
    if "draft" in result:
        console.print(draft_table(result["draft"]))
    if result.get("agreement"):
        console.print(agreement_table(result["agreement"]))


def _add(row: dict[str, Any], speed: Table, memory: Table) -> None:
    p50, floor, total = row["p50"], row["floor"], row["p50"]["total"]
    name = row["name"] + (f" ({row['accepted']:.1f} of 6)" if row["accepted"] is not None else "")
    speed.add_row(
        row["precision"],
        name,
        *(f"{1e3 * p50[part]:.1f}" for part in PARTS),
        f"{1e3 * total:.1f}",
        f"{1e3 * row['p95']['total']:.1f}",
        f"{row['rate']:.2f}",
        *(f"{row['versus'][form]:.2f}" for form in ("reference", "generate")),
    )
    reached = row["steps"] * row["step_bytes"] / p50["decode"] if p50["decode"] else 0.0
    memory.add_row(
        row["precision"],
        name,
        *(f"{1e3 * floor[stage]:.1f}" for stage in STAGES),
        f"{1e3 * total:.1f}",
        f"{100 * sum(floor.values()) / total:.0f}",
        f"{row['step_bytes'] / 1e6:.0f}",
        f"{reached / 1e9:.1f}" if reached and row["steps"] >= 1 else "",
        f"{row['weights'] / 1e6:.0f}",
        f"{row['peak'] / 1e6:.0f}" if row["peak"] else "",
        "" if row["differing"] is None else str(row["differing"]),
    )


def draft_table(draft: dict[str, Any]) -> Table | str:
    """Format the results of `draft` on recorded episodes."""
    if "problem" in draft:
        return f"draft on recorded episodes: not measured; {draft['problem']}"
    title = (
        f"{draft['checkpoint']}, {draft['episodes']} recorded episodes ({draft['lifted']} lifted), "
        f"{draft['steps']} steps: {draft['accepted_mean']:.2f} of 6 drafted tokens accepted"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("runtime")
    for column in ("p50, ms", "p95, ms", "passes after the prefill"):
        table.add_column(column, justify="right")
    for name, p50 in draft["p50"].items():
        passes = draft["decoding_passes_mean"][name]
        table.add_row(name, f"{1e3 * p50:.2f}", f"{1e3 * draft['p95'][name]:.2f}", f"{passes:.2f}")
    shares = np.array(draft["accepted_histogram"]) / max(sum(draft["accepted_histogram"]), 1)
    table.caption = "accepted " + ", ".join(f"{n}: {share:.0%}" for n, share in enumerate(shares))
    return table


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw stacked latencies with the floor of each row, the roofline, and the acceptance of draft."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = _measured_once(result["rows"])
    height = 2.2 + 0.3 * len(rows)
    figure = plt.figure(figsize=(13, max(height, 5.5)), layout="constrained")
    left, right = figure.add_gridspec(1, 2, width_ratios=(1.7, 1))
    _bars(figure.add_subplot(left), rows)
    drafted = "accepted_histogram" in result.get("draft", {})
    panels = right.subgridspec(2 if drafted else 1, 1, height_ratios=(2, 1) if drafted else None)
    _roofline(figure.add_subplot(panels[0]), rows, result)
    if drafted:
        _histogram(figure.add_subplot(panels[1]), result["draft"])
    machine, model = result["machine"], result["model"]
    figure.suptitle(
        f"{model['name']} ({model['parameters'] / 1e6:.0f} M parameters) on {machine['device']}, "
        f"{machine['threads']} threads · {result['date'][:10]} · {machine['git']}",
        fontsize=11,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _measured_once(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the measured rows; each baseline, measured with every precision, once."""
    seen, kept = set(), []
    for row in rows:
        key = (row["name"], row["precision"])
        if key not in seen and not row["problem"]:
            seen.add(key)
            kept.append(row)
    return kept


def _bars(axes: Any, rows: list[dict[str, Any]]) -> None:
    places = np.arange(len(rows), dtype=float)
    start = np.zeros(len(rows))
    for part in PARTS:
        widths = np.array([1e3 * row["p50"][part] for row in rows])
        axes.barh(places, widths, left=start, height=0.72, color=COLOURS[part], label=part)
        start += widths
    floors = [1e3 * sum(row["floor"].values()) for row in rows]
    axes.scatter(floors, places, marker="|", s=170, linewidths=2, color="black", zorder=3, label="floor (roofline)")
    longest = start.max()
    for place, row, end in zip(places, rows, start, strict=True):
        times = row["versus"].get("reference")
        note = f" {row['rate']:.1f}/s" + (f"  {times:.1f}×" if times and not row["name"].startswith("baseline") else "")
        axes.text(max(end, floors[int(place)]) + 0.01 * longest, place, note, va="center", fontsize=8)
    axes.set_yticks(
        places, [f"{row['name'].removeprefix('baseline: ')}  ·  {row['precision']}" for row in rows], fontsize=8
    )
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row["name"].startswith("baseline") else "normal")
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * longest)
    axes.set_xlabel("median time of an action [ms]; × = times as fast as the reference (bold: baselines)")
    axes.legend(fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("where the time goes", fontsize=10)


def _roofline(axes: Any, rows: list[dict[str, Any]], result: dict[str, Any]) -> None:
    machine = result["machine"]
    read = machine["bandwidth"]["read"]
    intensity = np.logspace(-1, 4, 200)
    for (name, rate), style in zip(machine["rates"].items(), ("-", "--", ":", "-."), strict=False):
        axes.loglog(
            intensity,
            np.minimum(intensity * read, rate) / 1e12,
            "k" + style,
            lw=1,
            label=f"{name} {rate / 1e12:.2g} TOP/s",
        )
    markers = {"fp32": "o", "bf16": "s", "int8": "^", "int4": "v", "int8-torchao": "<", "int4-torchao": ">", "fp8": "D"}
    for row in rows:
        if row["name"] not in ("static", "baseline: reference"):
            continue
        ours = row["name"] == "static"
        for stage in STAGES:
            cost, spent = row["cost"][stage], row["p50"][stage]
            times = row["steps"] if stage == "decode" else 1
            if spent and times:
                axes.loglog(
                    cost["operations"] / cost["bytes"],
                    times * cost["operations"] / spent / 1e12,
                    markers[row["precision"]],
                    color=COLOURS[stage],
                    markerfacecolor=COLOURS[stage] if ours else "white",
                    markersize=6,
                )
    used = [p for p in markers if any(row["precision"] == p for row in rows)]
    for precision in used:
        axes.plot([], [], markers[precision], color="grey", label=precision)
    axes.set_xlabel("operations per byte of weights")
    axes.set_ylabel("TOP/s")
    axes.legend(fontsize=7, loc="lower right", ncols=2)
    axes.set_title("roofline (filled: static; hollow: reference)", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _histogram(axes: Any, draft: dict[str, Any]) -> None:
    counts = draft["accepted_histogram"]
    axes.bar(range(len(counts)), counts, color=COLOURS["vision"])
    axes.set_xlabel("drafted tokens that the prefill confirmed (of 6)")
    axes.set_ylabel("steps")
    axes.set_title(
        f"draft on {draft['episodes']} recorded episodes: mean {draft['accepted_mean']:.2f}",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)
