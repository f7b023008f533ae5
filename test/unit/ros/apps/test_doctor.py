"""openvla-doctor's judgements, on facts made up for them, and the facts that need no ROS graph."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import serving
from rich.console import Console

from openvla_policy.model.config import openvla_7b
from openvla_policy.runtime.footprint import read_header, weight_bytes
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.serving.http_server import PolicyServer
from openvla_ros.apps.doctor import checks, cli, machine
from openvla_ros.apps.doctor.checks import BAD, OK, SKIP, Stream
from openvla_ros.bringup.process_table import bringup
from openvla_ros.nodes.policy.parameters import PolicyParameters
from openvla_ros.parameters import build

TIMES = tuple(np.arange(0, 3, 0.1))
IMAGES = Stream("/camera/image_raw", 1, False, 3.0, 900_000, TIMES, TIMES, (0.02,) * len(TIMES))
GAPS = tuple(t for i, t in enumerate(TIMES) if i % 4 != 2)  # a quarter lost, as best effort over default DDS does
NONE = Stream("/camera/image_raw")


@pytest.mark.parametrize(
    ("finding", "status", "word"),
    [
        (checks.versions((3, 12), "jazzy", "7.1"), OK, "Python 3.12"),
        (checks.versions((3, 12), "humble", "3.3"), BAD, "/opt/ros/jazzy"),
        (checks.versions((3, 10), "jazzy", "7.1"), BAD, "3.11 or 3.12"),
        (checks.domain({"ROS_DOMAIN_ID": "7"}, "rmw_fastrtps_cpp"), OK, "domain 7"),
        (checks.domain({"ROS_DOMAIN_ID": "200"}, "rmw_fastrtps_cpp"), BAD, "0 … 101"),
        (checks.domain({"ROS_DOMAIN_ID": "seven"}, "rmw_fastrtps_cpp"), BAD, "0 … 101"),
        (checks.dds_profile("/x.xml", 16 * 2**20, "rmw_fastrtps_cpp", "raw"), OK, "16 MiB"),
        (checks.dds_profile("", None, "rmw_fastrtps_cpp", "raw"), BAD, "FASTRTPS_DEFAULT_PROFILES_FILE"),
        (checks.dds_profile("/x.xml", None, "rmw_fastrtps_cpp", "raw"), BAD, "sets no shared-memory segment"),
        (checks.dds_profile("/x.xml", 2**19, "rmw_fastrtps_cpp", "raw"), BAD, "0.5 MiB"),
        (checks.dds_profile("", None, "rmw_fastrtps_cpp", "compressed"), SKIP, "compressed"),
        (checks.dds_profile("", None, "rmw_cyclonedds_cpp", "raw"), SKIP, "cyclonedds"),
        (checks.disk(200e9, "/home"), OK, "200 GB"),
        (checks.disk(2e9, "/home"), BAD, "make room"),
        (checks.clock(True, "chronyc", None), OK, "chronyc"),
        (checks.clock(False, "timedatectl", 0.01), BAD, "chrony"),
        (checks.clock(None, "", None), SKIP, "neither"),
        (checks.clock(None, "", 0.05), OK, "50 ms"),
        (checks.clock(None, "", -0.4), BAD, "0.400 s ahead"),
        (checks.nodes({"bridge_node": "active"}), OK, "active"),
        (checks.nodes({"bridge_node": "inactive", "policy_node": "active"}), BAD, "the log of bridge_node"),
        (checks.nodes({"bridge_node": "", "policy_node": "active"}), BAD, "missing: bridge_node"),
        (checks.camera_rate(IMAGES, 5.0, (), False), OK, "10.0 Hz"),
        (checks.camera_rate(IMAGES, 15.0, (), False), BAD, "frame rate"),
        (checks.camera_rate(NONE, 5.0, ("/cam/rgb",), False), BAD, "images are on: /cam/rgb"),
        (checks.camera_rate(replace(NONE, publishers=1, listened=3.0), 5.0, (), False), BAD, "0 images"),
        (checks.camera_rate(replace(IMAGES, arrivals=tuple(4 * t for t in TIMES)), 5.0, (), True), OK, "10.0 Hz"),
        (checks.camera_stamps(IMAGES, 0.5, 0.05), OK, "20 … 20 ms"),
        (checks.camera_stamps(replace(IMAGES, ages=(-0.3,)), 0.5, 0.05), BAD, "synchronise"),
        (checks.camera_stamps(replace(IMAGES, ages=(40.0,)), 0.5, 0.05), BAD, "limit 500 ms"),
        (checks.camera_stamps(replace(IMAGES, stamps=(1.0, 1.0)), 0.5, 0.05), BAD, "frozen"),
        (checks.camera_stamps(NONE, 0.5, 0.05), SKIP, "no images"),
        (checks.image_transport(IMAGES, "raw"), OK, "0.0 %"),
        (checks.image_transport(replace(IMAGES, stamps=GAPS), "raw"), BAD, "DDS profile"),
        (checks.image_transport(NONE, "raw"), SKIP, "too few"),
        (checks.robot_state((IMAGES,), 0.3), OK, "10 Hz"),
        (checks.robot_state((IMAGES,), 0.05), BAD, "limit 0.05 s"),
        (checks.robot_state((replace(IMAGES, listened=9.0),), 0.3), BAD, "silent for"),
        (checks.robot_state((replace(NONE, topic="/robot/ee_pose"),), 0.3), BAD, "nobody publishes /robot/ee_pose"),
        (checks.robot_state((), 0.3), SKIP, "no bridge"),
        (checks.controllers({"/robot/target_pose": ("/sim",)}, {}, checks.NO_MANAGER), OK, "no controller_manager"),
        (checks.controllers({"/robot/target_pose": ()}, {}, checks.NO_MANAGER), BAD, "listens to /robot/target_pose"),
        (checks.controllers({"/target_pose": ()}, {"/crisp": "inactive"}, ""), BAD, "activate crisp"),
        (checks.controllers({"/target_pose": ("/crisp",)}, {"/crisp": "active"}, ""), OK, "heard; active: crisp"),
        (checks.controllers({"/target_pose": ("/crisp",)}, {"/crisp": "inactive", "/jsb": "active"}, ""), BAD,
         "ros2 control set_controller_state crisp active"),
        (checks.controllers({"/l/target_pose": ("/l/crisp",)}, {"/l/crisp": "inactive"}, ""), BAD,
         "set_controller_state -c /l/controller_manager crisp active"),
        # Another robot's, or one that takes turns with the active one on the same topic.
        (checks.controllers({"/l/target_pose": ("/l/crisp",)}, {"/l/crisp": "active", "/r/crisp": "inactive"}, ""), OK,
         "not active: /r/crisp (inactive)"),
        (checks.controllers({"/target_pose": ("/soft", "/crisp")}, {"/soft": "inactive", "/crisp": "active"}, ""), OK,
         "active: crisp; not active: soft (inactive)"),
        # Servo listens, but no controller takes what it makes of it.
        (checks.controllers({"/servo_node/target": ("/servo_node",)}, {"/arm": "inactive"}, ""), BAD, "active: none"),
        (checks.controllers({"/t": ("/crisp",)}, {}, checks.NO_MANAGER_MESSAGES), SKIP, "is not installed (sudo apt"),
        (checks.controllers({"/t": ("/crisp",)}, {}, checks.MANAGER_SILENT), SKIP, "does not answer"),
        (checks.controllers({}, {}, checks.NO_MANAGER), SKIP, "no bridge"),
        (checks.gate("READY", "waiting for an action"), OK, "READY"),
        (checks.gate("", ""), BAD, "start the bridge"),
        (checks.gate("HOLD", "not enabled"), SKIP, "until you allow motion"),
        (checks.gate("HOLD", "no fresh robot state: 2.0 s old"), BAD, "what the reason names"),
        (checks.gate("HOLD", "the joystick's button is not held"), BAD, "hold the deadman's button"),
        (checks.gate("INACTIVE", "not active"), BAD, "activate the bridge"),
        (checks.gate("ESTOP", "emergency stop pressed", "/left/bridge_node"), BAD, "/left/bridge_node/reset_e_stop"),
        (checks.checkpoint("/c", "", 1.5e10), OK, "15.00 GB"),
        (checks.checkpoint("/c", "/c: model.safetensors is missing"), BAD, "complete folder"),
        (checks.unnorm_key("", ["sim"]), OK, "the only one"),
        (checks.unnorm_key("", ["sim", "real"]), BAD, "one of: real, sim"),
        (checks.unnorm_key("bridge_orig", ["sim"]), BAD, "'bridge_orig' is not"),
        (checks.unnorm_key("sim", []), BAD, "none at all"),
        (checks.memory(15e9, 24e9, "cuda", "bf16", False), OK, "18.75 GB"),
        (checks.memory(15e9, 16e9, "cuda", "bf16", False), BAD, "int4"),
        (checks.memory(15e9, 1e9, "cuda", "bf16", True), OK, "loaded already"),
        (checks.policy_rate(0.1, "measured here", 5.0, True, 2.0), OK, "10.0 Hz predicted"),
        (checks.policy_rate(0.5, "measured here", 5.0, True, 2.0), BAD, "lower `rate`"),
        (checks.policy_rate(0.5, "measured here", 5.0, False, 2.0), OK, "slower, and safe"),
        (checks.policy_rate(3.0, "measured here", 5.0, False, 2.0), BAD, "at most 2 s"),
        (checks.policy_rate(None, "", 5.0, True, 2.0), SKIP, "--policy"),
    ],
)  # fmt: skip
def test_what_is_judged(finding, status, word):
    assert finding.status == status and word in finding.said + finding.remedy, finding
    assert bool(finding.remedy) == (status == BAD), "whatever is bad has a remedy, and nothing else"


def test_what_a_stream_tells():
    assert IMAGES.rate() == pytest.approx(10.0) and IMAGES.lost() == 0.0
    assert replace(IMAGES, stamps=GAPS).lost() == pytest.approx(7 / 30, abs=0.02)
    assert IMAGES.silence() == pytest.approx(0.1) and NONE.silence() == 0.0
    assert NONE.rate() == 0.0 and NONE.lost() == 0.0


def test_the_shipped_profile_counts_and_others_do_not(root, tmp_path):
    shipped = root / "config" / "dds" / "fastdds.xml"
    assert machine.segment_size(str(shipped)) == 16 * 2**20
    unused = tmp_path / "unused.xml"
    unused.write_text(shipped.read_text().replace('is_default_profile="true"', 'is_default_profile="false"'))
    assert machine.segment_size(str(unused)) is None
    assert machine.segment_size(str(tmp_path / "absent.xml")) is None
    (tmp_path / "broken.xml").write_text("<profiles>")
    assert machine.segment_size(str(tmp_path / "broken.xml")) is None


SHIPPED = "checkpoints/openvla-tiny-sim"


def values(**changes):
    return build(PolicyParameters, {"checkpoint": SHIPPED, "device": "cpu", "precision": "bf16"} | changes)


def test_the_checkpoint_is_looked_at_without_loading_it(root, tmp_path):
    rows = machine.policy_rows(values(), loaded=False)
    assert [row.status for row in rows] == [OK, OK, OK]
    rows = machine.policy_rows(values(unnorm_key="bridge_orig"), loaded=False)
    assert [row.status for row in rows] == [OK, BAD, OK] and "sim_cubes" in rows[1].remedy

    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (root / SHIPPED).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "the copy is incomplete" in machine.policy_rows(values(checkpoint=str(copy)), loaded=False)[0].said
    weights.write_bytes(b"not safetensors at all")
    assert "not a readable safetensors" in machine.policy_rows(values(checkpoint=str(copy)), loaded=False)[0].said
    weights.write_bytes(whole)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"text_config": config["text_config"] | {"vocab_size": 9}}))
    assert machine.policy_rows(values(checkpoint=str(copy)), loaded=False)[0].status == BAD
    (copy / "tokenizer.json").unlink()
    assert machine.policy_rows(values(checkpoint=str(copy)), loaded=False)[0].status == BAD


def remote(**changes):
    return build(PolicyParameters, {"policy.backend": "remote", "server.timeout": 20.0} | changes)


@pytest.mark.parametrize("scheme", ["ws", "http"])
def test_a_policy_server_is_asked_for_what_it_serves(scheme, tmp_path):
    policy = LocalPolicy(serving.checkpoint(), unnorm_key="one", frame="tool0", period=0.1)
    token = tmp_path / "token"
    token.write_text("secret")
    with serving.listening(PolicyServer(policy, token="secret", about={"checkpoint": "the/7b"})) as address:
        right = {"server.url": f"{scheme}://{address}", "server.token_file": str(token)}
        right |= {"frame": "tool0", "period": 0.1, "unnorm_key": "two"}
        rows = machine.policy_rows(remote(**right), loaded=False)
        assert [(row.name, row.status) for row in rows] == [
            ("checkpoint", OK), ("unnorm_key", OK), ("policy memory", SKIP)
        ]  # fmt: skip
        assert rows[0].said == f"the/7b, at the policy server {scheme}://{address}" and rows[1].said == "two"
        assert 0.0 < machine.time_policy(remote(**right), predictions=2) < 20.0
        named = machine.policy_rows(remote(**right | {"unnorm_key": ""}), loaded=False)[1]
        assert (named.status, named.said) == (OK, "one"), "the server's own, where the stack names none"
        other = machine.policy_rows(remote(**right | {"unnorm_key": "bridge_orig"}), loaded=False)[1]
        assert other.status == BAD and other.remedy.endswith("one of: one, two")
        wrong = {"server.token_file": "401", "frame": "actions of frame tool0"}
        for name, said in wrong.items():
            row = machine.policy_rows(remote(**right | {name: ""}), loaded=False)[0]
            assert row.status == BAD and said in row.said and row.remedy, row
        with pytest.raises(TimeoutError):
            machine.time_policy(remote(**right | {"server.timeout": 0.01}))


def test_a_server_that_is_dead_is_a_cross_with_a_remedy():
    url = f"ws://127.0.0.1:{serving.free_port()}"
    rows = machine.policy_rows(remote(**{"server.url": url}), loaded=False)
    assert [row.status for row in rows] == [BAD, SKIP, SKIP] and url in rows[0].said
    assert rows[0].remedy.startswith("start it (openvla-serve CHECKPOINT"), rows[0]
    options = cli.parser().parse_args(["--policy"])
    policy = {row.name: row.default for row in cli.POLICY} | {"policy.backend": "remote", "server.url": url}
    row = cli._rate_row(
        {"policy_node": policy, "bridge_node": {"watchdog.observation": 2.0}}, {"status": None}, options
    )
    assert row.status == BAD and url in row.said and row.remedy


def test_a_nodes_parameters_are_those_of_the_bringups_yaml():
    specs = {spec.name: spec for spec in bringup("sim", manager=False, camera="usb_cam")}
    policy, bridge = (cli.configured(specs[name]) for name in ("policy_node", "bridge_node"))
    assert policy["checkpoint"] == SHIPPED and policy["image.max_age"] == 0.5 and policy["use_sim_time"] is True
    assert bridge["watchdog.state"] == 3.0 and set(bridge) >= {row.name for row in cli.BRIDGE}
    del policy["use_sim_time"]
    assert 0.0 < machine.time_policy(build(PolicyParameters, policy), predictions=2) < 60.0
    with pytest.raises(ValueError, match="unnorm_key 'x' is unknown"):
        machine.time_policy(build(PolicyParameters, policy | {"unnorm_key": "x"}))


@pytest.mark.parametrize(
    "wrong",
    [["--robot", "r2d2"], ["--listen", "0"], ["--camera", "webcam"], ["--checkpoint", "c", "--server", "ws://s"]],
)
def test_wrong_usage_is_told_apart_from_findings(wrong, capsys):
    try:
        status = cli.main(wrong)
    except SystemExit as ended:
        status = ended.code
    assert status == 2 and "openvla-doctor: " in capsys.readouterr().err


def test_the_table_shows_brackets_and_all_three_signs():
    rows = [checks.Finding("a", OK, "axes [x]"), checks.Finding("b", BAD, "no", "do"), checks.Finding("c", SKIP, "?")]
    console = Console(width=100, file=io.StringIO())
    console.print(cli.table(rows))
    shown = console.file.getvalue()
    assert "✓" in shown and "✗" in shown and "–" in shown and "axes [x]" in shown


def test_footprint_is_what_loading_takes(root):
    header = read_header(root / SHIPPED)
    for precision in ("fp32", "bf16", "int8", "int4"):
        loaded = load_policy(root / SHIPPED, precision=precision, device="cpu").memory.total
        assert weight_bytes(header.config, precision) == loaded
    sizes = {p: weight_bytes(openvla_7b(), p, "cuda") / 1e9 for p in ("bf16", "int8", "int4", "fp8", "int4-torchao")}
    table = {"bf16": 15.1, "int8": 7.8, "int4": 4.6, "fp8": 8.6, "int4-torchao": 5.6}  # docs/reference/precision.md
    assert sizes == pytest.approx(table, rel=0.02)
