"""The passes of `static` and `draft` over buffers of one shape, replayed as CUDA graphs."""

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

# Shapes: B rows, T text tokens, N image tokens, L positions of the prefill, S slots of the cache, D hidden,
# W tokens of a later pass, R positions read.

_LOG = logging.getLogger("openvla.policy")
_BUCKET = 16  # prompts are padded to multiples of this: few shapes, hence few graphs
_WARM_UPS = 3  # before capture, as torch's documentation asks: libraries allocate and choose kernels in them
MAX_SHAPES = 16  # kept at a time
Kept = TypeVar("Kept")
Pool = Any  # what torch.cuda.graph_pool_handle gives; None on a CPU


class Replay:
    """A function of no arguments over fixed buffers: captured once as a CUDA graph, on a CPU simply called."""

    def __init__(self, function: Callable[[], None], device: torch.device, pool: Pool) -> None:
        """Capture `function` where `device` is a GPU.

        Args:
            function: Reads and writes fixed buffers.
            device: Where they are.
            pool: Memory for values that pass between kernels; graphs that never run at once may share it.
        """
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self._capture(device, pool)

    @property
    def captured(self) -> bool:
        """Whether calls replay a CUDA graph."""
        return self._graph is not None

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
            # thread_local: other threads, a server's for one, may allocate and copy during the capture.
            with torch.cuda.graph(graph, pool, capture_error_mode="thread_local"):
                self._function()
        except RuntimeError as error:
            # A layer that reads its values on the CPU cannot be captured, for example bitsandbytes' int8 with its
            # outliers. Launched kernel by kernel it gives the same tokens, more slowly.
            torch.cuda.synchronize(device)
            _LOG.warning("no CUDA graph, the runtime will be slower: %s", str(error).partition("\n")[0])
            return
        self._graph = graph


class Passes:
    """Buffers for sequences of one shape, and the passes over them.

    A row is `<s>`, the image, the rest of the prompt, and from `start_B` on what is generated. Padding comes
    last; no token attends to a slot beyond its own (see SlotCache), so padding needs no bookkeeping.

    What an instruction determines (its embeddings, lengths, positions) is written when it changes; the rotary tables
    once. Keys and values cannot be kept from step to step: all but those of `<s>`, one position of about 280, come
    after the image and depend on it.
    """

    def __init__(self, model: OpenVLA, head: Head, rows: int, room: int, count: int, drafted: int) -> None:
        """Allocate the buffers.

        Args:
            model: The network.
            head: Chooses tokens.
            rows: Sequences.
            room: Longest prompt [tokens].
            count: Tokens to generate for each sequence.
            drafted: How many of them, guessed, the prefill reads (0: none).
        """
        self.model, self.head, self.rows, self.room, self.count, self.drafted = model, head, rows, room, count, drafted
        config, language = model.config, model.language_model.model
        like = language.embed_tokens.weight
        self.device, self.patches = like.device, config.patches
        slots = -(-(self.patches + room + count) // 8) * 8  # attention kernels want masks aligned to 8
        size = config.image_size
        self.pixels_BCHW = like.new_zeros(rows, 3 * len(config.vision), size, size)
        self.embeds_BLD = like.new_zeros(rows, self.patches + room + drafted, config.text.hidden_size)
        self.ids_BC = torch.zeros(rows, count, dtype=torch.int64, device=self.device)  # guessed or known
        self.chosen_BC = torch.zeros_like(self.ids_BC)  # what the last pass chose
        # Before the first request: the end of a prompt of one token, as warming up reads the position before it.
        self.start_B = torch.full((rows,), self.patches + 1, device=self.device)
        self.cache = SlotCache(config.text, rows, slots, like)
        self.at_S = torch.arange(slots, device=self.device)
        self.cos, self.sin = rotary(config.text, self.at_S[None], like.dtype)
        self._prompts: list[tuple[int, ...]] = []

    def load(self, prompts: Sequence[Sequence[int]], pixels_BCHW: Tensor) -> None:
        """Write a request into the buffers; rows beyond it repeat its last."""
        filled = len(prompts)
        self.pixels_BCHW[:filled].copy_(pixels_BCHW, non_blocking=True)
        self.pixels_BCHW[filled:] = self.pixels_BCHW[filled - 1]
        wanted = [tuple(prompt) for prompt in prompts] + [tuple(prompts[-1])] * (self.rows - filled)
        if wanted == self._prompts:
            return
        ids_BT = torch.zeros((self.rows, self.room + self.drafted), dtype=torch.int64)
        for row, prompt in enumerate(wanted):
            ids_BT[row, : len(prompt)] = torch.as_tensor(prompt)
        text_BTD = self.model.language_model.model.embed_tokens(ids_BT.to(self.device))
        self.embeds_BLD[:, 0] = text_BTD[:, 0]
        self.embeds_BLD[:, 1 + self.patches :] = text_BTD[:, 1:]
        self.start_B.copy_(torch.tensor([len(prompt) + self.patches for prompt in wanted]))
        self._prompts = wanted

    def encode_image(self) -> None:
        """Write the image tokens of the pixels into the sequences."""
        self.embeds_BLD[:, 1 : 1 + self.patches] = self.model.image_tokens(self.pixels_BCHW)

    def prefill(self) -> None:
        """Read the sequence; choose what follows the prompt and each drafted token.

        In the last layer all positions leave keys and values, and only those that are read are computed further.
        """
        language = self.model.language_model.model
        if self.drafted:
            guessed_BRD = language.embed_tokens(self.ids_BC[:, : self.drafted])
            positions_BR1 = (self.start_B[:, None] + self.at_S[: self.drafted])[:, :, None]
            self.embeds_BLD.scatter_(1, positions_BR1.expand_as(guessed_BRD), guessed_BRD)
        L = self.embeds_BLD.shape[1]
        rotation = self.cos[:, :, :L], self.sin[:, :, :L]
        read_BR = self.start_B[:, None] - 1 + self.at_S[: self.drafted + 1]
        self.cache.positions_BT = None
        x_BLD = self.embeds_BLD
        for layer in language.layers[:-1]:
            x_BLD = layer(x_BLD, rotation, self.cache)
        x_BRD = language.layers[-1](x_BLD, rotation, self.cache, self._mask(read_BR, L), read_BR)
        self.chosen_BC[:, : self.drafted + 1] = self.head.choose(language.norm(x_BRD))

    def extend(self, first: int, width: int) -> None:
        """Read tokens `first` to `first + width - 1` of `ids_BC`; choose the one that follows each."""
        language = self.model.language_model.model
        positions_BW = self.start_B[:, None] + self.at_S[first : first + width]
        rotation = self.cos[0, 0, positions_BW][:, None], self.sin[0, 0, positions_BW][:, None]
        mask_B1WS = self._mask(positions_BW, len(self.at_S))
        self.cache.positions_BT = positions_BW
        x_BWD = language.embed_tokens(self.ids_BC[:, first : first + width])
        for layer in language.layers:
            x_BWD = layer(x_BWD, rotation, self.cache, mask_B1WS)
        self.chosen_BC[:, first + 1 : first + 1 + width] = self.head.choose(language.norm(x_BWD))

    def _mask(self, positions_BW: Tensor, length: int) -> Tensor:
        """Additive attention mask: 0 up to a token's own slot, minus infinity beyond."""
        seen_B1WS = self.at_S[:length] <= positions_BW[:, None, :, None]
        return torch.zeros_like(seen_B1WS, dtype=self.cos.dtype).masked_fill_(~seen_B1WS, -torch.inf)


class ShapeCache(Generic[Kept]):
    """What a runtime keeps for each shape of request (rows, room, count); drops the least recently used."""

    def __init__(self, make: Callable[[int, int, int, Pool], Kept], model: OpenVLA) -> None:
        """Start empty.

        Args:
            make: Makes what is kept from a shape and the pool for its graphs. One pool is enough for a runtime, whose
                passes never run at once.
            model: The network.
        """
        self._make, self._patches, self._limit = make, model.config.patches, model.config.text.max_position_embeddings
        self._cuda = model.language_model.lm_head.weight.is_cuda
        self._pool: Pool = torch.cuda.graph_pool_handle() if self._cuda else None
        self._kept: OrderedDict[tuple[int, int, int], Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def values(self) -> list[Kept]:
        """What is kept, least recently used first."""
        return list(self._kept.values())

    def get(self, prompts: Sequence[Sequence[int]], count: int) -> Kept:
        """What is kept for a request, made on first use. On a GPU rows are padded to a power of two, at little cost."""
        rows = 1 << (len(prompts) - 1).bit_length() if self._cuda else len(prompts)
        room = -(-max(map(len, prompts)) // _BUCKET) * _BUCKET
        room = min(room, self._limit - self._patches - count)
        shape = (rows, room, count)
        if shape not in self._kept:
            while len(self._kept) >= MAX_SHAPES:
                self._kept.popitem(last=False)
            self._kept[shape] = self._make(*shape, self._pool)
        self._kept.move_to_end(shape)
        return self._kept[shape]
