"""Number formats: what is quantised, how accurate it is, its memory, and unavailable formats."""

from __future__ import annotations

import logging
from importlib import util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from openvla_policy.checkpoint import weights
from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.checkpoint.folder import load_folder, save_folder
from openvla_policy.checkpoint.tokenizer_training import train_tokenizer
from openvla_policy.contract.image import ImagePreparation
from openvla_policy.contract.observation import Observation
from openvla_policy.contract.statistics import compute
from openvla_policy.model.config import mid, tiny
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime import memory, precision as precisions
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.precision import compute_dtype, load, obstacle, placer

QUANTISED = ("int8", "int4", "int8-torchao")  # those available on a CPU
SIZES = dict(image_size=56, vision_width=64, vision_depth=3, vision_heads=2, hidden_size=128, layers=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    config = tiny(**SIZES)
    checkpoint = Checkpoint(
        model=OpenVLA(config).eval(),
        config=config,
        tokenizer=train_tokenizer(["lift the red cube"], config.action_vocab_size),
        preparation=ImagePreparation.standard(config.image_size, ["imagenet", "half"]),
        statistics={"sim": compute([np.random.default_rng(0).normal(size=(50, 7))])},
    )
    save_folder(path, checkpoint, torch.float32)
    return path


def logits(model: OpenVLA) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 500, (1, 12), generator=generator)
    pixels = torch.randn(1, 6, 56, 56, generator=generator)
    with torch.inference_mode():
        return model(ids, pixels.to(model.language_model.lm_head.weight.dtype)).logits.float()


@pytest.mark.parametrize(("name", "bound"), [("bf16", 0.03), ("int8", 0.06), ("int4", 0.35), ("int8-torchao", 0.05)])
def test_logits_stay_close_to_full_precision(folder, name, bound):
    exact = logits(load(folder).model)
    difference = logits(load(folder, name).model) - exact
    share = float(difference.norm() / exact.norm())
    assert 0 < share < bound


@pytest.mark.parametrize("name", QUANTISED)
def test_only_the_documented_matrices_are_quantised(folder, name):
    model = load(folder, name).model
    kinds = {
        path: type(module.weight).__name__ for path, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    quantised = {path for path, kind in kinds.items() if kind != "Parameter"}
    decoder = {path for path in kinds if path.startswith("language_model.model.layers.")}
    assert len(decoder) == 2 * 7
    if name == "int8-torchao":
        assert quantised == decoder
    else:
        assert quantised == set(kinds) - {"language_model.lm_head"}
    assert type(model.language_model.model.embed_tokens.weight) is nn.Parameter
    assert not any(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "bits"), [("fp32", 32), ("bf16", 16), ("int8", 8), ("int4", 4.5), ("int8-torchao", 8)]
)
def test_memory_includes_quantised_weights_and_scales(folder, name, bits):
    model = load(folder, name).model
    elements = sum(p.numel() for n, p in load(folder).model.named_parameters() if ".layers." in n and "norm" not in n)
    used = memory.measure(model, "cpu").weights
    rows = 2 * (5 * 128 + 2 * 341)
    scales = 5 * rows if "int8" in name else 0  # a float32 a row, and for torchao an int8 zero point
    norms = 4 * 128 * 5
    assert elements * bits / 8 <= used["decoder"] <= elements * bits / 8 + scales + norms
    logits(model)  # bitsandbytes moves tensors in the first forward pass
    assert memory.measure(model, "cpu").weights["decoder"] <= elements * bits / 8 + scales + norms
    assert used["head"] == model.language_model.lm_head.weight.nbytes


def test_a_tied_head_is_counted_once():
    model = OpenVLA(tiny(**SIZES))
    model.language_model.lm_head.weight = model.language_model.model.embed_tokens.weight
    used = memory.measure(model, "cpu")
    assert used.total == sum(p.nbytes for p in model.parameters())
    assert "GB" in memory.readable(2 * 10**9) and memory.readable(12 * 10**6) == "12.0 MB"


def test_loading_holds_the_quantised_model_and_one_shard_at_most(tmp_path, monkeypatch):
    """Resident memory, as the system counts it, for a model of 100 MB in shards of 5."""
    monkeypatch.setattr(precisions, "RELEASE_AFTER", 4 * 10**6)
    sizes = SIZES | {"hidden_size": 512, "layers": 7, "heads": 8, "vocab_size": 2000}
    model = OpenVLA(tiny(**sizes))
    weights.save_weights(model, tmp_path, torch.float32, shard_bytes=5 * 10**6)
    full = sum(p.nbytes for p in model.parameters())
    shards = [path.stat().st_size for path in weights.weight_files(tmp_path)]
    largest = max(p.nbytes for p in model.parameters())
    with torch.device("meta"):
        loaded = OpenVLA(model.config)
    del model
    place = placer("int4", "cpu")
    memory.release_free_memory()
    memory.reset_peak("cpu")
    before = memory.resident()
    if memory.peak("cpu") > before + 10**6:
        pytest.skip("this system does not let a process reset its memory high-water mark")
    weights.load_weights(loaded, tmp_path, torch.float32, "cpu", place=place)
    grown = memory.peak("cpu") - before
    quantised = memory.measure(loaded, "cpu").total
    assert quantised < 0.4 * full
    slack = 2 * precisions.RELEASE_AFTER  # freed, and not yet released to the system
    assert quantised * 0.5 < grown < quantised + max(shards) + 4 * largest + slack < 0.75 * full


def replaced_by_int4(weight: torch.Tensor, **options: bool) -> nn.Module:
    """A gate projection of this weight, (out, in), as `int4` loads it."""
    model = OpenVLA(tiny(**SIZES))
    mlp = model.language_model.model.layers[0].mlp
    mlp.gate_proj = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    assert placer("int4", "cpu", **options)(model, "language_model.model.layers.0.mlp.gate_proj.weight", weight)
    return mlp.gate_proj


@pytest.mark.parametrize("width", [96, 128, 171, 341])
def test_int4_reads_rows_that_end_within_a_block(width):
    """On AVX512 processors bitsandbytes' own kernel takes the scales of other blocks for such rows."""
    weight = torch.randn(64, width, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, 64)[:, None]
    linear = replaced_by_int4(weight)
    assert type(linear.weight).__name__ == "Params4bit"
    read = linear(torch.eye(width, dtype=compute_dtype("int4", "cpu"))).float().T
    error, largest = (x.reshape(width, 64).abs().amax(1) for x in (read - weight, weight))
    assert (error <= 0.16 * largest).all()  # half of nf4's widest step is 0.152 of a block's largest


@pytest.mark.parametrize("width", [128, 171])
def test_int4_for_training_keeps_its_gradients_after_an_evaluation(width):
    """On CPUs with AVX512-BF16 bitsandbytes repacks weights in an evaluation: gradients are wrong from then on."""
    weight = torch.randn(341, width, generator=torch.Generator().manual_seed(0))
    linear = replaced_by_int4(weight, trainable_inputs=True).eval()
    x = torch.randn(3, width, generator=torch.Generator().manual_seed(1))

    def gradient() -> torch.Tensor:
        leaf = x.clone().requires_grad_()
        linear(leaf).square().sum().backward()
        return leaf.grad

    first = gradient()
    with torch.inference_mode():
        linear(x)
    torch.testing.assert_close(gradient(), first)
    exact = x.clone().requires_grad_()
    nn.functional.linear(exact, weight).square().sum().backward()
    assert (first - exact.grad).norm() < 0.3 * exact.grad.norm()


def test_edits_of_an_adapter_come_before_quantising(folder):
    def loaded(edits):
        config = load_folder(folder).config
        with torch.device("meta"):
            model = OpenVLA(config)
        weights.load_weights(model, folder, torch.float32, "cpu", edits, placer("int8", "cpu"))
        return logits(model.eval())

    name = "language_model.model.layers.1.mlp.down_proj.weight"
    assert not torch.equal(loaded({name: lambda w: 2 * w}), loaded({}))
    torch.testing.assert_close(loaded({name: lambda w: w.double().float()}), loaded({}), rtol=0, atol=0)


@pytest.mark.parametrize("name", QUANTISED)
def test_a_quantised_model_is_not_saved_as_a_checkpoint(folder, tmp_path, name):
    with pytest.raises(ValueError, match="is quantised"):
        save_folder(tmp_path, load(folder, name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("int3", "precision: 'int3' is unknown; choose one of fp32, bf16, int8"),
        (
            "fp8",
            "fp8 needs an NVIDIA GPU of compute capability 8.9 .Ada or Hopper. or newer, and this is cpu; choose int8",
        ),
        ("int4-torchao", "8.0 .Ampere. or newer, and this is cpu; choose int4"),
    ],
)
def test_unavailable_precisions_name_reason_and_alternative(folder, name, message):
    with pytest.raises(ValueError, match=message):
        load_policy(folder, precision=name, device="cpu")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(precisions, "find_spec", lambda name: None if name == "bitsandbytes" else util.find_spec(name))
    assert obstacle("int8", "cpu") == (
        "int8 needs bitsandbytes, which is not installed: pip install bitsandbytes, or choose bf16"
    )
    assert obstacle("int8-torchao", "cpu") is None


@pytest.mark.parametrize("name", QUANTISED)
def test_a_quantised_policy_predicts_and_reports_its_memory(folder, name, caplog):
    with caplog.at_level(logging.INFO, logger="openvla.policy"):
        policy = load_policy(folder, precision=name, device="cpu", vocabulary="actions")
    assert f"in {name} on cpu" in caplog.text and "weights" in caplog.text and "peak" in caplog.text
    image = np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    chunk = policy.predict(Observation(image), "lift the red cube")
    assert policy.tokens.is_action(chunk.token_ids).all()
    used = policy.memory
    assert used.peak > used.total > 0 and used.to_dict()["total"] == sum(used.weights.values())


def test_mid_has_the_published_models_form():
    with torch.device("meta"):
        model = OpenVLA(mid())
    assert 100e6 < sum(p.numel() for p in model.parameters()) < 110e6
    assert mid().patches == 256 and mid().text.vocab_size == 32064 and mid().fused
    decoder = [module for path, module in model.named_modules() if ".layers." in path and isinstance(module, nn.Linear)]
    assert all(module.out_features % 32 == 0 and module.in_features % 64 == 0 for module in decoder)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["int8", "int4", "int8-torchao", "int4-torchao", "fp8"])
def test_on_a_gpu_loading_never_holds_the_full_model(tmp_path, name):
    reason = obstacle(name, "cuda")
    if reason:
        pytest.skip(reason)
    sizes = SIZES | {"hidden_size": 1024, "layers": 8, "heads": 8, "intermediate_size": 4096}
    model = OpenVLA(tiny(**sizes))
    weights.save_weights(model, tmp_path, torch.bfloat16)
    full = sum(p.numel() * 2 for p in model.parameters())
    largest = max(p.numel() * 2 for p in model.parameters())
    expected = logits(model)
    with torch.device("meta"):
        loaded = OpenVLA(model.config)
    torch.cuda.empty_cache()
    memory.reset_peak("cuda")
    before = torch.cuda.memory_allocated()
    weights.load_weights(loaded, tmp_path, torch.bfloat16, "cuda", place=placer(name, "cuda"))
    quantised = memory.measure(loaded, "cuda").total
    assert quantised < 0.7 * full
    assert memory.peak("cuda") - before < quantised + 8 * largest  # quantising works in float32 on one matrix
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 500, (1, 12), generator=generator).cuda()
    pixels = torch.randn(1, 6, 56, 56, generator=generator).cuda().bfloat16()
    with torch.inference_mode():
        actual = loaded.eval()(ids, pixels).logits.float().cpu()
    assert (actual - expected).norm() < 0.4 * expected.norm()
