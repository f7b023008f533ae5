"""The runtimes: the same tokens with any guess and padding, and no superfluous computation."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from openvla_policy.contract.action_tokens import ActionTokenizer
from openvla_policy.model.config import tiny
from openvla_policy.model.linear import Linear
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.decoding import Generated, Head, Runtime, Stopwatch
from openvla_policy.runtime.graphs import Passes
from openvla_policy.runtime.runtimes import make_runtime
from openvla_policy.runtime.speculative import LastAnswers, last_confirmed

PROMPTS = [[1, 5, 300, 17], [1, 40, 41, 42, 43, 44, 45], [1, 9], list(range(1, 21))]
CPU = torch.device("cpu")


@cache
def model(seed: int) -> OpenVLA:
    """One encoder, grouped queries, logits spread so that greedy choices are not ties."""
    torch.manual_seed(seed)
    config = tiny(
        image_size=28, vision_width=32, vision_depth=3, vision_heads=2, fused=False,
        hidden_size=64, layers=3, kv_heads=2,
    )  # fmt: skip
    network = OpenVLA(config).eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return network


@cache
def pixels(seed: int = 1) -> torch.Tensor:
    return torch.randn(len(PROMPTS), 3, 28, 28, generator=torch.Generator().manual_seed(seed))


@cache
def runtime(name: str, vocabulary: str = "full", rank: int = 1, seed: int = 0) -> Runtime:
    network = model(seed)
    head = Head(network, ActionTokenizer(network.config.action_vocab_size), 2, vocabulary, rank)
    return make_runtime(name, network, head)


@cache
def eager(vocabulary: str = "full", rank: int = 1, seed: int = 0, count: int = 7) -> list[list[int]]:
    """The tokens of each row alone, with which all others are compared."""
    decode = runtime("eager", vocabulary, rank, seed).generate
    return [decode([p], pixels()[n : n + 1], count).ids[0].tolist() for n, p in enumerate(PROMPTS)]


@pytest.mark.parametrize("name", ["eager", "static", "draft"])
@pytest.mark.parametrize("vocabulary", ["full", "actions"])
@pytest.mark.parametrize("rank", [1, 2])
def test_a_padded_batch_gives_each_rows_own_tokens(name, vocabulary, rank):
    for count in (1, 2, 7):
        generated = runtime(name, vocabulary, rank).generate(PROMPTS, pixels(), count)
        assert generated.ids.tolist() == eager(vocabulary, rank, count=count)
        assert generated.timings.keys() == {"vision", "prefill", "decode"}


def test_rows_differ_and_so_do_vocabularies_and_ranks():
    """A precondition of the test above."""
    variants = [eager("full"), eager("actions"), eager("full", 2), eager("actions", 2)]
    assert len({tuple(row) for rows in variants for row in rows}) == 16


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2),
    vocabulary=st.sampled_from(["full", "actions"]),
    guesses=st.lists(
        st.one_of(
            st.none(),
            st.lists(st.integers(-(2**40), 2**40), max_size=9),  # nonsense, too short, too long
            st.lists(st.tuples(st.booleans(), st.integers(0, 831)), min_size=7, max_size=7),  # right here and there
        ),
        min_size=len(PROMPTS),
        max_size=len(PROMPTS),
    ),
)
def test_any_guess_gives_exactly_the_eager_tokens(seed, vocabulary, guesses):
    wanted = eager(vocabulary, 1, seed)
    made: list[list[int] | None] = []
    for row, guess in zip(wanted, guesses, strict=True):
        if guess and isinstance(guess[0], tuple):
            guess = [right if keep else other for right, (keep, other) in zip(row, guess, strict=True)]
        made.append(guess)
    generated = runtime("draft", vocabulary, 1, seed).generate(PROMPTS, pixels(), 7, made)
    assert generated.ids.tolist() == wanted
    for row, guess, accepted in zip(wanted, made, generated.accepted, strict=True):
        hits = [a == b for a, b in zip(row[:6], guess or [], strict=False)]
        assert accepted >= ([*hits, False]).index(False)  # a clamped number or the filler may hit, too
    assert generated.passes <= 6 - min(generated.accepted)


@pytest.mark.parametrize("wrong", range(7))
def test_only_what_follows_the_first_mismatch_is_decoded(wrong):
    row = eager()[1]
    guess = [*row[:wrong], (row[wrong] + 1) % 700, *row[wrong + 1 :]]
    generated = runtime("draft").generate(PROMPTS[1:2], pixels()[1:2], 7, [guess])
    assert (generated.ids.tolist(), generated.accepted) == ([row], (wrong,) if wrong < 6 else (6,))
    assert (generated.passes == 0) == (wrong == 6)  # the last token follows the others and is never read


def test_agreement_counts_up_to_the_first_mismatch():
    read = torch.tensor([[5, 6, 7, 8], [5, 0, 7, 8], [0, 6, 7, 8]])
    chosen = torch.tensor([[5, 6, 7, 0], [5, 6, 7, 8], [5, 6, 7, 8]])
    assert last_confirmed(torch.full((3,), -1), read, chosen).tolist() == [3, 1, 0]
    assert last_confirmed(torch.tensor([3, 1, 1]), read, chosen).tolist() == [3, 3, 3]


@pytest.mark.parametrize("name", ["static", "draft"])
def test_kept_buffers_do_not_change_answers(name):
    """Another prompt of the same shape, of another, then the first again; earlier answers stay as they were."""
    kept = runtime(name)
    answers = [(n, kept.generate(PROMPTS[n : n + 1], pixels()[n : n + 1])) for n in (0, 1, 3, 2, 0, 0, 1)]
    for n, generated in answers:
        assert generated.ids[0].tolist() == eager()[n]
    other = kept.generate(PROMPTS[:1], pixels()[1:2]).ids[0].tolist()
    assert other == runtime("eager").generate(PROMPTS[:1], pixels()[1:2]).ids[0].tolist() != eager()[0]


def test_shapes_are_few_and_bounded():
    for length in range(1, 400, 8):
        runtime("static").generate([[1] * length], pixels()[:1], 2)
    assert 0 < len(runtime("static").shapes) <= 16


def test_the_longest_prompt_that_fits_still_fits():
    network = model(0)
    room = network.config.text.max_position_embeddings - network.config.patches - 7
    prompt = [1, *([9, 30, 200] * room)][:room]
    ids = [runtime(name).generate([prompt], pixels()[:1]).ids.tolist() for name in ("eager", "static", "draft")]
    assert ids[0] == ids[1] == ids[2]


def seen_rows(name: str, vocabulary: str) -> tuple[dict[str, list[int]], Generated]:
    """Rows that passed through parts of the model, call by call."""
    network = model(0)
    tower, layers = network.vision_backbone.featurizer, network.language_model.model.layers
    parts = {
        "unused block": tower.blocks[-1],
        "used block": tower.blocks[-2],
        "first MLP": layers[0].mlp,
        "last MLP": layers[-1].mlp,
        "last o_proj": layers[-1].self_attn.o_proj,
        "final norm": network.language_model.model.norm,
        "head": network.language_model.lm_head,
    }
    rows: dict[str, list[int]] = {part: [] for part in parts}
    hooks = [
        module.register_forward_hook(lambda _, inputs, __, part=part: rows[part].append(inputs[0].shape[-2]))
        for part, module in parts.items()
    ]
    generated = runtime(name, vocabulary).generate(PROMPTS[:1], pixels()[:1])
    for hook in hooks:
        hook.remove()
    return rows, generated


def test_nothing_is_computed_that_is_not_read():
    rows, _ = seen_rows("static", "full")
    assert rows["unused block"] == [] and rows["used block"] == [4]
    assert rows["first MLP"] == [4 + 16] + [1] * 6  # four patches, a prompt in a bucket of 16
    assert rows["last MLP"] == rows["last o_proj"] == rows["final norm"] == rows["head"] == [1] * 7
    rows, generated = seen_rows("draft", "full")
    behind = generated.passes
    assert rows["first MLP"][0] == 4 + 16 + 6 and len(rows["first MLP"]) == 1 + behind
    assert rows["last MLP"][0] == rows["head"][0] == 7 and all(n <= 6 for n in rows["last MLP"][1:])
    rows, _ = seen_rows("static", "actions")
    assert rows["head"] == []  # only its 256 action rows are multiplied


@pytest.mark.parametrize("vocabulary", ["full", "actions"])
@pytest.mark.parametrize("drafted", [0, 6])
def test_no_pass_reads_its_values_on_the_cpu(vocabulary, drafted):
    """A CUDA graph requires it: with meta tensors, any read of a value or mix with CPU tensors fails."""
    network = model(0)
    with torch.device("meta"):
        bare = OpenVLA(network.config).to(torch.bfloat16).eval()
    with torch.inference_mode():
        head = Head(bare, ActionTokenizer(bare.config.action_vocab_size), 2, vocabulary)
        passes = Passes(bare, head, 2, 16, 7, drafted)
        passes.encode_image()
        passes.prefill()
        for first in range(6):
            passes.extend(first, 6 - first)
            passes.extend(first, 1)
    assert passes.chosen_BC.is_meta
    with pytest.raises(RuntimeError, match="meta"):
        passes.chosen_BC[0, 0].item()


def test_invalid_requests_are_reported():
    for name in ("eager", "static", "draft"):
        for prompts, count, message in (
            ([[1]] * 2, 7, "2 prompts"),
            ([[]], 7, "none may be empty"),
            ([[1] * 2100], 7, "of the model's 2048 positions"),
            ([[1]], 0, "at least 1 token"),
        ):
            with pytest.raises(ValueError, match=message):
                runtime(name).generate(prompts, pixels()[:1], count)
    with pytest.raises(ValueError, match="2 guesses for 1 prompts"):
        runtime("draft").generate([[1]], pixels()[:1], 7, [None, None])
    with pytest.raises(ValueError, match="'quick' is unknown; choose one of eager, static, draft"):
        make_runtime("quick", model(0), runtime("eager").head)


def test_last_answers_drop_the_oldest_stream():
    memory = LastAnswers(limit=2)
    memory.store("a", np.array([1, 2]))
    memory.store("b", [3])
    memory.store("a", [4])
    memory.store("c", [5])
    assert (memory.get("a"), memory.get("b"), memory.get("c")) == ((4,), None, (5,))
    memory.clear()
    assert memory.get("a") is None


def test_stopwatch_adds_up():
    watch = Stopwatch(CPU)
    for stage in ("one", "two", "one"):
        watch.mark(stage)
    read = watch.read()
    assert list(read) == ["one", "two"] and all(seconds >= 0 for seconds in read.values())


def test_linear_is_the_same_by_either_library_and_trains():
    torch.manual_seed(0)
    layer, x = Linear(256, 512), torch.randn(3, 40, 256)
    trained = layer(x)
    trained.square().mean().backward()
    assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), trained.detach(), rtol=0, atol=1e-5)
        torch.testing.assert_close(layer(x.mT.contiguous().mT), trained.detach(), rtol=0, atol=1e-5)
        assert layer(x[:0]).shape == (0, 40, 512)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16


@pytest.mark.gpu
def test_captured_graphs_give_the_eager_tokens():
    """Graphs of every runtime, replayed with other prompts, images and guesses."""
    network = model(0).to("cuda")
    try:
        head = Head(network, ActionTokenizer(network.config.action_vocab_size), 2, "full")
        by_name = {name: make_runtime(name, network, head) for name in ("eager", "static", "draft")}
        for n in (0, 1, 0, 3):
            image = pixels()[n : n + 1].to("cuda")
            wanted = by_name["eager"].generate(PROMPTS[n : n + 1], image).ids.tolist()
            assert by_name["static"].generate(PROMPTS[n : n + 1], image).ids.tolist() == wanted
            for guess in (None, wanted[0], [7] * 7):
                assert by_name["draft"].generate(PROMPTS[n : n + 1], image, 7, [guess]).ids.tolist() == wanted
        assert all(shape.captured for shape in by_name["static"].shapes.values())
    finally:
        network.to("cpu")
