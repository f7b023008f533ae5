"""Models of other forms against runs of the reference: one encoder, and OFT heads."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.checkpoint.folder import load_folder
from openvla_policy.checkpoint.oft import load_heads
from openvla_policy.checkpoint.tokenizer_training import train_tokenizer
from openvla_policy.contract.image import ImagePreparation
from openvla_policy.contract.observation import Observation
from openvla_policy.model.heads import OFTConfig, OFTHeads
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_policy.runtime.oft_policy import OFTPolicy


@pytest.fixture(scope="module")
def single(reference, tmp_path_factory) -> Checkpoint:
    """One encoder whose patches leave a margin, grouped-query attention, statistics in a file of their own.

    The reference's model needs no tokenizer and no processor; any will do to open the folder.
    """
    folder = tmp_path_factory.mktemp("single")
    shutil.copytree(reference / "single_tiny/checkpoint", folder, dirs_exist_ok=True)
    train_tokenizer(["In: What action should the robot take to lift it?\nOut:"], 768).save(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(ImagePreparation.standard(118, ["half"]).to_config()))
    return load_folder(folder)


@pytest.mark.parametrize("runtime", ["eager", "static", "draft"])
def test_one_encoder_with_grouped_queries_and_tokens_outside_the_action_range(reference, single, runtime):
    expected = np.load(reference / "single_tiny/expected.npz")
    assert list(single.statistics) == ["fake_bridge", "fake_droid"] and single.config.patches == 64
    policy = LocalPolicy(single, unnorm_key="fake_droid", runtime=runtime)
    prompts = [expected[f"{n}_ids"].tolist() for n in range(6)]
    pixels = torch.from_numpy(np.stack([expected[f"{n}_pixels"] for n in range(6)])).float()
    batch = policy.runtime.generate(prompts, pixels).ids.numpy()
    outside = 0
    for n, prompt in enumerate(prompts):
        with torch.inference_mode():
            logits = single.model(torch.tensor([prompt]), pixels[n : n + 1]).logits[0, [0, 5, -2, -1]]
        np.testing.assert_allclose(logits.numpy(), expected[f"{n}_logits"], rtol=0, atol=1e-4)
        ids = policy.runtime.generate([prompt], pixels[n : n + 1]).ids[0].numpy()
        assert ids.tolist() == batch[n].tolist() == expected[f"{n}_generated"].tolist()
        outside += (~policy.tokens.is_action(ids)).sum()
        action = single.statistics["fake_droid"].unnormalise(policy.tokens.decode(ids))
        np.testing.assert_allclose(action, expected[f"{n}_actions"], rtol=0, atol=1e-6)
    assert outside > 20  # ids below the action tokens as well as in the padding above them


def test_oft_chunks(reference, images, tmp_path):
    """Two images, the state and eight actions: openvla-oft on its own transformers, from images to actions."""
    for source in (reference / "fused_tiny/checkpoint", reference / "oft_tiny"):
        for path in source.iterdir():
            (tmp_path / path.name).symlink_to(path)
    policy = load_policy(tmp_path, device="cpu")
    assert isinstance(policy, OFTPolicy) and policy.unnorm_key == "libero_goal_no_noops"
    assert policy.heads.config == OFTConfig(images=2, chunk=8, proprio=8, cameras=("wrist",))
    tokens = OFTPolicy(policy.checkpoint, OFTHeads(OFTConfig(2, 8, 0, False, ("wrist",)), 64))
    expected = np.load(reference / "oft_tiny/expected.npz")
    cases = json.loads((reference / "oft_tiny/cases.json").read_text())
    seen = [
        Observation(images[first], extra_images={"wrist": images[second]}, state=expected[f"{n}_state"])
        for n, (first, second, _) in enumerate(cases)
    ]
    sentences = [sentence for _, _, sentence in cases]
    for n, (regressed, chosen) in enumerate(
        zip(policy.predict_batch(seen, sentences), tokens.predict_batch(seen, sentences), strict=True)
    ):
        np.testing.assert_allclose(regressed.actions, expected[f"{n}_regression"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(chosen.actions, expected[f"{n}_tokens"], rtol=0, atol=1e-6)


def test_oft_heads_load_in_the_precision_of_the_model(reference):
    checkpoint = load_folder(reference / "fused_tiny/checkpoint", torch.bfloat16)
    heads = load_heads(reference / "oft_tiny", checkpoint, images=2, chunk=8)
    assert {tensor.dtype for tensor in heads.state_dict().values()} == {torch.bfloat16}
