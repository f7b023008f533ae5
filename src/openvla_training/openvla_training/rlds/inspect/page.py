"""The report as one HTML page with the pictures inside: it loads nothing, so it can be mailed or archived."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from openvla_training.rlds.inspect.figures import action_histograms, contact_sheet, lengths_and_idleness, trajectories
from openvla_training.rlds.inspect.quality import ACTION_NAMES, Inspection, counted

MAX_SHEETS, MAX_ROWS = 24, 200
UNITS = {"rate": "Hz", "fps": "Hz", "max_skew": "s", "image_size": "px"}


def page(found: Inspection) -> str:
    """Render the page.

    Args:
        found: The dataset's figures.

    Returns:
        A complete HTML document.
    """
    environment = Environment(
        loader=PackageLoader("openvla_training", "rlds/inspect"),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["data_url"] = _data_url
    instructions = Counter(one.instruction for one in found.episodes)
    return environment.get_template("report.html.jinja").render(
        found=found,
        counted=counted,
        max_rows=MAX_ROWS,
        cards=_cards(found),
        histograms=action_histograms(found),
        statistics=_statistics(found),
        trajectories=trajectories(found),
        sheets=[
            (instruction, number, contact_sheet(found.first_last[instruction]))
            for instruction, number in instructions.most_common(MAX_SHEETS)
        ],
        other_instructions=max(0, len(instructions) - MAX_SHEETS),
        lengths=lengths_and_idleness(found),
        settings=[(_setting_name(name), readable(value)) for name, value in found.settings.items()],
    )


def readable(value: Any) -> str:
    """A setting as a person writes it: yes and no, 'not set' instead of None, lists and mappings without brackets."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "not set"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {readable(one)}" for key, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(readable, value)) or "none"
    return str(value)


def _setting_name(name: str) -> str:
    words = name.replace("_", " ")
    return f"{words} [{UNITS[name]}]" if name in UNITS else words


def _cards(found: Inspection) -> dict[str, str]:
    facts = found.to_json()
    steps = facts["episode_steps"]
    instructions = len(facts["instructions"])
    return {
        "episodes": " + ".join(f"{number} {split}" for split, number in found.splits.items()),
        "steps": f"{facts['steps']:,}",
        "steps an episode (shortest – median – longest)": f"{steps['min']} – {steps['median']:g} – {steps['max']}",
        "instruction" if instructions == 1 else "instructions": str(instructions),
        "idle": f"{facts['idle_fraction']:.0%}",
        "outcomes": ", ".join(f"{number} {outcome}" for outcome, number in facts["outcomes"].items()),
    }


def _statistics(found: Inspection) -> list[list[str]]:
    action = found.statistics.action
    columns = (action.mean, action.std, action.q01, action.q99, action.min, action.max)
    saturated = [f"{share:.1%}" for share in found.saturated] + ["–"]
    return [
        [name, *(f"{column[index]:.4f}" for column in columns), saturated[index]]
        for index, name in enumerate(ACTION_NAMES)
    ]


def _data_url(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
