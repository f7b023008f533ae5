"""The network at other sizes: parameter counts of the paper, grouped-query attention, edge cases of decoding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openvla_policy.contract.action_tokens import ActionTokenizer
from openvla_policy.model import config as presets
from openvla_policy.model.backbones import prismatic_7b
from openvla_policy.model.vision import VisionTransformer
from openvla_policy.model.vit_sizes import geometry_of
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.decoding import Head
from openvla_policy.runtime.eager import EagerRuntime

GQA = dict(image_size=28, vision_width=32, vision_depth=3, vision_heads=2, hidden_size=64, layers=3, kv_heads=2)


@pytest.fixture
def model() -> OpenVLA:
    """One encoder and grouped-query attention, its logits spread so that greedy choices are not ties."""
    torch.manual_seed(0)
    network = OpenVLA(presets.tiny(fused=False, **GQA)).eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return network


def runtime(model: OpenVLA, vocabulary: str = "full", eos: int = 2, rank: int = 1) -> EagerRuntime:
    tokens = ActionTokenizer(model.config.action_vocab_size)
    return EagerRuntime(model, Head(model, tokens, eos, vocabulary, rank))


def by_whole_forwards(model: OpenVLA, prompt: list[int], pixels, count: int = 7, forbidden: int = 2) -> list[int]:
    """Greedy decoding with no cache: the plain definition."""
    ids = list(prompt)
    for _ in range(count):
        with torch.inference_mode():
            logits = model(torch.tensor([ids]), pixels).logits[0, -1].clone()
            logits[forbidden] = -torch.inf
        ids.append(int(logits.argmax()))
    return ids[-count:]


@pytest.mark.parametrize(
    ("preset", "millions"),
    [(presets.siglip_7b, 7188.1), (presets.openvla_7b, 7541.2)],
)
def test_parameter_counts_are_the_papers(preset, millions):
    with torch.device("meta"):
        network = OpenVLA(preset())
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions
    if preset is presets.siglip_7b:  # Table 1: vision frozen, and what remains of it
        vision = sum(p.numel() for p in network.vision_backbone.parameters())
        assert round((7188.124608e6 - vision) / 1e6, 1) == 6760.4


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("vit_large_patch14_reg4_dinov2", 304370688),
        ("vit_base_patch14_reg4_dinov2", 86582016),
        ("vit_small_patch14_reg4_dinov2", 22057344),
        ("vit_large_patch14_dinov2", 304367616),
        ("vit_base_patch14_dinov2", 86579712),
        ("vit_small_patch14_dinov2", 22056192),
        ("vit_so400m_patch14_siglip_224", 427680704),
        ("vit_so400m_patch14_siglip_384", 428225600),
        ("vit_base_patch16_siglip_224", 92884224),
        ("vit_base_patch16_siglip_256", 92930304),
        ("vit_base_patch16_siglip_384", 93176064),
        ("vit_base_patch16_siglip_512", 93520128),
        ("vit_large_patch16_siglip_256", 315956224),
        ("vit_large_patch16_siglip_384", 316283904),
        ("vit_base_patch16_clip_224", 85799424),
        ("vit_base_patch32_clip_224", 87456000),
        ("vit_huge_patch14_clip_224", 630766080),
        ("vit_large_patch14_clip_224", 303179776),
        ("vit_large_patch14_clip_336", 303507456),
        ("vit_large_patch16_224", 303301632),
        ("vit_base_patch16_224", 85798656),
        ("vit_small_patch16_224", 21665664),
    ],
)
def test_vision_towers_have_timms_shapes(name, parameters):
    """Counted when every tensor's shape, depth and heads equalled timm 0.9.10's, num_classes=0 at its own size."""
    size = int(name.rpartition("_")[2]) if name[-3:].isdigit() else 518
    with torch.device("meta"):
        tower = VisionTransformer(geometry_of(f"{name}.some_weights", size))
    assert sum(p.numel() for p in tower.parameters()) == parameters


def test_every_preset_builds_and_runs():
    llava = prismatic_7b("reproduction-llava-v15+7b")
    assert (llava.image_size, llava.vision[0].quick_gelu, llava.image_resize_strategy) == (336, True, "letterbox")
    for config in (llava, presets.openvla_7b(), presets.siglip_7b()):
        with torch.device("meta"):
            network = OpenVLA(config)
            size = config.image_size
            tokens = network.image_tokens(torch.zeros(2, 3 * len(config.vision), size, size))
        assert tokens.shape == (2, config.patches, 4096)
    assert geometry_of("vit_so400m_patch14_siglip_384", 384).patches == 27**2


def test_cached_decoding_equals_whole_forwards(model):
    torch.manual_seed(1)
    prompts = [[1, 5, 300, 17], [1, 40, 41, 42, 43, 44, 45], [1, 9]]
    pixels = torch.randn(3, 3, 28, 28)
    expected = [by_whole_forwards(model, prompt, pixels[n : n + 1]) for n, prompt in enumerate(prompts)]
    assert runtime(model).generate(prompts, pixels).ids.tolist() == expected
    for n, prompt in enumerate(prompts):
        assert runtime(model).generate([prompt], pixels[n : n + 1]).ids.tolist() == [expected[n]]
    # This model's free choices leave the action range, which the tokenizer clips as the reference does.
    tokens = ActionTokenizer(model.config.action_vocab_size)
    inside = tokens.is_action(np.array(expected))
    assert not inside.all()
    assert np.abs(tokens.decode(np.array(expected))).max() <= 1


def test_restricted_vocabulary_stays_in_range_and_is_the_best_there(model):
    torch.manual_seed(2)
    pixels, prompt = torch.randn(1, 3, 28, 28), [1, 5, 300, 17]
    ids = runtime(model, "actions").generate([prompt], pixels).ids[0].tolist()
    tokens = ActionTokenizer(model.config.action_vocab_size)
    assert tokens.is_action(ids).all()
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + ids[:-1]]), pixels).logits[0, -7:]
    best = logits[:, tokens.first_id : tokens.last_id + 1].argmax(-1) + tokens.first_id
    assert best.tolist() == ids


def test_an_early_end_of_sequence_still_gives_seven_numbers(model):
    torch.manual_seed(3)
    pixels, prompt = torch.randn(1, 3, 28, 28), [1, 5, 300, 17]
    first = by_whole_forwards(model, prompt, pixels, 1, forbidden=2)[0]
    ids = runtime(model, eos=first).generate([prompt], pixels).ids[0].tolist()
    assert first not in ids and len(ids) == 7
    assert ids == by_whole_forwards(model, prompt, pixels, forbidden=first)


def test_second_most_likely(model):
    torch.manual_seed(4)
    pixels, prompt = torch.randn(1, 3, 28, 28), [1, 5, 300]
    with torch.inference_mode():
        logits = model(torch.tensor([prompt]), pixels).logits[0, -1].clone()
        logits[2] = -torch.inf
    assert runtime(model, rank=2).generate([prompt], pixels, 1).ids.item() == logits.topk(2).indices[1].item()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: runtime(m, "some"), "'some' is unknown; choose one of full, actions"),
        (lambda m: runtime(m, rank=0), "rank: expected 1"),
        (lambda m: runtime(m).generate([[1]] * 2, torch.zeros(1, 3, 28, 28)), "2 prompts"),
        (lambda m: runtime(m).generate([[]], torch.zeros(1, 3, 28, 28)), "none may be empty"),
        (lambda m: runtime(m).generate([[1] * 2100], torch.zeros(1, 3, 28, 28)), "of the model's 2048 positions"),
        (lambda m: m(torch.ones(1, 3, dtype=int), torch.zeros(1, 6, 28, 28)), r"expected \(B, 3, H, W\)"),
        (lambda m: m(torch.ones(1, 3, dtype=int), torch.zeros(1, 3, 32, 32)), r"takes \(B, 3, 28, 28\)"),
        (
            lambda m: m(torch.ones(1, 3, dtype=int), torch.zeros(1, 3, 28, 28), torch.tensor([[0, 1, 1]])),
            "on the right",
        ),
    ],
)
def test_invalid_inputs_are_reported(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


def test_padding_changes_nothing(model):
    torch.manual_seed(5)
    pixels = torch.randn(1, 3, 28, 28)
    ids, labels = torch.tensor([[1, 5, 300, 600]]), torch.tensor([[-100, -100, 300, 600]])
    padded = torch.cat([ids, torch.full((1, 3), 768)], 1), torch.cat([labels, torch.full((1, 3), -100)], 1)
    mask = (padded[0] != 768).long()
    short = model(ids, pixels, labels=labels).loss
    long = model(padded[0], pixels, mask, padded[1]).loss
    torch.testing.assert_close(short, long)


def test_attention_is_the_same_with_and_without_gradients(model):
    """Training on a CPU takes another path through attention than inference does."""
    torch.manual_seed(6)
    ids, pixels = torch.randint(3, 700, (2, 6)), torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        without = model(ids, pixels).logits
    torch.testing.assert_close(model(ids, pixels).logits.detach(), without, rtol=0, atol=1e-4)


def test_vision_weights_that_are_not_used_get_no_gradient(model):
    pixels = torch.randn(1, 3, 28, 28)
    ids = torch.tensor([[1, 5, 300, 600]])
    model(ids, pixels, labels=ids).loss.backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    tower = "vision_backbone.featurizer."
    assert unused and all(
        name.startswith((tower + "blocks.2.", tower + "norm.", tower + "attn_pool.")) for name in unused
    )


@pytest.mark.slow  # imports transformers
def test_language_model_equals_transformers(model):
    from transformers import LlamaConfig, LlamaForCausalLM

    text = model.config.text
    theirs = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_hidden_layers=text.num_hidden_layers,
            num_attention_heads=text.num_attention_heads,
            num_key_value_heads=text.num_key_value_heads,
            vocab_size=text.vocab_size,
            rms_norm_eps=text.rms_norm_eps,
        )
    ).eval()
    theirs.load_state_dict(model.language_model.state_dict())
    ids, pixels = torch.tensor([[1, 5, 300, 17], [1, 8, 2, 3]]), torch.randn(2, 3, 28, 28)
    with torch.inference_mode():
        ours = model(ids, pixels).logits
        embeds = model.embed(ids, pixels)
        torch.testing.assert_close(ours, theirs(inputs_embeds=embeds).logits, rtol=0, atol=1e-4)
        generated = theirs.generate(
            inputs_embeds=embeds, max_new_tokens=7, min_new_tokens=7, do_sample=False, eos_token_id=2, pad_token_id=0
        )
    assert runtime(model).generate(ids.tolist(), pixels).ids.tolist() == generated.tolist()
