"""OpenVLA: see, project, read the sentence, predict the next token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvla_policy.model.config import OpenVLAConfig
from openvla_policy.model.language import Llama
from openvla_policy.model.projector import Projector
from openvla_policy.model.vision import VisionBackbone, VisionTransformer, sinusoids_2d

# Shapes: B batch, T text tokens, N image tokens, M labelled tokens, D hidden, V vocabulary.

IGNORE_INDEX = -100


@dataclass
class VLAOutput:
    """What a forward pass gives.

    Without labels: `logits` (B, T + N, V), the image tokens standing behind the first text token.
    With labels: `loss` (scalar), and for the M labelled tokens alone, in batch order, `label_logits`
    (M, V) and `label_targets` (M,); `logits` only where asked for, as the head over all positions costs
    more than the decoder of a small model.
    """

    logits: Tensor | None = None
    loss: Tensor | None = None
    label_logits: Tensor | None = None
    label_targets: Tensor | None = None


class OpenVLA(nn.Module):
    """The network at any size; parameter names equal the published checkpoints'."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_backbone = VisionBackbone(config.vision)
        self.projector = Projector(config)
        self.language_model = Llama(config.text)
        if not next(self.parameters()).is_meta:
            self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Fresh weights for training from scratch (loading replaces them; left out on meta).

        Matrices have the variance of one over their inputs, so that signals keep their size at any width.
        Position embeddings start as 2-D sinusoids as large as the patch features: a small network that cannot
        tell patches apart learns everything about a scene but where things are.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.5)
            elif isinstance(module, VisionTransformer):
                for token in (module.cls_token, module.reg_token):
                    if token is not None:
                        nn.init.normal_(token, std=0.02)
                grid = sinusoids_2d(module.geometry.image_size // module.geometry.patch, module.geometry.width)
                module.pos_embed.zero_()
                module.pos_embed[0, -len(grid) :] = grid.to(module.pos_embed)

    def image_tokens(self, pixels_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, D) in the language model's embedding space."""
        return self.projector(self.vision_backbone(pixels_BCHW))

    def embed(self, ids_BT: Tensor, pixels_BCHW: Tensor) -> Tensor:
        """The sequence the language model reads (B, T + N, D): first token, image, the rest."""
        text_BTD = self.language_model.model.embed_tokens(ids_BT)
        image_BND = self.image_tokens(pixels_BCHW)
        return torch.cat([text_BTD[:, :1], image_BND.to(text_BTD.dtype), text_BTD[:, 1:]], dim=1)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        all_logits: bool = False,
    ) -> VLAOutput:
        """Token ids (B, T), pixels (B, C, H, W), labels (B, T) with -100 where there is nothing to learn.

        Padding stands on the right, as in the reference; causal attention then keeps every real token from
        seeing it, so `attention_mask` (B, T) changes nothing and is only checked. The loss is the mean
        cross-entropy over labelled tokens, each predicted from the position before it, in float32.
        """
        if attention_mask is not None and attention_mask.device.type == "cpu":
            if not bool(attention_mask[:, 0].all()) or bool((attention_mask.int().diff(dim=1) > 0).any()):
                raise ValueError("attention_mask: padding must stand on the right of each row")
        hidden_BLD = self.language_model.model(self.embed(input_ids, pixel_values))
        head = self.language_model.lm_head
        output = VLAOutput()
        if labels is not None:
            # Image tokens carry no label, and the first text token predicts one of them: what remains is
            # labels[:, 1:], predicted from the last image token and all text tokens but the last.
            targets_BT = labels[:, 1:]
            hidden_BTD = hidden_BLD[:, self.config.patches : -1]
            chosen = targets_BT != IGNORE_INDEX
            output.label_targets = targets_BT[chosen]
            output.label_logits = head(hidden_BTD[chosen])
            output.loss = F.cross_entropy(output.label_logits.float(), output.label_targets)
        if labels is None or all_logits:
            output.logits = head(hidden_BLD)
        return output
