"""What `static` and `draft` are made of: the model's passes over buffers of one shape, replayed as CUDA graphs."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from openvla_policy.model.language import SlotCache, rotary
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.decoding import Head

# Shapes: B rows, T text tokens, N image tokens, L places of the prefill, S slots of the cache, D hidden,
# W tokens of a later pass, R places read.

_LOG = logging.getLogger("openvla.policy")
_BUCKET = 16  # prompts are padded to multiples of this: few shapes, hence few graphs
_WARM_UPS = 3  # before capture, as torch's documentation asks: libraries allocate and choose kernels meanwhile
_SHAPES = 16  # kept at a time
Kept = TypeVar("Kept")
Pool = Any  # what torch.cuda.graph_pool_handle gives; None on a CPU


class Replay:
    """A function of no arguments over fixed buffers: captured once as a CUDA graph, on a CPU simply called."""

    def __init__(self, function: Callable[[], None], device: torch.device, pool: Pool) -> None:
        """`pool` is the memory of what passes between kernels; graphs that never run at once may share it."""
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self._capture(device, pool)

    def __call__(self) -> None:
        if self._graph is None:
            self._function()
        else:
            self._graph.replay()

    def _capture(self, device: torch.device, pool: Pool) -> None:
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._function()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads (a server's) may go on allocating and copying meanwhile.
            with torch.cuda.graph(graph, pool, capture_error_mode="thread_local"):
                self._function()
        except RuntimeError as error:
            # A layer that looks at its numbers from the CPU cannot be captured, e.g. bitsandbytes' int8 with its
            # outliers. Called one kernel at a time it gives the same tokens, later.
            torch.cuda.synchronize(device)
            _LOG.warning("no CUDA graph, the runtime will be slower: %s", str(error).partition("\n")[0])
            return
        self._graph = graph


class Passes:
    """The buffers for `rows` sequences with `room` prompt tokens each, and the passes over them.

    A row is `<s>`, the image, the rest of the prompt, and from `start_B` on what is generated. Padding stands
    behind; no token sees a slot beyond its own (see SlotCache), so that it needs no bookkeeping.

    What an instruction fixes (its embeddings, lengths, places) is written when it changes; the tables of angles
    once. Keys and values cannot be kept from step to step: all but those of `<s>`, one place of some 280, come
    behind the image and depend on it.
    """

    def __init__(self, model: OpenVLA, head: Head, rows: int, room: int, count: int, riding: int) -> None:
        """`count` tokens are generated; `riding` of them, guessed, are read along in the prefill (0: none)."""
        self.model, self.head, self.rows, self.room, self.count, self.riding = model, head, rows, room, count, riding
        config, language = model.config, model.language_model.model
        like = language.embed_tokens.weight
        self.device, self.patches = like.device, config.patches
        slots = -(-(self.patches + room + count) // 8) * 8  # attention kernels want masks aligned to 8
        size = config.image_size
        self.pixels_BCHW = like.new_zeros(rows, 3 * len(config.vision), size, size)
        self.embeds_BLD = like.new_zeros(rows, self.patches + room + riding, config.text.hidden_size)
        self.ids_BC = torch.zeros(rows, count, dtype=torch.int64, device=self.device)  # guessed or known
        self.chosen_BC = torch.zeros_like(self.ids_BC)  # what the last pass chose
        # Where a prompt of one token would end, until there is one: warming up reads the place before.
        self.start_B = torch.full((rows,), self.patches + 1, device=self.device)
        self.cache = SlotCache(config.text, rows, slots, like)
        self.at_S = torch.arange(slots, device=self.device)
        self.cos, self.sin = rotary(config.text, self.at_S[None], like.dtype)
        self._prompts: list[tuple[int, ...]] = []

    def load(self, prompts: Sequence[Sequence[int]], pixels_BCHW: Tensor) -> None:
        """Put the request into the buffers; rows beyond it repeat its last."""
        filled = len(prompts)
        self.pixels_BCHW[:filled].copy_(pixels_BCHW, non_blocking=True)
        self.pixels_BCHW[filled:] = self.pixels_BCHW[filled - 1]
        wanted = [tuple(prompt) for prompt in prompts] + [tuple(prompts[-1])] * (self.rows - filled)
        if wanted == self._prompts:
            return
        ids_BT = torch.zeros((self.rows, self.room + self.riding), dtype=torch.int64)
        for row, prompt in enumerate(wanted):
            ids_BT[row, : len(prompt)] = torch.as_tensor(prompt)
        text_BTD = self.model.language_model.model.embed_tokens(ids_BT.to(self.device))
        self.embeds_BLD[:, 0] = text_BTD[:, 0]
        self.embeds_BLD[:, 1 + self.patches :] = text_BTD[:, 1:]
        self.start_B.copy_(torch.tensor([len(prompt) + self.patches for prompt in wanted]))
        self._prompts = wanted

    def see(self) -> None:
        """Pixels into the sequence's image tokens."""
        self.embeds_BLD[:, 1 : 1 + self.patches] = self.model.image_tokens(self.pixels_BCHW)

    def prefill(self) -> None:
        """Read the sequence and choose what follows the prompt, and each guess that rides along.

        In the last layer all places leave keys and values, and only those that are read go on.
        """
        language = self.model.language_model.model
        if self.riding:
            guessed_BRD = language.embed_tokens(self.ids_BC[:, : self.riding])
            places_BR1 = (self.start_B[:, None] + self.at_S[: self.riding])[:, :, None]
            self.embeds_BLD.scatter_(1, places_BR1.expand_as(guessed_BRD), guessed_BRD)
        L = self.embeds_BLD.shape[1]
        rotation = self.cos[:, :, :L], self.sin[:, :, :L]
        read_BR = self.start_B[:, None] - 1 + self.at_S[: self.riding + 1]
        self.cache.positions_BT = None
        x_BLD = self.embeds_BLD
        for layer in language.layers[:-1]:
            x_BLD = layer(x_BLD, rotation, self.cache)
        x_BRD = language.layers[-1](x_BLD, rotation, self.cache, self._mask(read_BR, L), read_BR)
        self.chosen_BC[:, : self.riding + 1] = self.head.choose(language.norm(x_BRD))

    def extend(self, first: int, width: int) -> None:
        """Read tokens `first` to `first + width - 1` of `ids_BC`, choose those that follow each."""
        language = self.model.language_model.model
        places_BW = self.start_B[:, None] + self.at_S[first : first + width]
        rotation = self.cos[0, 0, places_BW][:, None], self.sin[0, 0, places_BW][:, None]
        mask_B1WS = self._mask(places_BW, len(self.at_S))
        self.cache.positions_BT = places_BW
        x_BWD = language.embed_tokens(self.ids_BC[:, first : first + width])
        for layer in language.layers:
            x_BWD = layer(x_BWD, rotation, self.cache, mask_B1WS)
        self.chosen_BC[:, first + 1 : first + 1 + width] = self.head.choose(language.norm(x_BWD))

    def _mask(self, places_BW: Tensor, length: int) -> Tensor:
        """To be added to scores: 0 up to a token's own place, minus infinity beyond."""
        seen_B1WS = self.at_S[:length] <= places_BW[:, None, :, None]
        return torch.zeros_like(seen_B1WS, dtype=self.cos.dtype).masked_fill_(~seen_B1WS, -torch.inf)


class Shapes(Generic[Kept]):
    """What was made for each shape (rows, room, count), the least recently used thrown away.

    `make` is given the shape, and the pool for its graphs: one a runtime, whose passes come one after the other.
    """

    def __init__(self, make: Callable[[int, int, int, Pool], Kept], model: OpenVLA) -> None:
        self._make, self._patches, self._limit = make, model.config.patches, model.config.text.max_position_embeddings
        self._cuda = model.language_model.lm_head.weight.is_cuda
        self._pool: Pool = torch.cuda.graph_pool_handle() if self._cuda else None
        self._kept: OrderedDict[tuple[int, int, int], Kept] = OrderedDict()

    def get(self, prompts: Sequence[Sequence[int]], count: int) -> Kept:
        """For a request. Rows are filled up to a power of two on a GPU, whose time they hardly cost."""
        rows = 1 << (len(prompts) - 1).bit_length() if self._cuda else len(prompts)
        room = -(-max(map(len, prompts)) // _BUCKET) * _BUCKET
        room = min(room, self._limit - self._patches - count)
        shape = (rows, room, count)
        if shape not in self._kept:
            while len(self._kept) >= _SHAPES:
                self._kept.popitem(last=False)
            self._kept[shape] = self._make(*shape, self._pool)
        self._kept.move_to_end(shape)
        return self._kept[shape]
