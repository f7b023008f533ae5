"""Folders written and read back, adapters, the tokenizer, and what a broken folder says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from openvla_policy.checkpoint import weights
from openvla_policy.checkpoint.adapters import linear_modules
from openvla_policy.checkpoint.folder import Checkpoint, load_folder, save_folder
from openvla_policy.checkpoint.tokenizer import train_tokenizer
from openvla_policy.contract.image import ImagePreparation
from openvla_policy.contract.observation import Observation
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.contract.statistics import compute
from openvla_policy.model.config import OpenVLAConfig, tiny
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.local_policy import LocalPolicy

SENTENCES = [build_prompt(f"lift the {colour} cube") for colour in ("red", "green", "blue")]
SIZES = dict(image_size=28, vision_width=32, vision_depth=3, vision_heads=2, hidden_size=32, layers=2)


def make(fused: bool = True, **changes) -> Checkpoint:
    torch.manual_seed(0)
    config = tiny(**(SIZES | {"fused": fused} | changes))
    rng = np.random.default_rng(0)
    return Checkpoint(
        model=OpenVLA(config).eval(),
        config=config,
        tokenizer=train_tokenizer(SENTENCES, config.action_vocab_size),
        preparation=ImagePreparation.standard(config.image_size, ["imagenet", "half"] if fused else ["half"]),
        statistics={"sim": compute([rng.normal(size=(50, 7))], mask=[True] * 6 + [False])},
    )


@pytest.fixture
def frame() -> Observation:
    return Observation(np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("fused", [True, False])
def test_a_saved_folder_loads_to_the_same_policy(tmp_path, frame, fused):
    checkpoint = make(fused)
    save_folder(tmp_path / "a", checkpoint, torch.float32)
    loaded = load_folder(tmp_path / "a")
    assert loaded.config == checkpoint.config
    assert loaded.preparation == checkpoint.preparation
    assert loaded.statistics["sim"].hash == checkpoint.statistics["sim"].hash
    for (name, one), (other_name, two) in zip(
        checkpoint.model.state_dict().items(), loaded.model.state_dict().items(), strict=True
    ):
        assert name == other_name and torch.equal(one, two)
    before = LocalPolicy(checkpoint).predict(frame, "lift the red cube")
    after = LocalPolicy(loaded).predict(frame, "lift the red cube")
    assert (before.actions == after.actions).all() and before.statistics_hash == after.statistics_hash
    save_folder(tmp_path / "b", loaded, torch.float32)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_bf16_is_what_is_written_by_default(tmp_path):
    checkpoint = make()
    save_folder(tmp_path, checkpoint)
    stored = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert stored.keys() == checkpoint.model.state_dict().keys()
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_shards_and_a_single_file_hold_the_same(tmp_path, monkeypatch):
    checkpoint = make()
    weights.save_weights(checkpoint.model, tmp_path, torch.float32, shard_bytes=100_000)
    assert len(weights.weight_files(tmp_path)) > 2
    stored = dict(weights.read_tensors(tmp_path))
    assert stored.keys() == checkpoint.model.state_dict().keys()
    weights.weight_files(tmp_path)[1].unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of"):
        weights.weight_files(tmp_path)
    weights.save_weights(checkpoint.model, tmp_path, torch.float32)  # a smaller save leaves no shard behind
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]


def test_dataset_statistics_win_over_norm_stats(tmp_path):
    save_folder(tmp_path, make())
    data = json.loads((tmp_path / "dataset_statistics.json").read_text())
    (tmp_path / "dataset_statistics.json").write_text(json.dumps({"mine": data["sim"]}))
    assert list(load_folder(tmp_path).statistics) == ["mine"]
    (tmp_path / "dataset_statistics.json").unlink()
    assert list(load_folder(tmp_path).statistics) == ["sim"]


def test_unknown_fields_of_config_json_are_kept(tmp_path):
    save_folder(tmp_path, make())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"my_note": 3}))
    loaded = load_folder(tmp_path)
    assert loaded.config.to_dict()["my_note"] == 3


def break_json(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def break_weights(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    stored.pop("projector.fc2.bias")
    stored["projector.fc1.bias"] = stored["projector.fc1.bias"][:3].clone()
    stored["odd"] = torch.zeros(1)
    save_file(stored, folder / "model.safetensors")


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda f: (f / "config.json").unlink(), "config.json: missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: not valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object"),
        (lambda f: (f / "model.safetensors").unlink(), "neither model.safetensors nor"),
        (lambda f: (f / "model.safetensors").write_bytes(b"12345678"), "not a readable safetensors file"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: missing"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "preprocessor_config.json: missing"),
        (break_weights, r"unexpected odd; projector.fc1.bias is \(3,\), not \(256,\); missing projector.fc2.bias$"),
        (lambda f: break_json(f, vision_geometry=None), "openvla_tiny_dinov2.*not in the table.*vision_geometry"),
        (lambda f: break_json(f, image_sizes=[224]), "must come in pairs"),
        (lambda f: break_json(f, text_config={"model_type": "phi"}), "'phi' is not supported"),
        (lambda f: break_json(f, n_action_bins=5000), "n_action_bins: 5000 do not fit"),
    ],
)
def test_a_broken_folder_says_what_is_wrong(tmp_path, damage, said):
    save_folder(tmp_path, make())
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        load_folder(tmp_path)


def test_no_folder_and_no_hub_id():
    with pytest.raises(FileNotFoundError, match="no such folder, and not a hub id"):
        load_folder("/no/such/checkpoint")


def test_statistics_key_is_chosen_or_refused(tmp_path, frame):
    checkpoint = make()
    assert LocalPolicy(checkpoint).unnorm_key == "sim"  # the only one there is
    with pytest.raises(ValueError, match="'other' is unknown; this checkpoint has: sim"):
        LocalPolicy(checkpoint, unnorm_key="other")
    checkpoint.statistics["bridge"] = checkpoint.statistics["sim"]
    with pytest.raises(ValueError, match="unnorm_key is not set; this checkpoint has: bridge, sim"):
        LocalPolicy(checkpoint)
    checkpoint.statistics.clear()
    with pytest.raises(ValueError, match="no action statistics"):
        LocalPolicy(checkpoint)


@pytest.mark.slow  # imports peft
def test_an_adapter_trained_with_peft_merges_to_what_peft_computes(tmp_path):
    from openvla_policy.checkpoint.adapters import attach_lora

    checkpoint = make()
    save_folder(tmp_path / "base", checkpoint, torch.float32)
    wrapped = attach_lora(checkpoint.model, rank=4)
    adapted = {name.split(".lora_A")[0] for name, _ in wrapped.named_parameters() if "lora_A" in name}
    assert adapted == {f"base_model.model.{name}" for name in linear_modules(make().model)}
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    wrapped.peft_config["default"].base_model_name_or_path = "../base"
    wrapped.save_pretrained(tmp_path / "adapter")
    merged = load_folder(tmp_path / "adapter")
    ids, pixels = torch.tensor([[1, 5, 9, 400]]), torch.randn(1, 6, 28, 28)
    with torch.inference_mode():
        expected = wrapped(input_ids=ids, pixel_values=pixels).logits
        untouched = make().model(ids, pixels).logits
        actual = merged.model(ids, pixels).logits
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    assert (actual - untouched).abs().max() > 1e-2
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(FileNotFoundError, match="pass base="):
        load_folder(tmp_path / "adapter")


def test_tokenizer_has_llamas_layout():
    tokenizer = train_tokenizer(SENTENCES, 768)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.backend.token_to_id("<0x00>")) == (1, 2, 3)
    assert tokenizer.backend.token_to_id("<PAD>") == 768
    ids = tokenizer.encode_prompt(SENTENCES[0])
    assert ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.space_id
    assert tokenizer.encode_prompt(SENTENCES[0] + " ") == ids  # not appended twice
    assert max(ids) < 512  # the last 256 ids are actions alone
    assert train_tokenizer(reversed(SENTENCES), 768).backend.to_str() == tokenizer.backend.to_str()
    for text in ("lift the red cube", "Zażółć gęślą jaźń ☃ 123"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    with pytest.raises(ValueError, match="too small.*at least"):
        train_tokenizer(SENTENCES, 400)


def test_config_round_trip():
    config = tiny(kv_heads=2)
    assert OpenVLAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
