"""The computation of the reference implementation with the weights of one of our models, as the baseline.

Two forms. `generate` is today's transformers: `LlamaForCausalLM.generate(inputs_embeds=…)`, with the head on the last
position only. `reference` is transformers 4.40.1, which OpenVLA pins: the same network and cache, with the head on
every position of the prefill and the logits cast to float32. Both compute vision as the reference does: all blocks,
including the unused last one, with torch's F.linear.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openvla_policy.contract.prompt import build_prompt
from openvla_policy.model import linear as linear_module
from openvla_policy.model.vision import VisionBackbone, VisionTransformer
from openvla_policy.runtime.local_policy import LocalPolicy

from .machine import synchronise

Form = Literal["generate", "reference"]
COUNT = 7


class Baseline:
    """One of the two forms, sharing the weights of a policy (not quantised)."""

    def __init__(self, policy: LocalPolicy, form: Form) -> None:
        self.policy, self.form = policy, form
        self.model = policy.checkpoint.model
        self.language = transformers_model(policy)
        self._passes: list[float] = []
        if form == "generate":
            self.language.register_forward_hook(lambda *_: self._passes.append(self._now()))

    def predict(self, image: np.ndarray, instruction: str) -> tuple[np.ndarray, dict[str, float]]:
        """Return token ids (7,) and the seconds of each stage."""
        with torch.inference_mode(), plain_linears():
            return self._predict(image, instruction)

    def _predict(self, image: np.ndarray, instruction: str) -> tuple[np.ndarray, dict[str, float]]:
        policy, checkpoint, language = self.policy, self.policy.checkpoint, self.model.language_model.model
        start = self._now()
        pixels_BCHW = checkpoint.preparation(image, policy.device)[None].to(policy.dtype)
        ids = checkpoint.tokenizer.encode_prompt(build_prompt(instruction, policy.prompt_style))
        text_BTD = language.embed_tokens(torch.tensor([ids], device=policy.device))
        prepared = self._now()
        image_BND = self.model.projector(vision_features(self.model.vision_backbone, pixels_BCHW))
        embeds_BLD = torch.cat([text_BTD[:, :1], image_BND, text_BTD[:, 1:]], dim=1)
        seen = self._now()
        if self.form == "generate":
            tokens, prefilled = self._generate(embeds_BLD)
        else:
            tokens, prefilled = self._loop(embeds_BLD)
        chosen = tokens[0].cpu().numpy()
        decoded = self._now()
        entry = checkpoint.statistics[policy.unnorm_key]
        entry.unnormalise(policy.tokens.decode(chosen[None]))
        end = self._now()
        return chosen, {
            "preparation": prepared - start,
            "vision": seen - prepared,
            "prefill": prefilled - seen,
            "decode": decoded - prefilled,
            "detokenise": end - decoded,
            "total": end - start,
        }

    def _generate(self, embeds_BLD: Tensor) -> tuple[Tensor, float]:
        self._passes.clear()
        mask = torch.ones(embeds_BLD.shape[:2], dtype=torch.int64, device=embeds_BLD.device)
        tokens = self.language.generate(
            inputs_embeds=embeds_BLD, attention_mask=mask, max_new_tokens=COUNT, do_sample=False, use_cache=True
        )
        return tokens, self._passes[0]

    def _loop(self, embeds_BLD: Tensor) -> tuple[Tensor, float]:
        from transformers import DynamicCache

        cache = DynamicCache()
        tokens, prefilled, entering = [], 0.0, embeds_BLD
        for step in range(COUNT):
            output = self.language.model(inputs_embeds=entering, past_key_values=cache, use_cache=True)
            logits_BLV = self.language.lm_head(output.last_hidden_state).float()
            tokens.append(logits_BLV[:, -1].argmax(-1))
            if step == 0:
                prefilled = self._now()
            entering = self.language.model.embed_tokens(tokens[-1])[:, None]
        return torch.stack(tokens, dim=1), prefilled

    def _now(self) -> float:
        synchronise(self.policy.device)
        return time.perf_counter()


def vision_features(backbone: VisionBackbone, pixels_BCHW: Tensor) -> Tensor:
    """Return the features (B, N, D) of all encoders; their unused last blocks are computed as well."""
    encoders: list[VisionTransformer] = [backbone.featurizer]
    if backbone.fused_featurizer is not None:
        encoders.append(backbone.fused_featurizer)
    features = []
    for encoder, pixels in zip(encoders, pixels_BCHW.split(3, dim=1), strict=True):
        kept: list[Tensor] = []
        hook = encoder.blocks[-2].register_forward_hook(lambda _module, _input, output, kept=kept: kept.append(output))
        features.append(encoder(pixels))
        hook.remove()
        encoder.blocks[-1](kept[0])
    return torch.cat(features, dim=2)


def plain_linears() -> AbstractContextManager[Any]:
    """Within the context the model's linear layers are torch's F.linear, as the reference's are."""
    return mock.patch.object(linear_module, "linear", F.linear)


def transformers_model(policy: LocalPolicy) -> Any:
    """Return transformers' Llama with the language model's weights, without copying them."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    text = policy.checkpoint.config.text
    config = LlamaConfig(
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_hidden_layers=text.num_hidden_layers,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        vocab_size=text.vocab_size,
        rms_norm_eps=text.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": text.rope_theta},
        max_position_embeddings=text.max_position_embeddings,
        attention_bias=text.attention_bias,
        mlp_bias=text.mlp_bias,
        tie_word_embeddings=text.tie_word_embeddings,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(policy.checkpoint.model.language_model.state_dict(), assign=True)
    with policy.device:  # the angles are no parameters and are still on the meta device
        model.model.rotary_emb = LlamaRotaryEmbedding(config)
    model.generation_config.eos_token_id = None  # seven tokens always, as in our runtimes
    model.generation_config.pad_token_id = policy.checkpoint.config.pad_token_id
    return model.eval()
