"""openvla-doctor: its checks on given facts, and the facts that need no ROS graph."""

from __future__ import annotations

import functools
import io
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import serving
from rich.console import Console

from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.serving.http_server import PolicyServer
from openvla_ros.apps.doctor import cli, examination, machine, policy_probe
from openvla_ros.apps.doctor.finding import BAD, OK, SKIP, Finding
from openvla_ros.apps.doctor.machine_checks import clock, dds_profile, disk, domain, versions
from openvla_ros.apps.doctor.policy_checks import checkpoint, memory, policy_rate, unnorm_key
from openvla_ros.apps.doctor.stack_checks import (
    MANAGER_SILENT,
    NO_MANAGER,
    NO_MANAGER_MESSAGES,
    camera_rate,
    camera_stamps,
    controllers,
    gate,
    image_transport,
    nodes,
    robot_state,
)
from openvla_ros.apps.doctor.stream import Stream
from openvla_ros.bringup.process_table import bringup
from openvla_ros.nodes.bridge.parameters import BridgeParameters
from openvla_ros.nodes.policy.parameters import PolicyParameters
from openvla_ros.parameters import build, rows as parameter_rows

TIMES = tuple(np.arange(0, 3, 0.1))
IMAGES = Stream("/camera/image_raw", 1, False, 3.0, 900_000, TIMES, TIMES, (0.02,) * len(TIMES))
# A quarter of the messages lost, as by best effort over Fast DDS's default segment.
GAPS = tuple(t for i, t in enumerate(TIMES) if i % 4 != 2)
NONE = Stream("/camera/image_raw")


@pytest.mark.parametrize(
    ("finding", "status", "word"),
    [
        (versions((3, 12), "jazzy", "7.1"), OK, "Python 3.12"),
        (versions((3, 12), "humble", "3.3"), BAD, "/opt/ros/jazzy"),
        (versions((3, 10), "jazzy", "7.1"), BAD, "3.11 or 3.12"),
        (domain({"ROS_DOMAIN_ID": "7"}, "rmw_fastrtps_cpp"), OK, "domain 7"),
        (domain({"ROS_DOMAIN_ID": "200"}, "rmw_fastrtps_cpp"), BAD, "0 … 101"),
        (domain({"ROS_DOMAIN_ID": "seven"}, "rmw_fastrtps_cpp"), BAD, "0 … 101"),
        (dds_profile("/x.xml", 16 * 2**20, "rmw_fastrtps_cpp", "raw"), OK, "16 MiB"),
        (dds_profile("", None, "rmw_fastrtps_cpp", "raw"), BAD, "FASTRTPS_DEFAULT_PROFILES_FILE"),
        (dds_profile("/x.xml", None, "rmw_fastrtps_cpp", "raw"), BAD, "sets no shared-memory segment"),
        (dds_profile("/x.xml", 2**19, "rmw_fastrtps_cpp", "raw"), BAD, "0.5 MiB"),
        (dds_profile("", None, "rmw_fastrtps_cpp", "compressed"), SKIP, "compressed"),
        (dds_profile("", None, "rmw_cyclonedds_cpp", "raw"), SKIP, "cyclonedds"),
        (disk(200e9, "/home"), OK, "200 GB"),
        (disk(2e9, "/home"), BAD, "free disk space"),
        (clock(True, "chronyc", None), OK, "chronyc"),
        (clock(False, "timedatectl", 0.01), BAD, "chrony"),
        (clock(None, "", None), SKIP, "neither"),
        (clock(None, "", 0.05), OK, "50 ms"),
        (clock(None, "", -0.4), BAD, "0.400 s ahead"),
        (nodes({"bridge_node": "active"}), OK, "active"),
        (nodes({"bridge_node": "inactive", "policy_node": "active"}), BAD, "the log of bridge_node"),
        (nodes({"bridge_node": "", "policy_node": "active"}), BAD, "missing: bridge_node"),
        (camera_rate(IMAGES, 5.0, (), False), OK, "10.0 Hz"),
        (camera_rate(IMAGES, 15.0, (), False), BAD, "frame rate"),
        (camera_rate(NONE, 5.0, ("/cam/rgb",), False), BAD, "images are on: /cam/rgb"),
        (camera_rate(replace(NONE, publishers=1, listened=3.0), 5.0, (), False), BAD, "0 images"),
        (camera_rate(replace(IMAGES, arrivals=tuple(4 * t for t in TIMES)), 5.0, (), True), OK, "10.0 Hz"),
        (camera_stamps(IMAGES, 0.5, 0.05), OK, "20 … 20 ms"),
        (camera_stamps(replace(IMAGES, ages=(-0.3,)), 0.5, 0.05), BAD, "synchronise"),
        (camera_stamps(replace(IMAGES, ages=(40.0,)), 0.5, 0.05), BAD, "limit 500 ms"),
        (camera_stamps(replace(IMAGES, stamps=(1.0, 1.0)), 0.5, 0.05), BAD, "frozen"),
        (camera_stamps(NONE, 0.5, 0.05), SKIP, "no images"),
        (image_transport(IMAGES, "raw"), OK, "0.0 %"),
        (image_transport(replace(IMAGES, stamps=GAPS), "raw"), BAD, "DDS profile"),
        (image_transport(NONE, "raw"), SKIP, "too few"),
        (robot_state((IMAGES,), 0.3), OK, "10 Hz"),
        (robot_state((IMAGES,), 0.05), BAD, "limit 0.05 s"),
        (robot_state((replace(IMAGES, listened=9.0),), 0.3), BAD, "silent for"),
        (robot_state((replace(NONE, topic="/robot/ee_pose"),), 0.3), BAD, "no publisher on /robot/ee_pose"),
        (robot_state((), 0.3), SKIP, "no bridge"),
        (controllers({"/robot/target_pose": ("/sim",)}, {}, NO_MANAGER), OK, "no controller_manager"),
        (controllers({"/robot/target_pose": ()}, {}, NO_MANAGER), BAD, "no subscriber on /robot/target_pose"),
        (controllers({"/target_pose": ()}, {"/crisp": "inactive"}, ""), BAD, "activate crisp"),
        (controllers({"/target_pose": ("/crisp",)}, {"/crisp": "active"}, ""), OK, "on /target_pose; active: crisp"),
        (controllers({"/target_pose": ("/crisp",)}, {"/crisp": "inactive", "/jsb": "active"}, ""), BAD,
         "ros2 control set_controller_state crisp active"),
        (controllers({"/l/target_pose": ("/l/crisp",)}, {"/l/crisp": "inactive"}, ""), BAD,
         "set_controller_state -c /l/controller_manager crisp active"),
        # An inactive one of another robot, or one that alternates with the active one on the same topic.
        (controllers({"/l/target_pose": ("/l/crisp",)}, {"/l/crisp": "active", "/r/crisp": "inactive"}, ""), OK,
         "not active: /r/crisp (inactive)"),
        (controllers({"/target_pose": ("/soft", "/crisp")}, {"/soft": "inactive", "/crisp": "active"}, ""), OK,
         "active: crisp; not active: soft (inactive)"),
        # Servo subscribes, but no controller receives its output.
        (controllers({"/servo_node/target": ("/servo_node",)}, {"/arm": "inactive"}, ""), BAD, "active: none"),
        (controllers({"/t": ("/crisp",)}, {}, NO_MANAGER_MESSAGES), SKIP, "is not installed (sudo apt"),
        (controllers({"/t": ("/crisp",)}, {}, MANAGER_SILENT), SKIP, "does not answer"),
        (controllers({}, {}, NO_MANAGER), SKIP, "no bridge"),
        (gate("READY", "waiting for an action"), OK, "READY"),
        (gate("", ""), BAD, "start the bridge"),
        (gate("HOLD", "not enabled"), SKIP, "until you allow motion"),
        (gate("HOLD", "no fresh robot state: 2.0 s old"), BAD, "fix what the reason names"),
        (gate("HOLD", "the joystick's button is not held"), BAD, "hold the deadman button"),
        (gate("INACTIVE", "not active"), BAD, "activate the bridge"),
        (gate("ESTOP", "emergency stop pressed", "/left/bridge_node"), BAD, "/left/bridge_node/reset_e_stop"),
        (checkpoint("/c", "", 1.5e10), OK, "15.00 GB"),
        (checkpoint("/c", "/c: model.safetensors is missing"), BAD, "complete folder"),
        (unnorm_key("", ["sim"]), OK, "the only one"),
        (unnorm_key("", ["sim", "real"]), BAD, "one of: real, sim"),
        (unnorm_key("bridge_orig", ["sim"]), BAD, "'bridge_orig' is not"),
        (unnorm_key("sim", []), BAD, "(it has none)"),
        (memory(15e9, 24e9, "cuda", "bf16", False), OK, "18.75 GB"),
        (memory(15e9, 16e9, "cuda", "bf16", False), BAD, "int4"),
        (memory(15e9, 1e9, "cuda", "bf16", True), OK, "already loaded"),
        (policy_rate(0.1, "measured here", 5.0, True, 2.0), OK, "10.0 Hz predicted"),
        (policy_rate(0.5, "measured here", 5.0, True, 2.0), BAD, "lower `rate`"),
        (policy_rate(0.5, "measured here", 5.0, False, 2.0), OK, "slower, and safe"),
        (policy_rate(3.0, "measured here", 5.0, False, 2.0), BAD, "at most 2 s"),
        (policy_rate(None, "", 5.0, True, 2.0), SKIP, "--policy"),
    ],
)  # fmt: skip
def test_checks_judge_facts_and_only_bad_has_remedy(finding, status, word):
    assert finding.status == status and word in finding.found + finding.remedy, finding
    assert bool(finding.remedy) == (status == BAD)


def test_stream_rate_loss_and_silence():
    assert IMAGES.rate() == pytest.approx(10.0) and IMAGES.lost() == 0.0
    assert replace(IMAGES, stamps=GAPS).lost() == pytest.approx(7 / 30, abs=0.02)
    assert IMAGES.silence() == pytest.approx(0.1)


def test_stream_without_messages_is_all_zero():
    assert NONE.rate() == NONE.lost() == NONE.silence() == 0.0


@pytest.fixture
def shipped_profile(root):
    return root / "config" / "dds" / "fastdds.xml"


def test_shipped_dds_profile_has_16_mib(shipped_profile):
    assert machine.segment_size(str(shipped_profile)) == 16 * 2**20


def test_dds_profile_that_is_no_default_sets_nothing(shipped_profile, tmp_path):
    unused = tmp_path / "unused.xml"
    unused.write_text(shipped_profile.read_text().replace('is_default_profile="true"', 'is_default_profile="false"'))
    assert machine.segment_size(str(unused)) is None


def test_unreadable_dds_profile_sets_nothing(tmp_path):
    assert machine.segment_size(str(tmp_path / "absent.xml")) is None
    (tmp_path / "broken.xml").write_text("<profiles>")
    assert machine.segment_size(str(tmp_path / "broken.xml")) is None


SHIPPED = "checkpoints/openvla-tiny-sim"


def values(**changes):
    return build(PolicyParameters, {"checkpoint": SHIPPED, "device": "cpu", "precision": "bf16"} | changes)


def rows_of(checkpoint, **changes):
    return policy_probe.policy_rows(values(checkpoint=str(checkpoint), **changes), loaded=False)


@pytest.fixture
def checkpoint_copy(root, tmp_path):
    return Path(shutil.copytree(root / SHIPPED, tmp_path / "copy"))


def test_shipped_checkpoint_passes_without_loading():
    assert [row.status for row in rows_of(SHIPPED)] == [OK, OK, OK]


def test_unknown_unnorm_key_lists_the_checkpoint_s():
    rows = rows_of(SHIPPED, unnorm_key="bridge_orig")
    assert [row.status for row in rows] == [OK, BAD, OK] and "sim_cubes" in rows[1].remedy


def test_truncated_weights_are_found(checkpoint_copy):
    weights = checkpoint_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "the copy is incomplete" in rows_of(checkpoint_copy)[0].found


def test_weights_of_another_format_are_found(checkpoint_copy):
    (checkpoint_copy / "model.safetensors").write_bytes(b"not safetensors at all")
    assert "not a readable safetensors" in rows_of(checkpoint_copy)[0].found


def test_config_that_does_not_match_weights_is_found(checkpoint_copy):
    config = json.loads((checkpoint_copy / "config.json").read_text())
    config["text_config"]["vocab_size"] = 9
    (checkpoint_copy / "config.json").write_text(json.dumps(config))
    assert rows_of(checkpoint_copy)[0].status == BAD


def test_missing_tokenizer_is_found(checkpoint_copy):
    (checkpoint_copy / "tokenizer.json").unlink()
    assert rows_of(checkpoint_copy)[0].status == BAD


def remote(**changes):
    return build(PolicyParameters, {"policy.backend": "remote", "server.timeout": 20.0} | changes)


def remote_rows(parameters, **changes):
    return policy_probe.policy_rows(remote(**parameters | changes), loaded=False)


@pytest.fixture
def policy():
    return LocalPolicy(serving.checkpoint(), unnorm_key="one", frame="tool0", period=0.1)


@pytest.fixture(params=["ws", "http"])
def server(request, policy, tmp_path):
    """Parameters that fit a policy server, which runs during the test."""
    token = tmp_path / "token"
    token.write_text("secret")
    with serving.listening(PolicyServer(policy, token="secret", about={"checkpoint": "the/7b"})) as address:
        yield {
            "server.url": f"{request.param}://{address}", "server.token_file": str(token), "frame": "tool0",
            "period": 0.1, "unnorm_key": "two",
        }  # fmt: skip


def test_policy_server_s_checkpoint_and_statistics_are_reported(server):
    rows = remote_rows(server)
    found = [(row.name, row.status) for row in rows]
    assert found == [("checkpoint", OK), ("unnorm_key", OK), ("policy memory", SKIP)]
    assert rows[0].found == f"the/7b, at the policy server {server['server.url']}" and rows[1].found == "two"


def test_policy_server_s_latency_is_measured(server):
    assert 0.0 < policy_probe.time_policy(remote(**server), predictions=2) < 20.0


def test_policy_server_s_unnorm_key_counts_where_none_is_set(server):
    row = remote_rows(server, unnorm_key="")[1]
    assert (row.status, row.found) == (OK, "one")


def test_unknown_unnorm_key_lists_the_server_s(server):
    row = remote_rows(server, unnorm_key="bridge_orig")[1]
    assert row.status == BAD and row.remedy.endswith("one of: one, two")


@pytest.mark.parametrize(("parameter", "problem"), [("server.token_file", "401"), ("frame", "actions of frame tool0")])
def test_parameter_that_the_server_refuses_is_bad(server, parameter, problem):
    row = remote_rows(server, **{parameter: ""})[0]
    assert row.status == BAD and problem in row.found and row.remedy, row


def test_slow_policy_server_is_a_timeout(server, policy, monkeypatch):
    @functools.wraps(policy.predict_batch)
    def slow(*arguments, **options):
        time.sleep(2.0)

    monkeypatch.setattr(policy, "predict_batch", slow)
    with pytest.raises(TimeoutError):
        policy_probe.time_policy(remote(**server | {"server.timeout": 1.0}))


@pytest.fixture
def dead_url():
    return f"ws://127.0.0.1:{serving.free_port()}"


def test_policy_server_that_is_down_has_a_remedy(dead_url):
    rows = remote_rows({"server.url": dead_url})
    assert [row.status for row in rows] == [BAD, SKIP, SKIP] and dead_url in rows[0].found
    assert rows[0].remedy.startswith("start it (openvla-serve CHECKPOINT"), rows[0]


def test_rate_of_a_server_that_is_down_is_bad(dead_url):
    policy = {row.name: row.default for row in parameter_rows(PolicyParameters)} | {
        "policy.backend": "remote",
        "server.url": dead_url,
    }
    values = {"policy_node": policy, "bridge_node": {"watchdog.observation": 2.0}}
    row = examination.policy_rate_row(values, status=None, measure=True)
    assert row.status == BAD and dead_url in row.found and row.remedy


@pytest.fixture
def configured():
    """Parameters of policy and bridge in the simulator with another camera, by node."""
    specs = {spec.name: spec for spec in bringup("sim", manager=False, camera="usb_cam")}
    return {name: examination.configured(specs[name]) for name in ("policy_node", "bridge_node")}


def test_node_parameters_come_from_defaults_yaml_and_process_table(configured):
    policy, bridge = configured["policy_node"], configured["bridge_node"]
    assert policy["checkpoint"] == SHIPPED and policy["image.max_age"] == 0.5 and policy["use_sim_time"] is True
    assert bridge["watchdog.state"] == 3.0
    assert set(bridge) >= {row.name for row in parameter_rows(BridgeParameters)}


def test_local_policy_s_latency_is_measured(configured):
    given = {name: value for name, value in configured["policy_node"].items() if name != "use_sim_time"}
    assert 0.0 < policy_probe.time_policy(build(PolicyParameters, given), predictions=2) < 60.0


def test_measuring_raises_what_loading_raises():
    with pytest.raises(ValueError, match="unnorm_key 'x' is unknown"):
        policy_probe.time_policy(values(unnorm_key="x"))


@pytest.mark.parametrize(
    "wrong",
    [["--robot", "r2d2"], ["--listen", "0"], ["--camera", "webcam"], ["--checkpoint", "c", "--server", "ws://s"]],
)
def test_wrong_options_have_an_exit_status_of_their_own(wrong, capsys):
    assert cli.main(wrong) == 2 and "openvla-doctor: " in capsys.readouterr().err


def test_table_prints_all_signs_and_brackets():
    rows = [Finding("a", OK, "axes [x]"), Finding("b", BAD, "no", "do"), Finding("c", SKIP, "?")]
    console = Console(width=100, file=io.StringIO())
    console.print(cli.table(rows))
    printed = console.file.getvalue()
    assert "✓" in printed and "✗" in printed and "–" in printed and "axes [x]" in printed
