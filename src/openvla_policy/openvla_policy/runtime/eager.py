"""Greedy decoding with a key/value cache, step by step: the runtime the others are measured against."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from ..model.language import KVCache
from ..model.vla import OpenVLA
from .decoding import Generated, Head


class EagerRuntime:
    """One prefill over prompt and image, then one forward a token, each reading the head once."""

    def __init__(self, model: OpenVLA, head: Head) -> None:
        self.model, self.head = model, head

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], pixels_BCHW: Tensor, count: int = 7) -> Generated:
        """See Runtime. Rows of different length share the cache: padded on the right, the gap masked out."""
        start = _now(pixels_BCHW)
        device, patches = pixels_BCHW.device, self.model.config.patches
        if len(prompts) != len(pixels_BCHW) or not all(prompts):
            raise ValueError(f"{len(prompts)} prompts (none may be empty) for {len(pixels_BCHW)} images")
        lengths = [len(prompt) + patches for prompt in prompts]
        longest = max(lengths)
        limit = self.model.config.text.max_position_embeddings
        if longest + count > limit:
            raise ValueError(f"the prompt needs {longest + count} of the model's {limit} positions; shorten it")
        ids_BT = torch.zeros((len(prompts), longest - patches), dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids_BT[row, : len(prompt)] = torch.as_tensor(prompt)
        language = self.model.language_model.model

        text_BTD = language.embed_tokens(ids_BT.to(device))
        image_BND = self.model.image_tokens(pixels_BCHW.to(text_BTD.dtype))
        seen = _now(pixels_BCHW)
        embeds_BLD = torch.cat([text_BTD[:, :1], image_BND, text_BTD[:, 1:]], dim=1)
        cache = KVCache(language.text, len(prompts), longest + count - 1, embeds_BLD)
        hidden_BLD = language(embeds_BLD, cache=cache)
        length_B = torch.tensor(lengths, device=device)
        rows = torch.arange(len(prompts), device=device)
        token_B = self.head.choose(hidden_BLD[rows, length_B - 1])
        prefilled = _now(pixels_BCHW)

        padded = min(lengths) < longest
        at_S = torch.arange(longest + count - 1, device=device)
        tokens = [token_B]
        for step in range(count - 1):
            mask_B1TS = None
            if padded:
                real_BS = (at_S[None] < length_B[:, None]) | (at_S[None] >= longest)
                mask_B1TS = real_BS[:, None, None, : cache.length + 1]
            embeds_B1D = language.embed_tokens(token_B)[:, None]
            hidden_B1D = language(embeds_B1D, length_B[:, None] + step, cache, mask_B1TS)
            token_B = self.head.choose(hidden_B1D[:, 0])
            tokens.append(token_B)
        ids = torch.stack(tokens, dim=1).cpu()
        timings = {"vision": seen - start, "prefill": prefilled - seen, "decode": _now(ids) - prefilled}
        return Generated(ids, timings)


def _now(like: Tensor) -> float:
    if like.is_cuda:
        torch.cuda.synchronize(like.device)
    return time.perf_counter()
