"""Train a small byte-pair tokenizer in the layout of the Llama tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from openvla_policy.checkpoint.tokenizer import Tokenizer
from openvla_policy.checkpoint.tokenizer_backends import SPACE, SPECIAL, llama_backend


def train_tokenizer(sentences: Iterable[str], vocab_size: int, action_tokens: int = 256) -> Tokenizer:
    """Train a small tokenizer in Llama's layout. Deterministic for the same sentences in any order.

    Args:
        sentences: Prompts as the policy will read them.
        vocab_size: Tokens without the padding token, which gets the id `vocab_size` as in the published checkpoints:
            3 special tokens, 256 bytes (any text can be encoded), merges, characters, and the action tokens.
        action_tokens: Ids at the end reserved for actions.

    Returns:
        The tokenizer.

    Raises:
        ValueError: The vocabulary is too small for the characters of the sentences.
    """
    text_size = vocab_size - action_tokens
    words: dict[tuple[str, ...], int] = {}
    for sentence in sorted(set(sentences)):
        for word in sentence.split(" "):
            symbols = tuple(SPACE + word)
            words[symbols] = words.get(symbols, 0) + 1
    # All of ASCII, so that an unseen instruction is not split into bytes.
    letters = [chr(code) for code in range(33, 127)]
    characters = sorted({symbol for word in words for symbol in word} | {SPACE, *letters})
    room = text_size - len(SPECIAL) - 256 - len(characters)
    if room < 0:
        least = vocab_size - room
        raise ValueError(f"vocab_size: {vocab_size} is too small for these sentences; at least {least}")
    merges = _learn_merges(words, room)
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [*(a + b for a, b in merges), *characters]
    tokens += [f"<unused_{n}>" for n in range(text_size - len(tokens))]
    tokens += [f"<action_{n}>" for n in range(action_tokens)]
    backend = llama_backend(tokens, merges, [*SPECIAL, "<PAD>"])
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<PAD>"}
    config = special | {
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": False,
        "model_max_length": 2048,
        "padding_side": "right",
        "processor_class": "PrismaticProcessor",
        "tokenizer_class": "LlamaTokenizer",
    }
    return Tokenizer(backend, config, special)


def _learn_merges(words: dict[tuple[str, ...], int], room: int) -> list[tuple[str, str]]:
    """Byte-pair merges by frequency, ties in alphabetical order; fast enough for a few hundred sentences."""
    merges: list[tuple[str, str]] = []
    made: set[str] = set()
    while len(merges) < room:
        pairs: dict[tuple[str, str], int] = {}
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] = pairs.get(pair, 0) + count
        # A string is one token: a second way of building it would need the same vocabulary entry.
        pairs = {pair: count for pair, count in pairs.items() if "".join(pair) not in made}
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        made.add("".join(best))
        words = {_merge(word, best): count for word, count in words.items()}
    return merges


def _merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    index = 0
    while index < len(word):
        if word[index : index + 2] == pair:
            merged.append(pair[0] + pair[1])
            index += 2
        else:
            merged.append(word[index])
            index += 1
    return tuple(merged)
