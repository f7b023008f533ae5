"""The text tokenizer: a thin wrapper over `tokenizers`, which starts in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from openvla_policy.checkpoint.tokenizer_backends import SPACE, read_sentencepiece


@dataclass(frozen=True)
class Tokenizer:
    """A text tokenizer.

    Attributes:
        backend: Does the work.
        config: tokenizer_config.json, saved unchanged.
        special_tokens_map: special_tokens_map.json, saved unchanged.
    """

    backend: tokenizers.Tokenizer
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    special_tokens_map: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Read tokenizer.json, else tokenizer.model, and the two configuration files beside it."""
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
        """Append the padding token `<PAD>`, which the language model's own tokenizer lacks."""
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
        """Write the files that `from_folder` reads."""
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
        """Encode a prompt, ending in the empty token that precedes the action in training.

        In Llama's vocabulary that is the lone space mark (29871). The reference appends it unless the prompt already
        ends in it.

        Args:
            prompt: The prompt (see build_prompt).

        Returns:
            Token ids.
        """
        ids = self.encode(prompt)
        space = self.space_id
        return ids if space is None or ids[-1] == space else [*ids, space]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` without special tokens."""
        return self.backend.decode(list(ids))

    @property
    def space_id(self) -> int | None:
        """Id of the lone space mark, or None where the vocabulary has none."""
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
        """Number of tokens, including added ones."""
        return self.backend.get_vocab_size()

    def _required(self, role: str, default: str) -> int:
        entry = self.special_tokens_map.get(role) or self.config.get(role) or default
        content = entry["content"] if isinstance(entry, dict) else entry
        found = self.backend.token_to_id(content)
        if found is None:
            raise ValueError(f"tokenizer: its {role} {content!r} is not in its vocabulary")
        return found
