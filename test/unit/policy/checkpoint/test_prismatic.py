"""Prismatic's own layout: bases without action tuning, OpenVLA's native checkpoints, timm's vision weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.checkpoint.folder import load_folder, save_folder
from openvla_policy.checkpoint.prismatic import load_prismatic, read_timm
from openvla_policy.checkpoint.tokenizer_training import train_tokenizer
from openvla_policy.contract.image import ImagePreparation
from openvla_policy.contract.observation import Observation
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.contract.statistics import compute
from openvla_policy.model.backbones import BASE_MODELS, BaseModel, network_of, prismatic_7b
from openvla_policy.model.config import OpenVLAConfig, tiny
from openvla_policy.model.vit_sizes import VisionGeometry
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.local_policy import LocalPolicy

SMALL = dict(image_size=28, vision_width=32, vision_depth=3, vision_heads=2, hidden_size=32, layers=2)
MODEL = {
    "model_id": "prism-dinosiglip-224px+7b",
    "vision_backbone_id": "dinosiglip-vit-so-224px",
    "llm_backbone_id": "llama2-7b-pure",
    "arch_specifier": "no-align+fused-gelu-mlp",
    "image_resize_strategy": "resize-naive",
    "llm_max_length": 2048,
}
PAD_FREE = train_tokenizer([build_prompt("lift the red cube")], 768)


def network(config: OpenVLAConfig) -> OpenVLA:
    torch.manual_seed(0)
    return OpenVLA(config).eval()


def native_state(model: OpenVLA, towers: tuple[str, ...]) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors as prismatic.models saves them: three modules, an nn.Sequential projector, timm's LayerScale name."""
    parts: dict[str, dict[str, torch.Tensor]] = {"vision_backbone": {}, "projector": {}, "llm_backbone": {}}
    only = "fc2" not in dict(model.projector.named_children())
    for name, tensor in model.state_dict().items():
        first, rest = name.split(".", 1)
        if first == "projector":
            layer, leaf = rest.split(".")
            parts["projector"][f"projector.{leaf}" if only else f"projector.{2 * int(layer[2:]) - 2}.{leaf}"] = tensor
        elif first == "language_model":
            parts["llm_backbone"]["llm." + rest] = tensor
        else:
            tower, leaf = rest.split(".", 1)
            native = towers[["featurizer", "fused_featurizer"].index(tower)]
            parts["vision_backbone"][f"{native}.{leaf.replace('scale_factor', 'gamma')}"] = tensor
    return parts


def write_run(folder: Path, model: OpenVLA, config: dict, towers=("dino_featurizer", "siglip_featurizer"), **changes):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    state = {k: v for k, v in (native_state(model, towers) | changes).items() if v is not None}
    torch.save({"model": state, "optimizer": None}, folder / "checkpoints" / "latest-checkpoint.pt")
    tokens = folder / "tokenizer"
    tokens.mkdir()
    PAD_FREE.save(tokens)


def same_logits(one: OpenVLA, two: OpenVLA) -> bool:
    ids, size = torch.tensor([[1, 5, 300, 17]]), one.config.image_size
    pixels = torch.randn(1, 3 * len(one.config.vision), size, size)
    with torch.inference_mode():
        return bool(torch.equal(one(ids, pixels).logits, two(ids, pixels).logits))


def test_a_base_model_loads_but_does_not_act(tmp_path):
    config = tiny(**SMALL, layer_scale=0.1)
    model = network(config)
    write_run(tmp_path, model, {"model": MODEL})
    stored = torch.load(tmp_path / "checkpoints/latest-checkpoint.pt", weights_only=True)["model"]
    assert "dino_featurizer.blocks.0.ls1.gamma" in stored["vision_backbone"]
    assert {"projector.0.weight", "projector.4.bias"} < stored["projector"].keys()
    base = load_prismatic(tmp_path, tokenizer=tmp_path / "tokenizer", config=config)
    assert same_logits(base.model, model)
    assert base.statistics == {} and base.tokenizer.backend.token_to_id("<PAD>") == 768
    labels = torch.tensor([[-100, -100, 300, 600]])
    base.model(torch.tensor([[1, 5, 300, 600]]), torch.randn(1, 6, 28, 28), labels=labels).loss.backward()
    with pytest.raises(ValueError, match="no action statistics"):
        LocalPolicy(base)
    save_folder(tmp_path / "hf", base, torch.float32)  # what a trainer starts from
    assert same_logits(load_folder(tmp_path / "hf").model, model)


def test_a_policy_acts_from_its_run_directory(tmp_path, monkeypatch):
    config = tiny(**SMALL)
    model = network(config)
    write_run(tmp_path, model, {"vla": {"vla_id": "x", "base_vlm": "/runs/prism-dinosiglip-224px+7b"}})
    statistics = compute([np.random.default_rng(0).normal(size=(50, 7))])
    (tmp_path / "dataset_statistics.json").write_text(json.dumps({"bridge_orig": statistics.to_json()}))
    PAD_FREE.save(tmp_path)
    monkeypatch.setattr("openvla_policy.checkpoint.prismatic.network_of", lambda base: config)
    policy = load_policy(tmp_path, device="cpu")
    assert policy.unnorm_key == "bridge_orig" and same_logits(policy.checkpoint.model, model)
    frame = Observation(np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    assert np.isfinite(policy.predict(frame, "lift the red cube").actions).all()


def test_the_latest_or_the_given_step_is_loaded(tmp_path):
    config = tiny(**SMALL)
    old, new = network(config), network(config)
    with torch.no_grad():
        new.language_model.lm_head.weight.mul_(2)
    write_run(tmp_path, old, {"model": MODEL})
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "latest-checkpoint.pt").rename(checkpoints / "step-090000-epoch-10-loss=0.3.pt")
    towers = ("dino_featurizer", "siglip_featurizer")
    torch.save({"model": native_state(new, towers)}, checkpoints / "step-295000-epoch-40-loss=0.2200.pt")
    options = dict(tokenizer=tmp_path / "tokenizer", config=config)
    assert same_logits(load_prismatic(tmp_path, **options).model, new)
    assert same_logits(load_prismatic(tmp_path, **options, step="090000").model, old)
    with pytest.raises(FileNotFoundError, match="'7' names 0 of the files"):
        load_prismatic(tmp_path, **options, step="7")


@pytest.mark.parametrize("projector", ["mlp", "linear"])
def test_one_encoder_and_a_linear_projector(tmp_path, projector):
    config = replace(tiny(**SMALL, fused=False), projector=projector)
    model = network(config)
    write_run(tmp_path, model, {"model": MODEL | {"arch_specifier": "linear"}}, ("featurizer",))
    base = load_prismatic(tmp_path, tokenizer=tmp_path / "tokenizer", config=config)
    assert same_logits(base.model, model)


def test_frozen_vision_weights_come_from_timm_files(tmp_path):
    """Dropped heads, LayerScale's name, and a position embedding of another grid."""
    config = tiny(**SMALL, layer_scale=0.1)
    model = network(config)
    write_run(tmp_path, model, {"model": MODEL}, vision_backbone=None)
    options = dict(tokenizer=tmp_path / "tokenizer", config=config)
    with pytest.raises(ValueError, match=r"no vision weights.*pass vision= with 2 timm weight file\(s\), of openvla_"):
        load_prismatic(tmp_path, **options)
    towers = [model.vision_backbone.featurizer, model.vision_backbone.fused_featurizer]
    dino = {name.replace("scale_factor", "gamma"): tensor for name, tensor in towers[0].state_dict().items()}
    save_file(dino | {"head.weight": torch.zeros(2, 32)}, tmp_path / "dino.safetensors")
    siglip = {f"visual.trunk.{name}": tensor for name, tensor in towers[1].state_dict().items()}
    torch.save(siglip | {"text.x": torch.zeros(1)}, tmp_path / "siglip.bin")
    base = load_prismatic(tmp_path, **options, vision=[tmp_path / "dino.safetensors", tmp_path / "siglip.bin"])
    assert same_logits(base.model, model)


@pytest.mark.parametrize("front", [0, 1])
def test_a_position_embedding_is_resampled_as_timm_does(tmp_path, front):
    geometry = VisionGeometry("x", 56, 14, 8, 2, 2, class_token=True, embed_class=bool(front))
    torch.manual_seed(0)
    stored = torch.randn(1, front + 7 * 7, 8)
    torch.save({"pos_embed": stored}, tmp_path / "vit.bin")
    read = read_timm(tmp_path / "vit.bin", geometry)["pos_embed"]
    grid = stored[:, front:].reshape(1, 7, 7, 8).permute(0, 3, 1, 2)
    wanted = F.interpolate(grid, size=[4, 4], mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    assert torch.equal(read[:, :front], stored[:, :front])
    torch.testing.assert_close(read[:, front:], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ({"model": {"model_id": "x"}}, {}, "'model' lacks arch_specifier, image_resize_strategy, llm_backbone_id"),
        ({"vla": {"base_vlm": "other+7b"}}, {}, "base_vlm 'other\\+7b' is unknown"),
        ({"x": 1}, {}, "expected an object 'model' or 'vla'"),
        ({"model": MODEL | {"llm_backbone_id": "phi-2-3b"}}, {}, "'phi-2-3b' is not supported; the Llama models are"),
        ({"model": MODEL | {"vision_backbone_id": "sam"}}, {}, "'sam' is unknown; known are"),
        ({"model": MODEL}, {"projector": None}, "needs projector and llm_backbone; it has vision_backbone"),
    ],
)
def test_invalid_runs_are_reported(tmp_path, config, changes, message):
    write_run(tmp_path, network(tiny(**SMALL)), config, **changes)
    with pytest.raises(ValueError, match=message):
        load_prismatic(tmp_path, tokenizer=tmp_path / "tokenizer")


def test_a_missing_tokenizer_is_named(tmp_path):
    config = replace(tiny(**SMALL), extra={"hf_llm_id": "meta-llama/Llama-2-7b-hf"})
    write_run(tmp_path, network(config), {"model": MODEL})
    with pytest.raises(FileNotFoundError, match="pass tokenizer= with a folder that has the one of meta-llama/Llama-2"):
        load_prismatic(tmp_path, config=config)


@pytest.mark.parametrize(
    "name", ["prism-dinosiglip-224px+7b", "prism-dinosiglip+13b", "siglip-224px+7b", "prism-clip+7b"]
)
def test_a_base_builds_at_its_size_and_round_trips(name):
    config = prismatic_7b(name)
    assert OpenVLAConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with torch.device("meta"):
        model = OpenVLA(config)
        tokens = model.image_tokens(torch.zeros(1, 3 * len(config.vision), config.image_size, config.image_size))
    assert tokens.shape == (1, config.patches, 5120 if "13b" in name else 4096)
    language = sum(p.numel() for p in model.language_model.parameters())
    # Llama 2's published counts, and 64 rows more in embedding and head.
    assert language == (13_015_864_320 + 64 * 2 * 5120 if "13b" in name else 6_738_415_616 + 64 * 2 * 4096)


def test_every_base_is_a_network():
    for name in BASE_MODELS:
        config = prismatic_7b(name)
        assert config.fused == ("dino" in name) and config.text.vocab_size == 32064


def test_the_default_base_has_the_published_policys_network():
    from openvla_policy.model.config import openvla_7b

    base, policy = prismatic_7b(), openvla_7b()
    assert base.vision == policy.vision and base.text.rms_norm_eps == 1e-5 != policy.text.rms_norm_eps
    assert replace(base.text, rms_norm_eps=1e-6, max_position_embeddings=2048) == policy.text
    with pytest.raises(ValueError, match="'x' is unknown; known are"):
        prismatic_7b("x")


def small(config: OpenVLAConfig) -> OpenVLAConfig:
    """The same form with few parameters: two heads, three blocks, two layers, four by four patches."""
    vision = tuple(
        replace(g, image_size=g.patch * 4, width=32, depth=3, heads=2, mlp_ratio=2.0, name=f"small_{g.name}")
        for g in config.vision
    )
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, head_dim=16)
    text = replace(config.text, **shape, num_key_value_heads=2, vocab_size=832)
    return replace(config, vision=vision, text=text, pad_token_id=768)


@pytest.mark.parametrize(
    ("vision", "arch"),
    [(name, "no-align+gelu-mlp") for name in ("clip-vit-l-336px", "siglip-vit-so400m", "dinov2-vit-l", "in1k-vit-l")]
    + [("clip-vit-l-336px", "linear"), ("dinoclip-vit-l-336px", "no-align+fused-gelu-mlp")],
)
def test_every_kind_of_backbone_round_trips_and_predicts(tmp_path, vision, arch):
    config = small(network_of(BaseModel(vision, "vicuna-v15-7b", arch, "letterbox")))
    encoders = ["imagenet" if "dino" in g.name else "half" for g in config.vision]
    checkpoint = Checkpoint(
        model=network(config),
        config=config,
        tokenizer=PAD_FREE,
        preparation=replace(ImagePreparation.standard(config.image_size, encoders), strategy="letterbox"),
        statistics={"sim": compute([np.random.default_rng(0).normal(size=(50, 7))])},
    )
    save_folder(tmp_path, checkpoint, torch.float32)
    loaded = load_folder(tmp_path)
    assert loaded.config == config and loaded.preparation.strategy == "letterbox"
    assert loaded.config.vision[-1].quick_gelu == ("clip" in vision)
    frame = Observation(np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    one, two = (LocalPolicy(c, prompt_style="vicuna").predict(frame, "lift the red cube") for c in (checkpoint, loaded))
    assert (one.actions == two.actions).all() and (one.token_ids == two.token_ids).all()
