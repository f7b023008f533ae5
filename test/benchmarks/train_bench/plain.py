"""A plain fine-tuning loop over transformers and peft, as the reference's vla-scripts/finetune.py has it.

The language model is transformers' LlamaForCausalLM, its loss over logits of every position in float32; all vision
blocks are computed, the unused last one too; peft's adapters on every linear layer; AdamW as torch has it by default.
"""

from __future__ import annotations

import torch
from policy_bench.baseline import plain_linears, transformers_model, vision_features
from torch import Tensor, nn

from openvla_policy.checkpoint.adapters import attach_lora
from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.model.vla import IGNORE_INDEX
from openvla_policy.runtime.local_policy import LocalPolicy
from openvla_training.trainer.data.batch import Batch


class Plain(nn.Module):
    """The same network in the reference's parts, over a checkpoint's weights."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.language_model = transformers_model(LocalPolicy(checkpoint, vocabulary="full"))
        self.vision_backbone, self.projector = checkpoint.model.vision_backbone, checkpoint.model.projector

    def forward(self, ids_BT: Tensor, pixels_BCHW: Tensor, labels_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """The loss of a batch, as VLAOutput.loss is."""
        text_BTD = self.language_model.model.embed_tokens(ids_BT)
        image_BND = self.projector(vision_features(self.vision_backbone, pixels_BCHW))
        embeds_BLD = torch.cat([text_BTD[:, :1], image_BND, text_BTD[:, 1:]], dim=1)
        nothing = labels_BT.new_full(image_BND.shape[:2], IGNORE_INDEX)
        labels_BL = torch.cat([labels_BT[:, :1], nothing, labels_BT[:, 1:]], dim=1)
        mask_BL = torch.cat([mask_BT[:, :1], torch.ones_like(nothing, dtype=mask_BT.dtype), mask_BT[:, 1:]], dim=1)
        return self.language_model(inputs_embeds=embeds_BLD, labels=labels_BL, attention_mask=mask_BL).loss


class PlainLoop:
    """Trains it: LoRA of `rank`, or everything (`rank` 0), products in bf16 (`bf16`)."""

    def __init__(self, checkpoint: Checkpoint, rank: int, bf16: bool, device: torch.device) -> None:
        self._checkpoint, self._bf16, self._device = checkpoint, bf16, device
        self.model = Plain(checkpoint).train()
        self.model.requires_grad_(not rank)
        if rank:
            attach_lora(self.model, rank)
        self._optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=5e-4)

    def step(self, batch: Batch) -> float:
        """One optimizer step; returns its loss."""
        pixels = self._checkpoint.preparation.normalise(batch.images, self._device)
        ids, labels, mask = (t.to(self._device) for t in (batch.input_ids, batch.labels, batch.attention_mask))
        with plain_linears(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            loss = self.model(ids, pixels, labels, mask)
        with plain_linears():
            loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(loss.detach())
