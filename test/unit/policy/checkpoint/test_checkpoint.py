"""Checkpoint folders, adapters and tokenizers: written, read back, and the errors of broken ones."""

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
from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.checkpoint.folder import load_folder, save_folder
from openvla_policy.checkpoint.tokenizer import Tokenizer
from openvla_policy.checkpoint.tokenizer_training import train_tokenizer
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


def test_weights_are_written_as_bf16_by_default(tmp_path):
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


def test_dataset_statistics_replace_norm_stats(tmp_path):
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
    ("damage", "message"),
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
def test_broken_folders_are_reported(tmp_path, damage, message):
    save_folder(tmp_path, make())
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_folder(tmp_path)


def test_no_folder_and_no_hub_id():
    with pytest.raises(FileNotFoundError, match="no such folder, and not a hub id"):
        load_folder("/no/such/checkpoint")


def test_statistics_key_is_chosen_or_refused(tmp_path, frame):
    checkpoint = make()
    assert LocalPolicy(checkpoint).unnorm_key == "sim"  # the only one
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


PEFT_VARIANTS = {
    "patterns": dict(rank_pattern={"q_proj": 2, "mlp.fc1": 3}, alpha_pattern={"q_proj": 7, r"blocks\.0\.attn\.qkv": 5}),
    "rslora": dict(use_rslora=True),
    "bias": dict(bias="all"),
    "whole modules": dict(modules_to_save=["projector"], target_modules=["q_proj", "v_proj", "qkv"]),
    "dora": dict(use_dora=True),
    "dora and rslora": dict(use_dora=True, use_rslora=True, rank_pattern={"o_proj": 1}),
}


@pytest.mark.slow  # imports peft
@pytest.mark.parametrize("variant", PEFT_VARIANTS)
def test_every_kind_of_lora_merges_to_what_peft_computes(tmp_path, variant):
    import peft

    checkpoint = make(layer_scale=0.5)
    save_folder(tmp_path / "base", checkpoint, torch.float32)
    options = dict(r=4, lora_alpha=6, target_modules=linear_modules(checkpoint.model)) | PEFT_VARIANTS[variant]
    wrapped = peft.get_peft_model(checkpoint.model, peft.LoraConfig(**options)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
            elif "magnitude" in name:
                parameter.mul_(1.1)
            elif parameter.requires_grad and "lora_A" not in name:
                parameter.add_(0.01)
    wrapped.save_pretrained(tmp_path / "adapter")
    merged = load_folder(tmp_path / "adapter", base=tmp_path / "base")
    ids, pixels = torch.tensor([[1, 5, 9, 400]]), torch.randn(1, 6, 28, 28)
    with torch.inference_mode():
        expected = wrapped(input_ids=ids, pixel_values=pixels).logits
        untouched = make(layer_scale=0.5).model(ids, pixels).logits
        actual = merged.model(ids, pixels).logits
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)
    assert (actual - untouched).abs().max() > 1e-2


def test_an_adapter_that_is_not_lora_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(ValueError, match="only LoRA adapters can be merged.*IA3"):
        load_folder(tmp_path)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_have_the_given_dtype(tmp_path, stored):
    checkpoint = make()
    save_folder(tmp_path, checkpoint, stored)
    loaded = load_folder(tmp_path)
    for (name, one), two in zip(checkpoint.model.state_dict().items(), loaded.model.state_dict().values(), strict=True):
        assert two.dtype == torch.float32 and torch.equal(one.to(stored).float(), two), name
    low = load_folder(tmp_path, torch.bfloat16).model.state_dict()
    assert {tensor.dtype for tensor in low.values()} == {torch.bfloat16}


def test_shards_with_an_index_load_to_the_same_policy(tmp_path, frame):
    checkpoint = make()
    save_folder(tmp_path, checkpoint, torch.float32)
    weights.save_weights(checkpoint.model, tmp_path, torch.float32, shard_bytes=100_000)
    assert not (tmp_path / "model.safetensors").exists() and (tmp_path / "model.safetensors.index.json").exists()
    one, two = (LocalPolicy(c).predict(frame, "lift the red cube") for c in (checkpoint, load_folder(tmp_path)))
    assert (one.actions == two.actions).all()


def test_paths_with_v01_use_the_vicuna_prompt(frame):
    policy = LocalPolicy(make())
    assert policy.prompt_style == "openvla"
    policy.checkpoint.path = "openvla/openvla-v01-7b"
    vicuna = LocalPolicy(policy.checkpoint)
    asked = vicuna.checkpoint.tokenizer.encode_prompt(build_prompt("lift the red cube", "vicuna"))
    assert vicuna.prompt_style == "vicuna" and list(vicuna.encode_prompt("Lift the red cube")) == asked
    assert asked[-1] == vicuna.checkpoint.tokenizer.space_id


def test_an_unsupported_activation_is_refused(tmp_path):
    save_folder(tmp_path, make())
    break_json(
        tmp_path, text_config=json.loads((tmp_path / "config.json").read_text())["text_config"] | {"hidden_act": "x"}
    )
    with pytest.raises(ValueError, match="hidden_act: 'x' is not supported"):
        load_folder(tmp_path)


@pytest.fixture(scope="module")
def sentencepiece_folder(tmp_path_factory) -> Path:
    """A folder as Llama's, from before tokenizer.json: tokenizer.model, with the padding token added."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("sentencepiece")
    words = ["lift", "the", "red", "green", "cube", "place", "bowl", "upon", "plate", "What", "action?", "robot:", "12"]
    rng = np.random.default_rng(0)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(rng.choice(words, 6)) for _ in range(400)]),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=340,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": {"340": {"content": "<PAD>", "special": True}}, "bos_token": "<s>"})
    )
    return folder


def test_a_sentencepiece_model_gives_sentencepieces_ids(sentencepiece_folder):
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_folder / "tokenizer.model"))
    ours = Tokenizer.from_folder(sentencepiece_folder)
    rng = np.random.default_rng(1)
    texts = [build_prompt("lift the red cube"), "  two  spaces", "Zażółć ☃ 123", "lifted replaced uplift", "a\nb", "x"]
    texts += ["".join(rng.choice(list("liftherdcubWa? 12\n"), 40)) for _ in range(200)]
    for text in texts:
        assert ours.encode(text) == [1, *theirs.encode(text)], text
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))
    assert ours.backend.token_to_id("<PAD>") == 340 and (ours.bos_id, ours.eos_id) == (1, 2)
    assert ours.with_padding(340) is ours


def test_only_llamas_sentencepiece_and_a_place_for_the_padding(sentencepiece_folder, tmp_path):
    shutil.copy(sentencepiece_folder / "tokenizer.model", tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<PAD>": 341}))
    with pytest.raises(ValueError, match="'<PAD>' has another id than tokenizer_config.json's 341"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<PAD>": 340}))
    assert Tokenizer.from_folder(tmp_path).vocab_size == 341
    (tmp_path / "added_tokens.json").unlink()
    bare = Tokenizer.from_folder(tmp_path)
    padded = bare.with_padding(340)
    assert padded.backend.token_to_id("<PAD>") == 340 and bare.vocab_size == 340
    assert padded.encode(SENTENCES[0]) == bare.encode(SENTENCES[0])
    with pytest.raises(ValueError, match="<PAD> would get the id 340, this model's padding is 32000"):
        bare.with_padding(32000)
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(ValueError, match="not a sentencepiece model"):
        Tokenizer.from_folder(tmp_path)
