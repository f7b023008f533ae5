"""The text tokenizer: a thin wrapper over `tokenizers`, which starts in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

SPACE = "\u2581"  # how Llama's vocabulary writes a space
_SPECIAL = ("<unk>", "<s>", "</s>")


@dataclass(frozen=True)
class Tokenizer:
    """`backend` does the work; `config` and `special_tokens_map` are written back with it."""

    backend: tokenizers.Tokenizer
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    special_tokens_map: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Read tokenizer.json, and beside it tokenizer_config.json and special_tokens_map.json."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: missing. A folder with only tokenizer.model is converted by saving "
                "transformers.AutoTokenizer.from_pretrained(folder) into it once"
            )

        def read(name: str) -> dict[str, Any]:
            file = folder / name
            return json.loads(file.read_text()) if file.is_file() else {}

        backend = tokenizers.Tokenizer.from_file(str(path))
        return cls(backend, read("tokenizer_config.json"), read("special_tokens_map.json"))

    def save(self, folder: Path) -> None:
        """Write the files `from_folder` reads."""
        self.backend.save(str(folder / "tokenizer.json"))
        for name, data in (
            ("tokenizer_config.json", self.config),
            ("special_tokens_map.json", self.special_tokens_map),
        ):
            if data:
                (folder / name).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")

    def encode(self, text: str) -> list[int]:
        """Token ids, the beginning-of-sequence token first."""
        return self.backend.encode(text).ids

    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids of a prompt, ended by the empty token that stood before the action in training.

        In Llama's vocabulary that is the lone space mark (29871); the reference appends it unless the
        prompt ends in it already.
        """
        ids = self.encode(prompt)
        space = self.space_id
        return ids if space is None or ids[-1] == space else [*ids, space]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return self.backend.decode(list(ids))

    @property
    def space_id(self) -> int | None:
        """Id of the lone space mark, where the vocabulary has one."""
        return self.backend.token_to_id(SPACE)

    @property
    def bos_id(self) -> int:
        """Beginning of sequence."""
        return self._required("bos_token", "<s>")

    @property
    def eos_id(self) -> int:
        """End of sequence."""
        return self._required("eos_token", "</s>")

    @property
    def vocab_size(self) -> int:
        """Tokens, added ones included."""
        return self.backend.get_vocab_size()

    def _required(self, role: str, default: str) -> int:
        entry = self.special_tokens_map.get(role) or self.config.get(role) or default
        content = entry["content"] if isinstance(entry, dict) else entry
        found = self.backend.token_to_id(content)
        if found is None:
            raise ValueError(f"tokenizer: its {role} {content!r} is not in its vocabulary")
        return found


def train_tokenizer(sentences: Iterable[str], vocab_size: int, action_tokens: int = 256) -> Tokenizer:
    """A small tokenizer in Llama's layout, learnt from `sentences` (prompts as they will be asked).

    `vocab_size` counts everything but the padding token, which gets the id `vocab_size` as in the published
    checkpoints: 3 special tokens, 256 bytes (any text can be written), merges, characters, and last
    `action_tokens` ids kept free for actions. Deterministic for the same sentences in any order.
    """
    text_size = vocab_size - action_tokens
    words: dict[tuple[str, ...], int] = {}
    for sentence in sorted(set(sentences)):
        for word in sentence.split(" "):
            symbols = tuple(SPACE + word)
            words[symbols] = words.get(symbols, 0) + 1
    # ASCII always has its characters, so that an unseen instruction does not fall apart into bytes.
    letters = [chr(code) for code in range(33, 127)]
    characters = sorted({symbol for word in words for symbol in word} | {SPACE, *letters})
    room = text_size - len(_SPECIAL) - 256 - len(characters)
    if room < 0:
        least = vocab_size - room
        raise ValueError(f"vocab_size: {vocab_size} is too small for these sentences; at least {least}")
    merges = _learn_merges(words, room)
    tokens = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [*(a + b for a, b in merges), *characters]
    tokens += [f"<unused_{n}>" for n in range(text_size - len(tokens))]
    tokens += [f"<action_{n}>" for n in range(action_tokens)]
    model = models.BPE(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = tokenizers.Tokenizer(model)
    backend.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in (*_SPECIAL, "<PAD>")])
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
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
    """Byte-pair merges by frequency, ties in alphabetical order; a handful of sentences needs no more."""
    merges: list[tuple[str, str]] = []
    made: set[str] = set()
    while len(merges) < room:
        pairs: dict[tuple[str, str], int] = {}
        for word, count in words.items():
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] = pairs.get(pair, 0) + count
        # One token a string: two ways of building the same string would need the same vocabulary entry.
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
