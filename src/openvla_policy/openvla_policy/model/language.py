"""Llama, with the parameter names of transformers and none of its import time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvla_policy.model.attention import attend
from openvla_policy.model.config import TextGeometry
from openvla_policy.model.linear import Linear

# Shapes: B batch, T new tokens, S all tokens so far, D hidden, h query heads, k key/value heads, d width of one.


class KVCache:
    """Keys and values of the tokens read so far, in buffers allocated once for every layer."""

    def __init__(self, text: TextGeometry, batch: int, length: int, like: Tensor) -> None:
        shape = (batch, text.num_key_value_heads, length, text.head_dim)
        self.keys = [like.new_empty(shape) for _ in range(text.num_hidden_layers)]
        self.values = [like.new_empty(shape) for _ in range(text.num_hidden_layers)]
        self.length = 0  # tokens written; the model advances it once in a forward pass

    def append(self, layer: int, k_BkTd: Tensor, v_BkTd: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new tokens and return all of them."""
        end = self.length + k_BkTd.shape[2]
        if end > self.keys[layer].shape[2]:
            raise ValueError(f"KV cache holds {self.keys[layer].shape[2]} tokens, {end} needed")
        self.keys[layer][:, :, self.length : end] = k_BkTd
        self.values[layer][:, :, self.length : end] = v_BkTd
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


class SlotCache:
    """Keys and values of `rows` sequences, each token's at the slot of its own position.

    The buffers are allocated once and never move, as graph capture requires. Rows may differ in length: nothing
    attends to what padding writes after a row's end, as a token attends to the slots up to its own, and a slot is
    overwritten when a real token reaches it.
    """

    def __init__(self, text: TextGeometry, rows: int, length: int, like: Tensor) -> None:
        # Zeros, because even a masked slot must be finite.
        shape = (rows, text.num_key_value_heads, length, text.head_dim)
        self.keys = [like.new_zeros(shape) for _ in range(text.num_hidden_layers)]
        self.values = [like.new_zeros(shape) for _ in range(text.num_hidden_layers)]
        self.positions_BT: Tensor | None = None  # of the next tokens; None where they begin the sequence

    def append(self, layer: int, k_BkTd: Tensor, v_BkTd: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens. Return all slots, or the new tokens alone where they begin the sequence."""
        keys, values = self.keys[layer], self.values[layer]
        if self.positions_BT is None:
            T = k_BkTd.shape[2]
            keys[:, :, :T], values[:, :, :T] = k_BkTd, v_BkTd
            return k_BkTd, v_BkTd
        slots = self.positions_BT[:, None, :, None].expand_as(k_BkTd)
        return keys.scatter_(2, slots, k_BkTd), values.scatter_(2, slots, v_BkTd)


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        # One kernel, in float32 inside; the gain afterwards, in the dtype of x, where the reference rounds.
        return self.weight * F.rms_norm(x, x.shape[-1:], eps=self.eps)


def rotary(text: TextGeometry, positions_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines (B, 1, T, d) of rotary position embedding; computed in float32."""
    even = torch.arange(0, text.head_dim, 2, device=positions_BT.device, dtype=torch.float32)
    angles = positions_BT[:, None, :, None].float() / text.rope_theta ** (even / text.head_dim)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x_i, x_{i + d/2}) by the position's angles."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def pick(x_BTD: Tensor, positions_BR: Tensor) -> Tensor:
    """The given positions of each row, (B, R, D)."""
    return torch.take_along_dim(x_BTD, positions_BR[:, :, None], 1)


class Attention(nn.Module):
    """Causal self-attention; grouped-query where key/value heads are fewer than query heads."""

    def __init__(self, text: TextGeometry, layer: int) -> None:
        super().__init__()
        self.layer, self.d = layer, text.head_dim
        width, q = text.hidden_size, text.num_attention_heads * text.head_dim
        kv, bias = text.num_key_value_heads * text.head_dim, text.attention_bias
        self.q_proj = Linear(width, q, bias=bias)
        self.k_proj = Linear(width, kv, bias=bias)
        self.v_proj = Linear(width, kv, bias=bias)
        self.o_proj = Linear(q, width, bias=bias)

    def forward(
        self,
        x_BTD: Tensor,
        rotation: tuple[Tensor, Tensor],
        cache: KVCache | SlotCache | None,
        mask_B1TS: Tensor | None,
        read_BR: Tensor | None = None,
    ) -> Tensor:
        """Attend from the new tokens to themselves and to the cache.

        Args:
            x_BTD: Hidden states of the new tokens.
            rotation: Cosines and sines of their positions.
            cache: Keys and values of earlier tokens; the new ones are appended.
            mask_B1TS: Which tokens each new one attends to. None: causal; the new tokens then begin the sequence,
                or there is only one.
            read_BR: The positions among the T whose output is needed. None: all.

        Returns:
            (B, T, D), or (B, R, D) with `read_BR`.
        """
        B, T, _ = x_BTD.shape
        k_BkSd = rotate(self.k_proj(x_BTD).view(B, T, -1, self.d).transpose(1, 2), *rotation)
        v_BkSd = self.v_proj(x_BTD).view(B, T, -1, self.d).transpose(1, 2)
        if cache is not None:
            k_BkSd, v_BkSd = cache.append(self.layer, k_BkSd, v_BkSd)
        if read_BR is not None:
            at_B1R1, T = read_BR[:, None, :, None], read_BR.shape[1]
            x_BTD = pick(x_BTD, read_BR)
            rotation = (torch.take_along_dim(rotation[0], at_B1R1, 2), torch.take_along_dim(rotation[1], at_B1R1, 2))
        q_BhTd = rotate(self.q_proj(x_BTD).view(B, T, -1, self.d).transpose(1, 2), *rotation)
        x_BhTd = attend(q_BhTd, k_BkSd, v_BkSd, mask_B1TS, causal=mask_B1TS is None and T > 1)
        return self.o_proj(x_BhTd.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, text: TextGeometry) -> None:
        super().__init__()
        self.gate_proj = Linear(text.hidden_size, text.intermediate_size, bias=text.mlp_bias)
        self.up_proj = Linear(text.hidden_size, text.intermediate_size, bias=text.mlp_bias)
        self.down_proj = Linear(text.intermediate_size, text.hidden_size, bias=text.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """One pre-norm layer."""

    def __init__(self, text: TextGeometry, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(text.hidden_size, text.rms_norm_eps)
        self.self_attn = Attention(text, layer)
        self.post_attention_layernorm = RMSNorm(text.hidden_size, text.rms_norm_eps)
        self.mlp = MLP(text)

    def forward(
        self,
        x_BTD: Tensor,
        rotation: tuple[Tensor, Tensor],
        cache: KVCache | SlotCache | None = None,
        mask_B1TS: Tensor | None = None,
        read_BR: Tensor | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D), or (B, R, D) with `read_BR`: keys and values of all, outputs of these only."""
        attended = self.self_attn(self.input_layernorm(x_BTD), rotation, cache, mask_B1TS, read_BR)
        x_BTD = (x_BTD if read_BR is None else pick(x_BTD, read_BR)) + attended
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class LlamaModel(nn.Module):
    """The decoder, from embeddings to hidden states."""

    def __init__(self, text: TextGeometry) -> None:
        super().__init__()
        self.text = text
        # As Embedding's own initialisation, which on the meta device would import torch._dynamo (0.5 s, 40 MB).
        initial = torch.randn(text.vocab_size, text.hidden_size)
        self.embed_tokens = nn.Embedding(text.vocab_size, text.hidden_size, _weight=initial)
        self.layers = nn.ModuleList(DecoderLayer(text, n) for n in range(text.num_hidden_layers))
        self.norm = RMSNorm(text.hidden_size, text.rms_norm_eps)

    def forward(
        self,
        embeds_BTD: Tensor,
        positions_BT: Tensor | None = None,
        cache: KVCache | None = None,
        mask_B1TS: Tensor | None = None,
    ) -> Tensor:
        """Compute the hidden states after the final norm.

        Args:
            embeds_BTD: Embeddings of the new tokens.
            positions_BT: Their positions in the sequence. None: those that follow the cache.
            cache: Keys and values of earlier tokens; the new ones are appended.
            mask_B1TS: True where a token attends to another. Required only where causal order is not enough: padded
                rows that continue, or several new tokens after a cache.

        Returns:
            (B, T, D).

        Raises:
            ValueError: A required mask is missing.
        """
        start = 0 if cache is None else cache.length
        T = embeds_BTD.shape[1]
        if start and T > 1 and mask_B1TS is None:
            raise ValueError(f"{T} new tokens after {start} cached ones need an explicit mask")
        if positions_BT is None:
            positions_BT = torch.arange(start, start + T, device=embeds_BTD.device)[None]
        rotation = rotary(self.text, positions_BT, embeds_BTD.dtype)
        x_BTD = embeds_BTD
        for layer in self.layers:
            x_BTD = layer(x_BTD, rotation, cache, mask_B1TS)
        if cache is not None:
            cache.length = start + T
        return self.norm(x_BTD)


class Llama(nn.Module):
    """The language model with its head (named as transformers' LlamaForCausalLM)."""

    def __init__(self, text: TextGeometry) -> None:
        super().__init__()
        self.model = LlamaModel(text)
        self.lm_head = Linear(text.hidden_size, text.vocab_size, bias=False)
        if text.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
