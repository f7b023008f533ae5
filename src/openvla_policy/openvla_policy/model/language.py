"""Llama, with the parameter names of transformers and none of its import time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attend
from .config import TextGeometry

# Shapes: B batch, T new tokens, S all tokens so far, D hidden, h query heads, k key/value heads, d width of one.


class KVCache:
    """Keys and values of the tokens seen so far, in buffers allocated once (every layer alike)."""

    def __init__(self, text: TextGeometry, batch: int, length: int, like: Tensor) -> None:
        shape = (batch, text.num_key_value_heads, length, text.head_dim)
        self.keys = [like.new_empty(shape) for _ in range(text.num_hidden_layers)]
        self.values = [like.new_empty(shape) for _ in range(text.num_hidden_layers)]
        self.length = 0  # tokens written; advanced once a forward, by the model

    def append(self, layer: int, k_BkTd: Tensor, v_BkTd: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new tokens behind the old and return all of them."""
        end = self.length + k_BkTd.shape[2]
        if end > self.keys[layer].shape[2]:
            raise ValueError(f"KV cache holds {self.keys[layer].shape[2]} tokens, {end} needed")
        self.keys[layer][:, :, self.length : end] = k_BkTd
        self.values[layer][:, :, self.length : end] = v_BkTd
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype)


def rotary(text: TextGeometry, positions_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines (B, 1, T, d) of rotary position embedding; computed in float32."""
    even = torch.arange(0, text.head_dim, 2, device=positions_BT.device, dtype=torch.float32)
    angles = positions_BT[:, None, :, None].float() / text.rope_theta ** (even / text.head_dim)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + d/2}) by the position's angles."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Attention(nn.Module):
    """Causal self-attention; grouped-query where key/value heads are fewer than query heads."""

    def __init__(self, text: TextGeometry, layer: int) -> None:
        super().__init__()
        self.layer, self.d = layer, text.head_dim
        width, q = text.hidden_size, text.num_attention_heads * text.head_dim
        kv, bias = text.num_key_value_heads * text.head_dim, text.attention_bias
        self.q_proj = nn.Linear(width, q, bias=bias)
        self.k_proj = nn.Linear(width, kv, bias=bias)
        self.v_proj = nn.Linear(width, kv, bias=bias)
        self.o_proj = nn.Linear(q, width, bias=bias)

    def forward(
        self,
        x_BTD: Tensor,
        rotation: tuple[Tensor, Tensor],
        cache: KVCache | None,
        mask_B1TS: Tensor | None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D). Without a mask: causal over T, which then begins the sequence or is 1."""
        B, T, _ = x_BTD.shape
        q_BhTd = rotate(self.q_proj(x_BTD).view(B, T, -1, self.d).transpose(1, 2), *rotation)
        k_BkSd = rotate(self.k_proj(x_BTD).view(B, T, -1, self.d).transpose(1, 2), *rotation)
        v_BkSd = self.v_proj(x_BTD).view(B, T, -1, self.d).transpose(1, 2)
        if cache is not None:
            k_BkSd, v_BkSd = cache.append(self.layer, k_BkSd, v_BkSd)
        x_BhTd = attend(q_BhTd, k_BkSd, v_BkSd, mask_B1TS, causal=mask_B1TS is None and T > 1)
        return self.o_proj(x_BhTd.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, text: TextGeometry) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(text.hidden_size, text.intermediate_size, bias=text.mlp_bias)
        self.up_proj = nn.Linear(text.hidden_size, text.intermediate_size, bias=text.mlp_bias)
        self.down_proj = nn.Linear(text.intermediate_size, text.hidden_size, bias=text.mlp_bias)

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
        cache: KVCache | None = None,
        mask_B1TS: Tensor | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rotation, cache, mask_B1TS)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class LlamaModel(nn.Module):
    """Embeddings in, hidden states out."""

    def __init__(self, text: TextGeometry) -> None:
        super().__init__()
        self.text = text
        self.embed_tokens = nn.Embedding(text.vocab_size, text.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(text, n) for n in range(text.num_hidden_layers))
        self.norm = RMSNorm(text.hidden_size, text.rms_norm_eps)

    def forward(
        self,
        embeds_BTD: Tensor,
        positions_BT: Tensor | None = None,
        cache: KVCache | None = None,
        mask_B1TS: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) after the final norm.

        `positions_BT` counts from the sequence's start and defaults to what follows the cache.
        `mask_B1TS` (True = may look) is needed only where causal order does not say it all: padded rows
        that go on, or several new tokens behind a cache.
        """
        start = 0 if cache is None else cache.length
        T = embeds_BTD.shape[1]
        if start and T > 1 and mask_B1TS is None:
            raise ValueError(f"{T} new tokens behind {start} cached ones need an explicit mask")
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
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        if text.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
