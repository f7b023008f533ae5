"""OpenVLA-OFT policies: against an independent computation, from folder to policy, and errors."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.checkpoint.folder import save_folder
from openvla_policy.checkpoint.oft import load_heads, save_oft_folder
from openvla_policy.checkpoint.tokenizer_training import train_tokenizer
from openvla_policy.contract.image import ImagePreparation
from openvla_policy.contract.observation import Observation
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.contract.statistics import compute
from openvla_policy.model.config import tiny
from openvla_policy.model.heads import OFTConfig, OFTHeads
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.oft_policy import OFTPolicy

SIZES = OFTConfig(images=2, chunk=3, proprio=8, cameras=("wrist",))
WORDS = ["lift the red cube", "put the blue bowl on the plate", "open"]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """Grouped-query attention; weights spread so that nothing is near zero."""
    torch.manual_seed(0)
    config = tiny(image_size=28, vision_width=32, vision_depth=3, vision_heads=2, hidden_size=64, layers=2, kv_heads=2)
    model = OpenVLA(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    rng = np.random.default_rng(0)
    return Checkpoint(
        model=model,
        config=config,
        tokenizer=train_tokenizer([build_prompt(text) for text in WORDS], config.action_vocab_size),
        preparation=ImagePreparation.standard(28, ["imagenet", "half"]),
        statistics={
            "libero_10_no_noops": compute(
                [rng.normal(size=(50, 7))], [rng.normal(size=(50, 8))], mask=[True] * 6 + [False]
            )
        },
    )


def heads_of(config: OFTConfig) -> OFTHeads:
    torch.manual_seed(1)
    heads = OFTHeads(config, 64).eval()
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return heads


def observation(seed: int, **changes) -> Observation:
    rng = np.random.default_rng(seed)
    frames = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(2)]
    given = dict(image=frames[0], extra_images={"wrist": frames[1]}, state=rng.normal(size=8))
    return Observation(**(given | changes))


def normalised_state(checkpoint: Checkpoint, state: np.ndarray) -> np.ndarray:
    """As in experiments/robot/openvla_utils.py."""
    entry = checkpoint.statistics["libero_10_no_noops"].proprio
    return np.clip(2 * (state - entry.q01) / (entry.q99 - entry.q01 + 1e-8) - 1, -1, 1)


def independent_hidden(checkpoint: Checkpoint, seen: Observation, sentence: str, heads: OFTHeads) -> torch.Tensor:
    """Hidden states by transformers' Llama under a 4-D mask of zeros: bidirectional attention."""
    from transformers import LlamaConfig, LlamaModel

    text, model = checkpoint.config.text, checkpoint.model
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    sizes = {name: getattr(text, name) for name in (*names, "vocab_size", "rms_norm_eps")}
    theirs = LlamaModel(LlamaConfig(**sizes, attn_implementation="eager")).eval()
    theirs.load_state_dict(model.language_model.model.state_dict())
    ids = torch.tensor([checkpoint.tokenizer.encode_prompt(build_prompt(sentence))])
    words = theirs.embed_tokens(ids)
    parts = [words[:, :1]]
    images = (seen.image, *seen.extra_images.values())
    parts += [model.projector(model.vision_backbone(checkpoint.preparation(image)[None])) for image in images]
    if heads.config.proprio:
        state = torch.from_numpy(normalised_state(checkpoint, seen.state)).float()
        weights = heads.proprio_projector.state_dict()
        hidden = F.gelu(weights["fc1.weight"] @ state + weights["fc1.bias"])
        parts.append((weights["fc2.weight"] @ hidden + weights["fc2.bias"])[None, None])
    count = 7 * heads.config.chunk
    parts += [words[:, 1:], torch.zeros(1, count, 64), theirs.embed_tokens(torch.tensor([[2]]))]
    embeds = torch.cat(parts, dim=1)
    length = embeds.shape[1]
    output = theirs(inputs_embeds=embeds, attention_mask=torch.zeros(1, 1, length, length)).last_hidden_state[0]
    # One earlier than the empty embeddings, whose last is followed by </s> alone.
    return output[length - count - 2 : length - 2]


def independent_regression(hidden: torch.Tensor, heads: OFTHeads) -> torch.Tensor:
    """The L1 head from its stored tensors, key by key."""
    w = heads.action_head.state_dict()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    x = norm(hidden.reshape(heads.config.chunk, -1), "layer_norm1")
    x = F.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
    for n in range(2):
        name = f"mlp_resnet_blocks.{n}.ffn"
        x = x + F.relu(norm(x, f"{name}.0") @ w[f"{name}.1.weight"].T + w[f"{name}.1.bias"])
    return norm(x, "layer_norm2") @ w["fc2.weight"].T + w["fc2.bias"]


@pytest.mark.slow  # imports transformers
@torch.inference_mode()
def test_actions_equal_an_independent_computation(checkpoint):
    seen, heads = observation(1), heads_of(SIZES)
    hidden = independent_hidden(checkpoint, seen, WORDS[0], heads)
    wanted = independent_regression(hidden, heads).double().numpy()
    entry = checkpoint.statistics["libero_10_no_noops"]
    chunk = OFTPolicy(checkpoint, heads).predict(seen, WORDS[0].upper())
    np.testing.assert_allclose(chunk.actions, entry.unnormalise(wanted), rtol=0, atol=1e-4)
    assert len(chunk) == 3 and chunk.token_ids is None and np.ptp(chunk.actions, axis=0).min() > 1e-3

    discrete = heads_of(replace(SIZES, regression=False))
    logits = checkpoint.model.language_model.lm_head(independent_hidden(checkpoint, seen, WORDS[0], discrete))
    logits[:, checkpoint.tokenizer.eos_id] = -torch.inf
    chunk = OFTPolicy(checkpoint, discrete).predict(seen, WORDS[0])
    assert chunk.token_ids.tolist() == logits.argmax(-1).view(3, 7).tolist()
    decoded = checkpoint.action_tokenizer.decode(chunk.token_ids)
    np.testing.assert_allclose(chunk.actions, entry.unnormalise(decoded), rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", [SIZES, OFTConfig(chunk=2), replace(SIZES, regression=False, proprio=0)])
def test_a_batch_equals_one_by_one(checkpoint, config):
    policy = OFTPolicy(checkpoint, heads_of(config), period=0.05, frame="base")
    seen = [observation(n) for n in range(3)]
    assert len({len(checkpoint.tokenizer.encode_prompt(build_prompt(text))) for text in WORDS}) == 3
    batch = policy.predict_batch(seen, WORDS)
    for chunk, one, sentence in zip(batch, seen, WORDS, strict=True):
        alone = policy.predict(one, sentence)
        assert len(chunk) == config.chunk and (chunk.period, chunk.frame) == (0.05, "base")
        np.testing.assert_allclose(chunk.actions, alone.actions, rtol=0, atol=1e-5)
        assert (chunk.token_ids is None) == config.regression
        if not config.regression:
            assert (chunk.token_ids == alone.token_ids).all()
    assert np.abs(batch[0].actions - batch[1].actions).max() > 1e-3


def test_every_input_changes_the_actions(checkpoint):
    policy, seen = OFTPolicy(checkpoint, heads_of(SIZES)), observation(5)
    before = policy.predict(seen, WORDS[0]).actions
    for change in ({"image": 255 - seen.image}, {"extra_images": {"wrist": seen.image}}, {"state": seen.state + 0.3}):
        assert np.abs(policy.predict(replace(seen, **change), WORDS[0]).actions - before).max() > 1e-3, change
    assert np.abs(policy.predict(seen, WORDS[1]).actions - before).max() > 1e-3


def as_trained_on_several_gpus(file: Path) -> None:
    state = torch.load(file, weights_only=True)
    torch.save(OrderedDict((f"module.{key}", value) for key, value in state.items()), file)


def test_a_folder_with_heads_becomes_a_policy(tmp_path, checkpoint):
    heads, seen = heads_of(SIZES), observation(2)
    wanted = OFTPolicy(checkpoint, heads).predict(seen, WORDS[0]).actions
    save_oft_folder(tmp_path, checkpoint, heads, step=150000, dtype=torch.float32)
    names = {"action_head--150000_checkpoint.pt", "proprio_projector--150000_checkpoint.pt"}
    assert names < {path.name for path in tmp_path.iterdir()}
    stored = torch.load(tmp_path / "action_head--150000_checkpoint.pt", weights_only=True)
    assert stored.keys() >= {"model.layer_norm1.weight", "model.mlp_resnet_blocks.1.ffn.1.bias", "model.fc2.weight"}
    loaded = load_policy(tmp_path, device="cpu", runtime="static")
    assert isinstance(loaded, OFTPolicy) and loaded.heads.config == SIZES
    np.testing.assert_array_equal(loaded.predict(seen, WORDS[0]).actions, wanted)

    # As released: nothing in config.json, keys of distributed training; LIBERO is recognised by its statistics' name.
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "oft"}))
    for name in names:
        as_trained_on_several_gpus(tmp_path / name)
    released = load_policy(tmp_path, device="cpu")
    assert released.heads.config == replace(SIZES, chunk=8)
    told = load_policy(tmp_path, device="cpu", chunk=3, cameras=["hand"])
    np.testing.assert_array_equal(
        told.predict(replace(seen, extra_images={"hand": seen.extra_images["wrist"]}), WORDS[0]).actions, wanted
    )


def test_given_sizes_without_heads_decode_parallel_tokens(tmp_path, checkpoint):
    save_folder(tmp_path, checkpoint, torch.float32)
    policy = load_policy(tmp_path, device="cpu", images=1, chunk=4)
    alone = OFTPolicy(checkpoint, OFTHeads(OFTConfig(chunk=4, regression=False), 64)).predict(observation(1), WORDS[0])
    assert (policy.predict(observation(1), WORDS[0]).token_ids == alone.token_ids).all() and len(alone) == 4


def test_an_unmerged_oft_run_finds_its_base(tmp_path, checkpoint):
    """While LoRA is not merged the folder has `lora_adapter` and no weights."""
    save_folder(tmp_path / "base", checkpoint, torch.float32)
    save_oft_folder(tmp_path / "run", checkpoint, heads_of(SIZES), dtype=torch.float32)
    (tmp_path / "run/model.safetensors").unlink()
    adapter = tmp_path / "run/lora_adapter"
    adapter.mkdir()
    described = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": str(tmp_path / "base")}
    (adapter / "adapter_config.json").write_text(json.dumps(described))
    torch.manual_seed(2)
    name = "language_model.model.layers.0.mlp.up_proj"
    a, b = torch.randn(2, 64), torch.randn(checkpoint.config.text.intermediate_size, 2)
    torch.save(
        {f"base_model.model.{name}.lora_{kind}.weight": value for kind, value in (("A", a), ("B", b))},
        adapter / "adapter_model.bin",
    )
    policy = load_policy(tmp_path / "run", device="cpu")
    wanted = checkpoint.model.get_submodule(name).weight + 2.0 * b @ a
    torch.testing.assert_close(policy.checkpoint.model.get_submodule(name).weight, wanted, rtol=0, atol=1e-5)
    assert isinstance(policy, OFTPolicy) and list(policy.checkpoint.statistics) == ["libero_10_no_noops"]


class Payload:
    """A malicious file that runs code when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("the checkpoint's code ran",))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: torch.save({}, f / "vision_backbone--1_checkpoint.pt"), "FiLM-conditioned vision, which is not"),
        (lambda f: torch.save({}, f / "noisy_action_projector--1_checkpoint.pt"), "diffusion head, which is not"),
        (
            lambda f: torch.save({"noise_predictor.x": torch.ones(1)}, f / "action_head--0_checkpoint.pt"),
            "denoises",
        ),
        (lambda f: torch.save({}, f / "action_head--7_checkpoint.pt"), "several action_head files"),
        (lambda f: torch.save(Payload(), f / "action_head--0_checkpoint.pt"), "not a file of tensors"),
        (lambda f: (f / "action_head--0_checkpoint.pt").write_bytes(b"12"), "not a file of tensors"),
        (
            lambda f: torch.save({"model.fc1.weight": torch.ones(2, 2)}, f / "action_head--0_checkpoint.pt"),
            "do not fit the model",
        ),
    ],
)
def test_unreadable_heads_are_reported(tmp_path, checkpoint, damage, message):
    save_oft_folder(tmp_path, checkpoint, heads_of(SIZES))
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_heads(tmp_path, checkpoint)


def test_missing_head_files_are_reported(tmp_path, checkpoint):
    save_oft_folder(tmp_path, checkpoint, heads_of(SIZES))
    for part in ("proprio_projector", "action_head"):
        (tmp_path / f"{part}--0_checkpoint.pt").unlink()
        with pytest.raises(FileNotFoundError, match=f"mentions OFT heads, but {part}--"):
            load_policy(tmp_path, device="cpu")


def test_unknown_sizes_must_be_given(tmp_path, checkpoint):
    other = replace(checkpoint, statistics={"kitchen": checkpoint.statistics["libero_10_no_noops"]})
    save_oft_folder(tmp_path, other, heads_of(SIZES))
    with pytest.raises(ValueError, match=r"statistics' names \(kitchen\) say.*pass images= and chunk="):
        load_heads(tmp_path, other)
    assert load_heads(tmp_path, other, images=2, chunk=3).config == SIZES
    with pytest.raises(ValueError, match="4 images need 3 camera names"):
        load_heads(tmp_path, other, images=4, chunk=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"extra_images": {"side": np.zeros((4, 4, 3), np.uint8)}},
            "camera 'wrist': missing.*has the primary image, side",
        ),
        ({"state": None}, "state: this policy reads 8 finite numbers.*there is none.*Observation.state"),
        ({"state": np.zeros(7)}, r"8 finite numbers.*got \[0.0"),
        ({"state": np.full(8, np.nan)}, "8 finite numbers"),
    ],
)
def test_missing_inputs_are_reported_with_a_remedy(checkpoint, change, message):
    policy = OFTPolicy(checkpoint, heads_of(SIZES))
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        policy.predict(replace(observation(3), **change), WORDS[0])


def test_options_that_need_token_by_token_decoding_are_refused(checkpoint):
    with pytest.raises(ValueError, match="no second most likely"):
        OFTPolicy(checkpoint, heads_of(SIZES), idle="requery")
    with pytest.raises(ValueError, match="of the model's 2048 positions"):
        OFTPolicy(checkpoint, heads_of(SIZES)).predict(observation(1), "x " * 2100)
    bare = replace(checkpoint.statistics["libero_10_no_noops"], proprio=None)
    with pytest.raises(ValueError, match="reads a state of 8 numbers, its proprio has none"):
        OFTPolicy(replace(checkpoint, statistics={"a": bare}), heads_of(SIZES)).predict(observation(1), "open")
