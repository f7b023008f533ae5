"""The Foxglove layout: every panel is placed, and every path is a field of a published message."""

from __future__ import annotations

import importlib
import json
import re

import pytest

# Panels of the configById format that this layout uses (Foxglove and Lichtblick know them by these names).
KINDS = {"Image", "RawMessages", "Plot", "Indicator", "StateTransitions", "DiagnosticSummary"}


@pytest.fixture(scope="module")
def layout(root):
    return json.loads((root / "config" / "foxglove" / "openvla.json").read_text())


@pytest.fixture(scope="module")
def topics(root):
    """Topic -> message class, from the reference page."""
    found = {}
    for line in (root / "docs" / "reference" / "interfaces.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 3 or "→" not in cells[2]:  # services and actions have other tables
            continue
        names = re.findall(r"`([a-z_/]+)`", cells[0])
        types = re.findall(r"([a-z_]+)/([A-Z]\w+)", cells[1])
        for name, (package, kind) in zip(names, types, strict=False):
            found["/" + name] = getattr(importlib.import_module(f"{package}.msg"), kind)
    others = {
        "/diagnostics": ("diagnostic_msgs.msg", "DiagnosticArray"),
        "/camera/image_raw": ("sensor_msgs.msg", "Image"),
    }
    return found | {name: getattr(importlib.import_module(package), kind) for name, (package, kind) in others.items()}


def leaves(node):
    """Panels of a layout's tree, left to right."""
    if isinstance(node, str):
        return [node]
    assert set(node) == {"direction", "first", "second", "splitPercentage"} and node["direction"] in ("row", "column")
    assert 0 < node["splitPercentage"] < 100
    return leaves(node["first"]) + leaves(node["second"])


def paths(layout):
    for name, panel in layout["configById"].items():
        kind = name.split("!")[0]
        if kind == "Image":
            yield panel["imageMode"]["imageTopic"]
        elif kind in ("Plot", "StateTransitions"):
            yield from (series["value"] for series in panel["paths"])
        else:
            yield panel[{"RawMessages": "topicPath", "Indicator": "path", "DiagnosticSummary": "topicToRender"}[kind]]


def test_every_panel_is_placed_and_titled(layout):
    assert set(layout) == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
    assert sorted(leaves(layout["layout"])) == sorted(layout["configById"])
    assert {name.split("!")[0] for name in layout["configById"]} == KINDS
    for panel in layout["configById"].values():
        assert panel["foxglovePanelTitle"]
        for series in panel.get("paths", ()):
            assert series["timestampMethod"] in ("receiveTime", "headerStamp") and series["label"]


def test_every_path_is_a_published_field(layout, topics):
    displayed = set()
    for path in paths(layout):
        topic, _, rest = path.partition(".")
        assert topic in topics, f"{path}: {topic} is not in docs/reference/interfaces.md"
        kind = topics[topic]
        for part in rest.split(".") if rest else ():
            name, index = re.fullmatch(r"(\w+)(\[\d+\])?", part).groups()
            fields = kind.get_fields_and_field_types()
            assert name in fields, f"{path}: {kind.__name__} has no {name}"
            assert bool(index) == fields[name].startswith("sequence"), path
            inner = re.search(r"([a-z_]+)/(\w+)", fields[name])
            kind = getattr(importlib.import_module(f"{inner[1]}.msg"), inner[2]) if inner else None
        displayed.add(topic)
    assert displayed >= {
        "/camera/image_raw", "/instruction", "/policy/action_chunk", "/policy/status", "/safety/state",
        "/robot/ee_pose", "/robot/target_pose", "/diagnostics",
    }  # fmt: skip


def test_gate_states_have_the_message_s_names(layout, topics):
    rules = layout["configById"]["Indicator!gate"]["rules"]
    named = {int(rule["rawValue"]): rule["label"] for rule in rules}
    kind = topics["/safety/state"]
    for name in ("INACTIVE", "HOLD", "READY", "EXECUTING"):
        assert named.pop(getattr(kind, name)) == name
    assert named == {kind.ESTOP: "EMERGENCY STOP"}
