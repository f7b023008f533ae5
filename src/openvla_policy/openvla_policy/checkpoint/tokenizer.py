"""The text tokenizer: a thin wrapper over `tokenizers`, which starts in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
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
        """Read tokenizer.json, or where there is none tokenizer.model, and the two configuration files beside it."""
        path = folder / "tokenizer.json"

        def read(name: str) -> dict[str, Any]:
            file = folder / name
            return json.loads(file.read_text()) if file.is_file() else {}

        config, special = read("tokenizer_config.json"), read("special_tokens_map.json")
        if path.is_file():
            return cls(tokenizers.Tokenizer.from_file(str(path)), config, special)
        if (folder / "tokenizer.model").is_file():
            old = read("added_tokens.json").items()  # content: id, from before tokenizer_config.json had them
            entries = {str(index): {"content": content, "special": True} for content, index in old}
            entries |= config.get("added_tokens_decoder") or {}
            return cls(read_sentencepiece(folder / "tokenizer.model", entries), config, special)
        raise FileNotFoundError(f"{path}: missing, and no tokenizer.model either; is this a checkpoint folder?")

    def with_padding(self, pad_id: int) -> Tokenizer:
        """The same with the padding token the language model's own tokenizer lacks, as `<PAD>` behind all others."""
        if self.vocab_size > pad_id:
            return self
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.add_special_tokens([AddedToken("<PAD>", normalized=False, special=True)])
        if backend.token_to_id("<PAD>") != pad_id:
            found = backend.token_to_id("<PAD>")
            raise ValueError(f"tokenizer: <PAD> would get the id {found}, this model's padding is {pad_id}")
        padded = {"pad_token": "<PAD>"}
        return Tokenizer(backend, self.config | padded, self.special_tokens_map | padded)

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
    backend = _llama_backend(tokens, merges, [*_SPECIAL, "<PAD>"])
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


def _llama_backend(
    tokens: Sequence[str], merges: list[tuple[str, str]], special: Iterable[str]
) -> tokenizers.Tokenizer:
    """Llama 2's pipeline: a space in front, spaces as marks, byte-pair merges, bytes for unknown characters."""
    model = models.BPE(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        unk_token=_SPECIAL[0],
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = tokenizers.Tokenizer(model)
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def read_sentencepiece(path: Path, added: Mapping[str, Mapping[str, Any]]) -> tokenizers.Tokenizer:
    """Llama's tokenizer.model as the tokenizer.json made of it would be, with `added` tokens by id behind it.

    Sentencepiece joins the neighbours whose piece has the best score, ties from the left; byte-pair encoding joins
    by the order of its merges. Every way of cutting a piece into two others is therefore a merge, ordered by score,
    as in transformers' conversion.
    """
    from sentencepiece import SentencePieceProcessor  # needed for folders from before tokenizer.json alone

    try:
        model = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path}: not a sentencepiece model ({error})") from error
    tokens = [model.id_to_piece(index) for index in range(model.get_piece_size())]
    if tokens[:3] != list(_SPECIAL):
        raise ValueError(f"{path}: its first tokens are {tokens[:3]}, not {list(_SPECIAL)}; only Llama's are read")
    scores = {token: model.get_score(index) for index, token in enumerate(tokens)}
    index_of = {token: index for index, token in enumerate(tokens)}
    found: list[tuple[str, str, float]] = []
    for token, score in scores.items():
        ways = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        ways = [(left, right) for left, right in ways if left in index_of and right in index_of]
        found += [(*way, score) for way in sorted(ways, key=lambda way: (index_of[way[0]], index_of[way[1]]))]
    found.sort(key=lambda merge: (merge[2], len(merge[0]), len(merge[1])), reverse=True)
    backend = _llama_backend(tokens, [(left, right) for left, right, _ in found], _SPECIAL)
    for index, entry in sorted(added.items(), key=lambda item: int(item[0])):
        if backend.token_to_id(entry["content"]) is None:
            kinds = ("lstrip", "rstrip", "single_word", "normalized", "special")
            options = {kind: bool(entry.get(kind, False)) for kind in kinds}
            backend.add_tokens([AddedToken(entry["content"], **options)])
        if backend.token_to_id(entry["content"]) != int(index):
            raise ValueError(f"{path}: {entry['content']!r} has another id than tokenizer_config.json's {index}")
    return backend


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
