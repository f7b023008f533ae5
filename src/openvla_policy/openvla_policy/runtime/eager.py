"""Greedy decoding with a key/value cache, step by step: the runtime with which the others are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from openvla_policy.model.language import KVCache
from openvla_policy.runtime.decoding import Generated, Guesses, Prompts, Runtime, Stopwatch


class EagerRuntime(Runtime):
    """One prefill over prompt and image, then one forward pass a token.

    Rows of different length share the cache: they are padded on the right, and the gap is masked.
    """

    def _generate(self, prompts: Prompts, pixels_BCHW: Tensor, count: int, guesses: Guesses) -> Generated:
        device, patches = pixels_BCHW.device, self.model.config.patches
        watch = Stopwatch(device)
        lengths = [len(prompt) + patches for prompt in prompts]
        longest = max(lengths)
        ids_BT = torch.zeros((len(prompts), longest - patches), dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids_BT[row, : len(prompt)] = torch.as_tensor(prompt)
        language = self.model.language_model.model

        text_BTD = language.embed_tokens(ids_BT.to(device))
        image_BND = self.model.image_tokens(pixels_BCHW.to(text_BTD.dtype))
        watch.mark("vision")
        embeds_BLD = torch.cat([text_BTD[:, :1], image_BND, text_BTD[:, 1:]], dim=1)
        cache = KVCache(language.text, len(prompts), longest + count - 1, embeds_BLD)
        hidden_BLD = language(embeds_BLD, cache=cache)
        length_B = torch.tensor(lengths, device=device)
        rows = torch.arange(len(prompts), device=device)
        token_B = self.head.choose(hidden_BLD[rows, length_B - 1])
        watch.mark("prefill")

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
        watch.mark("decode")
        return Generated(ids, watch.read(), passes=count - 1)
