"""The projector from image features to the language model's embedding space."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from openvla_policy.model.config import OpenVLAConfig
from openvla_policy.model.linear import Linear


class Projector(nn.Module):
    """Fused: D -> 4D -> T -> T. One encoder: D -> T -> T, or a single linear layer. GELU between layers."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        vision, text = config.vision_width, config.text.hidden_size
        widths = [vision, text, text]
        if config.fused:
            widths = [vision, 4 * vision, text, text]
        elif config.projector == "linear":
            widths = [vision, text]
        self.depth = len(widths) - 1
        for index in range(self.depth):
            setattr(self, f"fc{index + 1}", Linear(widths[index], widths[index + 1]))

    def forward(self, x_BND: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, T)."""
        for index in range(self.depth):
            x_BND = getattr(self, f"fc{index + 1}")(F.gelu(x_BND) if index else x_BND)
        return x_BND
