"""The shipped teleoperation files, the processes they make, single keys, and the dashboard."""

from __future__ import annotations

import argparse
import io
import os
import pty
import termios
import time
from pathlib import Path

import pytest
import yaml
from openvla_msgs.msg import RecorderStatus, SafetyState
from rich.console import Console

from openvla_ros.apps import teleop
from openvla_ros.apps.record import topics
from openvla_ros.bringup.process_table import device_file, teleoperation
from openvla_ros.nodes.bridge.parameters import BridgeParameters, gate_config
from openvla_ros.nodes.recorder.parameters import RecorderParameters
from openvla_ros.nodes.recorder.status_text import duration, episode_line, session_line, topic_table
from openvla_ros.nodes.sim.parameters import SimParameters
from openvla_ros.nodes.teleop.dashboard import DashboardState, lines, motion
from openvla_ros.nodes.teleop.parameters import TeleopParameters, joy_map, speed_of
from openvla_ros.parameters import build, check, rows
from openvla_ros.teleop.terminal_keys import TerminalKeys, split_keys

ROOT = Path(__file__).resolve().parents[4]
CONFIGS = {c.node: c for c in (SimParameters, BridgeParameters, RecorderParameters, TeleopParameters)}
DEVICES = sorted(p.stem for p in (ROOT / "config" / "teleop").glob("*.yaml") if p.stem != "sim")


def parameters_of(spec):
    """A node's parameters as its files set them; every key is declared, every value allowed."""
    values = {}
    for file in spec.params_files:
        values |= yaml.safe_load(file.read_text()).get(f"/**/{spec.name}", {}).get("ros__parameters", {})
    return build(CONFIGS[spec.name], values)


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_file_makes_a_stack(device: str) -> None:
    specs = {spec.name: spec for spec in teleoperation(device)}
    assert list(specs) == ["sim_node", "bridge_node", "recorder_node", "teleop_node", "lifecycle_manager"]
    bridge, teleop = parameters_of(specs["bridge_node"]), parameters_of(specs["teleop_node"])
    parameters_of(specs["recorder_node"])
    gate = gate_config(bridge)
    assert "teleop" in gate.sources and gate.mode == "streaming"
    assert teleop.base_frame == bridge.base_frame
    # An action at full speed is within the gate's limits, so that nothing is clipped by the set-up.
    speed, joy = speed_of(teleop), joy_map(teleop)
    assert max(speed.largest("fast")[0], speed.largest("")[0]) <= bridge.limit.translation
    assert speed.linear * speed.fast <= bridge.limit.speed or device == "leader"
    if teleop.device == "leader":
        assert joy.deadman >= 0
    # The gate waits longer than the period between two actions, and not much longer.
    assert speed.period < bridge.watchdog.action < 1.0


@pytest.mark.parametrize("config", [TeleopParameters, RecorderParameters])
def test_defaults_are_within_their_own_ranges(config) -> None:
    table = rows(config)
    assert len({row.name for row in table}) == len(table)
    for row in table:
        assert row.description and check(row, row.default) == row.default


def test_unknown_devices_are_refused_with_the_choices() -> None:
    with pytest.raises(FileNotFoundError, match="'wand' is neither a file nor one of gamepad, guide, keyboard"):
        device_file("wand")


def test_a_leader_needs_a_deadman() -> None:
    with pytest.raises(ValueError, match="leader moves all the time: set 'joy.deadman'"):
        joy_map(build(TeleopParameters, {"device": "leader", "joy.deadman": -1}))


def test_the_command_runs_teleoperation_and_manages_the_rest() -> None:
    options = argparse.Namespace(
        device="keyboard", output=Path("x"), instruction="lift", target=5, seed=3, blocking=True, show=False
    )
    others, here = teleop.specs_of(options)
    assert here.name == "teleop_node" and here.parameters["autostart"] and here.parameters["instruction"] == "lift"
    assert others[-1].parameters["managed_nodes"] == ["sim_node", "bridge_node", "recorder_node"]
    assert others[1].parameters["control_mode"] == "blocking" and others[0].parameters["seed"] == 3


def test_the_topic_list_is_the_recorders() -> None:
    listed = topics("config/recording/recorder.yaml")
    assert listed[-1] == "/episode" and "/camera/image_raw" in listed and "/tf_static" in listed
    assert all(name.startswith("/") for name in listed)


# ---- keys ----------------------------------------------------------------------------------------


def test_arrow_keys_are_no_emergency_stop() -> None:
    assert split_keys("w\x1b[Aw\x1bOP\x1b[1;5C") == ["w", "w"]
    assert split_keys("\x1b") == ["escape"] and split_keys("\x1b\x1b[A") == ["escape"]
    assert split_keys("\r \x7fé") == ["enter", " ", "backspace", "é"]


def test_keys_come_from_a_terminal_which_is_restored() -> None:
    ours, theirs = pty.openpty()
    try:
        before = termios.tcgetattr(theirs)
        keys = TerminalKeys(theirs)
        assert not termios.tcgetattr(theirs)[3] & termios.ICANON
        os.write(ours, b"wR\x1b[A ")
        end, got = time.monotonic() + 5.0, []
        while len(got) < 3 and time.monotonic() < end:
            got += keys.drain()
            time.sleep(0.01)
        assert got == ["w", "R", " "]
        keys.close()
        keys.close()
        assert termios.tcgetattr(theirs) == before
    finally:
        os.close(ours)
        os.close(theirs)
    with Path(os.devnull).open() as nothing, pytest.raises(ValueError, match="not a terminal"):
        TerminalKeys(nothing.fileno())


# ---- dashboard -----------------------------------------------------------------------------------


def printed(*parts: object) -> str:
    console = Console(width=110, file=io.StringIO(), force_terminal=False)
    for part in parts:
        console.print(part)
    return console.file.getvalue()


def status(**changes) -> RecorderStatus:
    made = RecorderStatus(
        state="recording", instruction="lift it", duration=12.3, messages=900, bytes=70 * 2**20, write_rate=18e6,
        success=3, failure=1, target=50, free_gib=58.4, time_left=3480.0, topics=["/camera/image_raw"], rates=[29.9],
        received=[360], dropped=[2], gaps=[1], missing=[],
    )  # fmt: skip
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_the_recorder_line_has_target_rate_disk_and_losses() -> None:
    text = printed(episode_line(status()), session_line(status()), topic_table(status()))
    for shown in ("recording 12.3 s", "“lift it”", "70 MiB", "2 DROPPED", "3 of 50 successes", "1 failures",
                  "58.4 GiB left", "58 min at 18.0 MB/s", "/camera/image_raw", "29.9", "360"):  # fmt: skip
        assert shown in text, shown
    idle = status(state="idle", missing=["robot/ee_pose"], time_left=-1.0, dropped=[0])
    assert "no publisher of robot/ee_pose" in printed(episode_line(idle))
    assert "MB/s" not in printed(session_line(idle)) and "no recorder" in printed(episode_line(None))
    assert [duration(v) for v in (42, 600, 9000, 1e7)] == ["42 s", "10 min", "2.5 h", "over 4 days"]


def test_the_dashboard_says_why_the_arm_does_not_move() -> None:
    safety = SafetyState(state=SafetyState.HOLD, reason="no fresh action", control_mode="streaming")
    state = DashboardState(
        active=True, guiding=False, device="joy", frame="end_effector", state="the deadman is not held", action=None,
        gripper=1.0, speed=(0.1, 0.5), button="slow", safety=safety, instruction="", recorder=None, news="",
    )  # fmt: skip
    text = printed(lines(state))
    for part in ("the deadman is not held", "open", "slow", "HOLD  no fresh action", "no instruction yet",
                 "no recorder", "end effector"):  # fmt: skip
        assert part in text, part
    assert motion((0.01, 0.0, -0.02, 0.0, 0.0, 0.0873, 1.0)) == "x +10 mm  z -20 mm  yaw +5.0°"
