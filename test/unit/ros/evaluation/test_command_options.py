"""Options of openvla-demo and openvla-collect: what they set, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openvla_evaluation.report import outcomes
from openvla_evaluation.report.outcomes import Episode
from openvla_ros.evaluation import collect, demo

DEMO = demo.Options()


def episode(outcome: str) -> Episode:
    return Episode(1, 1_000_005, "lift the red cube", "red", outcome, "", (), 60, 20.0, (0.1,), (0.1,))


def test_demo_starts_the_policy_without_the_expert_acting() -> None:
    assert DEMO.node_parameters() == {"sim_node": {"expert.role": "off"}}


def test_expert_acts_without_parameters_of_a_policy() -> None:
    options = demo.Options(policy="expert", control_mode="streaming")
    assert options.node_parameters() == {
        "sim_node": {"expert.role": "act"}, "bridge_node": {"control_mode": "streaming"},
    }  # fmt: skip


def test_control_mode_is_set_on_the_bridge_alone() -> None:
    parameters = demo.Options(control_mode="streaming").node_parameters()
    assert parameters["bridge_node"] == {"control_mode": "streaming"} and "policy_node" not in parameters


def test_options_win_over_the_evaluation_settings() -> None:
    suite = demo.Options(episodes=3, seed=5).suite()
    assert (suite.episodes, suite.first_seed, suite.max_steps) == (3, 1_000_005, DEMO.suite().max_steps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "expert", "server": "ws://gpu:8000"}, "--policy expert uses no checkpoint and no server"),
        ({"checkpoint": Path("c"), "server": "ws://gpu:8000"}, "--checkpoint and --server exclude each other"),
        ({"server_token_file": Path("t")}, "--server-token-file needs --server"),
        ({"checkpoint": Path("/nonexistent")}, "--checkpoint /nonexistent: there is no such folder"),
    ],
)
def test_demo_refuses_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        demo.Options(**options).check()


def test_advice_follows_when_the_policy_lifts_nothing() -> None:
    episodes = [episode(outcomes.NOTHING), episode(outcomes.SUCCESS)]
    line = demo.advice(DEMO, episodes)
    assert line.startswith("nothing lifted in 1 of 2 episodes") and "docs/how-to/why-does-it-not-move.md" in line


@pytest.mark.parametrize("options", [demo.Options(camera="black"), demo.Options(policy="expert")])
def test_no_advice_where_lifting_nothing_is_expected(options: demo.Options) -> None:
    assert demo.advice(options, [episode(outcomes.NOTHING)]) == ""


def test_no_advice_after_success() -> None:
    assert demo.advice(DEMO, [episode(outcomes.SUCCESS)]) == ""


def test_collect_leaves_noise_to_the_yaml_unless_given() -> None:
    sim = collect.Options(episodes=1, output=Path("x"), noise=0.01).node_parameters()["sim_node"]
    assert sim["expert.role"] == "act" and sim["expert.noise.translation"] == 0.01
    assert "expert.noise.rotation" not in sim


def test_dagger_lets_the_expert_label() -> None:
    options = collect.Options(episodes=1, output=Path("x"), role="dagger", unnorm_key="sim_cubes")
    parameters = options.node_parameters()
    assert parameters["sim_node"]["expert.role"] == "label" and parameters["policy_node"] == {"unnorm_key": "sim_cubes"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "--episodes 0 and --instances 1 must be 1 or more"),
        ({"seed": 999_999, "episodes": 2}, "seeds 999999 to 1000000 are not all below 1000000"),
        ({"unnorm_key": "sim_cubes"}, "--unnorm-key is for --role dagger"),
        ({"role": "dagger", "checkpoint": Path("/nonexistent")}, "--checkpoint /nonexistent: there is no such folder"),
    ],
)
def test_collect_refuses_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collect.Options(**{"episodes": 1, "output": Path("x")} | options).seeds()
