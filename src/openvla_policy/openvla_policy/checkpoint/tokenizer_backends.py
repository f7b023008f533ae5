"""Llama's tokenization pipeline, and its `tokenizer.model` (SentencePiece), as `tokenizers` objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

SPACE = "\u2581"  # how Llama's vocabulary writes a space
SPECIAL = ("<unk>", "<s>", "</s>")


def llama_backend(tokens: Sequence[str], merges: list[tuple[str, str]], special: Iterable[str]) -> tokenizers.Tokenizer:
    """Build Llama 2's pipeline: a leading space, spaces as marks, byte-pair merges, bytes for unknown characters.

    Args:
        tokens: The vocabulary, by id.
        merges: Pairs of tokens, in the order in which they are joined.
        special: Tokens that text never produces.

    Returns:
        The backend.
    """
    model = models.BPE(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        unk_token=SPECIAL[0],
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
    """Read Llama's tokenizer.model as transformers would convert it to tokenizer.json.

    SentencePiece joins the neighbours whose piece has the best score, ties from the left; byte-pair encoding joins
    in the order of its merges. Every way of splitting a piece into two others is therefore a merge, ordered by score.

    Args:
        path: The file.
        added: Tokens after its vocabulary, by id, as in tokenizer_config.json.

    Returns:
        The backend.

    Raises:
        ValueError: The file is damaged, is not Llama's, or an added token gets another id.
    """
    from sentencepiece import SentencePieceProcessor  # only folders without tokenizer.json need it

    try:
        model = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path}: not a sentencepiece model ({error})") from error
    tokens = [model.id_to_piece(index) for index in range(model.get_piece_size())]
    if tokens[:3] != list(SPECIAL):
        raise ValueError(f"{path}: its first tokens are {tokens[:3]}, not {list(SPECIAL)}; only Llama's are read")
    scores = {token: model.get_score(index) for index, token in enumerate(tokens)}
    index_of = {token: index for index, token in enumerate(tokens)}
    found: list[tuple[str, str, float]] = []
    for token, score in scores.items():
        ways = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        ways = [(left, right) for left, right in ways if left in index_of and right in index_of]
        found += [(*way, score) for way in sorted(ways, key=lambda way: (index_of[way[0]], index_of[way[1]]))]
    found.sort(key=lambda merge: (merge[2], len(merge[0]), len(merge[1])), reverse=True)
    backend = llama_backend(tokens, [(left, right) for left, right, _ in found], SPECIAL)
    for index, entry in sorted(added.items(), key=lambda item: int(item[0])):
        if backend.token_to_id(entry["content"]) is None:
            kinds = ("lstrip", "rstrip", "single_word", "normalized", "special")
            options = {kind: bool(entry.get(kind, False)) for kind in kinds}
            backend.add_tokens([AddedToken(entry["content"], **options)])
        if backend.token_to_id(entry["content"]) != int(index):
            raise ValueError(f"{path}: {entry['content']!r} has another id than tokenizer_config.json's {index}")
    return backend
