"""OpenVLA: vision encoders, projector and language model, for next-token prediction."""

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
    """The results of a forward pass.

    Attributes:
        logits: (B, T + N, V), with the image tokens after the first text token. With labels only on request, as the
            head over all positions costs more than the decoder of a small model.
        loss: Scalar; with labels.
        label_logits: (M, V) of the labelled tokens, in batch order; with labels.
        label_targets: (M,) their labels.
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
        """Initialise the weights for training from scratch (omitted on the meta device; loading replaces them).

        Matrices have a variance of one over their inputs, so that signals keep their scale at any width. Position
        embeddings start as 2-D sinusoids as large as the patch features: a small network that cannot distinguish
        patches learns everything about a scene except where things are.
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
        """The sequence that the language model reads (B, T + N, D): first token, image, other tokens."""
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
        """Compute logits, or the mean cross-entropy of the labelled tokens in float32.

        Args:
            input_ids: (B, T) token ids, padded on the right as in the reference. Causal attention then keeps real
                tokens from attending to padding.
            pixel_values: (B, C, H, W) prepared images.
            attention_mask: (B, T), only checked: it changes nothing.
            labels: (B, T) with -100 where there is no label; each is predicted from the position before it.
            all_logits: Compute all logits beside the loss.

        Returns:
            The results.

        Raises:
            ValueError: Padding is not on the right.
        """
        if (
            attention_mask is not None
            and attention_mask.device.type == "cpu"
            and (not attention_mask[:, 0].all() or (attention_mask.int().diff(dim=1) > 0).any())
        ):
            raise ValueError("attention_mask: padding must be on the right of each row")
        hidden_BLD = self.language_model.model(self.embed(input_ids, pixel_values))
        head = self.language_model.lm_head
        output = VLAOutput()
        if labels is not None:
            # Image tokens have no label, and the first text token predicts one of them. The others, labels[:, 1:], are
            # predicted from the last image token and all text tokens but the last.
            targets_BT = labels[:, 1:]
            hidden_BTD = hidden_BLD[:, self.config.patches : -1]
            chosen = targets_BT != IGNORE_INDEX
            output.label_targets = targets_BT[chosen]
            output.label_logits = head(hidden_BTD[chosen])
            output.loss = F.cross_entropy(output.label_logits.float(), output.label_targets)
        if labels is None or all_logits:
            output.logits = head(hidden_BLD)
        return output
