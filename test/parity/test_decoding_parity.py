"""From image and sentence to action: prompt ids, greedy tokens, actions."""

from __future__ import annotations

import numpy as np
import torch

from openvla_policy.contract.observation import Observation
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.local_policy import LocalPolicy


def test_prompts_and_their_ids(policy, runs):
    checked = 0
    for run in runs:
        if run["kind"] == "processor":
            assert build_prompt(run["instruction"]) == run["prompt"]
        if run["kind"] != "llama2_ids":
            assert policy.checkpoint.tokenizer.encode(run["prompt"]) == run["input_ids"]
            assert policy.checkpoint.tokenizer.encode_prompt(run["prompt"]) == run["input_ids_used"]
            checked += 1
    assert checked == 13


def test_greedy_tokens_and_actions_of_every_run(policy, runs, images):
    assert len(runs) == 15
    for run in runs:
        image = policy.preparation(images[run["image"]])[None]
        ids = policy.runtime.generate([run["input_ids_used"]], image).ids[0].numpy()
        assert ids.tolist() == run["generated_ids"], run["run"]
        normalised = policy.tokens.decode(ids)
        np.testing.assert_allclose(normalised, run["normalized_action"], rtol=0, atol=1e-12)
        for key, wanted in run["actions"].items():
            action = policy.checkpoint.statistics[key].unnormalise(normalised)
            np.testing.assert_allclose(action, wanted, rtol=0, atol=1e-6)


def test_policy_answers_with_the_reference_action(policy, runs, images):
    for run in [run for run in runs if run["kind"] == "processor"][:3]:
        chunk = policy.predict(Observation(images[run["image"]]), run["instruction"].upper())
        np.testing.assert_allclose(chunk.actions[0], run["actions"]["fake_bridge"], rtol=0, atol=1e-6)
        assert chunk.token_ids.tolist() == [run["generated_ids"]]
        assert (chunk.statistics_name, len(chunk)) == ("fake_bridge", 1)


def test_a_batch_of_unequal_prompts_equals_one_by_one(policy, runs, images):
    chosen = [runs[index] for index in (0, 5, 8, 10, 12)]
    assert len({len(run["input_ids_used"]) for run in chosen}) > 2
    image = torch.stack([policy.preparation(images[run["image"]]) for run in chosen])
    batch = policy.runtime.generate([run["input_ids_used"] for run in chosen], image).ids.tolist()
    assert batch == [run["generated_ids"] for run in chosen]


def test_action_vocabulary_agrees_where_the_full_one_stays_inside(policy, runs, images):
    restricted = LocalPolicy(policy.checkpoint, unnorm_key="fake_bridge", vocabulary="actions")
    for run in runs[:4]:
        assert policy.tokens.is_action(run["generated_ids"]).all()
        image = policy.preparation(images[run["image"]])[None]
        assert restricted.runtime.generate([run["input_ids_used"]], image).ids[0].tolist() == run["generated_ids"]


def test_bf16_gives_the_reference_bf16_first_tokens(reference, runs, images):
    """In bf16 kernels round differently, so that only clear decisions agree: the first tokens of most runs."""
    low = load_policy(reference / "fused_tiny/checkpoint", unnorm_key="fake_bridge", precision="bf16", device="cpu")
    same = 0
    for run in runs:
        image = low.preparation(images[run["image"]])[None].to(low.dtype)
        ids = low.runtime.generate([run["input_ids_used"]], image).ids[0].tolist()
        same += ids[0] == run["generated_ids_bf16_cpu"][0]
    assert same >= 13


def test_rank_two_takes_the_runner_up(policy, runs, images):
    second = LocalPolicy(policy.checkpoint, unnorm_key="fake_bridge", token_rank=2)
    image = policy.preparation(images[runs[0]["image"]])[None]
    ids = second.runtime.generate([runs[0]["input_ids_used"]], image, 1).ids[0].tolist()
    assert ids == [runs[0]["step_top5_ids"][0][1]]
