"""The additions of OpenVLA-OFT (Kim et al., 2025): a proprioception token, and all actions from one forward pass.

Parameter names are those of the released heads (openvla-oft: prismatic/models/action_heads.py and projectors.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openvla_policy.model.vla import OpenVLA

# Shapes: B batch, I images, N patches of one, K actions of a chunk, T prompt tokens, L whole sequence, D hidden.


@dataclass(frozen=True)
class OFTConfig:
    """Sizes that do not follow from the weights of a fine-tuned policy.

    Attributes:
        images: Cameras, the primary one first.
        chunk: Actions predicted at once.
        proprio: Length of the state; 0: no state token.
        regression: Whether an L1 head gives the actions; else they are tokens, all chosen in one pass.
        cameras: Names of the further images in `Observation.extra_images`, in the order of training.
        numbers: Length of an action.
    """

    images: int = 1
    chunk: int = 8
    proprio: int = 0
    regression: bool = True
    cameras: tuple[str, ...] = ()
    numbers: int = 7

    def __post_init__(self) -> None:
        if self.images < 1 or self.chunk < 1 or self.proprio < 0:
            raise ValueError(f"OFT heads: images, chunk >= 1 and proprio >= 0, got {self}")
        if len(self.cameras) != self.images - 1:
            raise ValueError(f"OFT heads: {self.images} images need {self.images - 1} camera names, got {self.cameras}")


class ProprioProjector(nn.Module):
    """Projects the normalised state to one token."""

    def __init__(self, proprio: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(proprio, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, state_BP: Tensor) -> Tensor:
        """(B, P) -> (B, 1, D)."""
        return self.fc2(F.gelu(self.fc1(state_BP)))[:, None]


class ResidualBlock(nn.Module):
    """Norm, linear and ReLU with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return x + self.ffn(x)


class ActionHead(nn.Module):
    """An MLP with two residual blocks: the concatenated hidden states of an action's seven tokens to the action."""

    def __init__(self, width: int, numbers: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(width * numbers)
        self.fc1 = nn.Linear(width * numbers, width)
        self.mlp_resnet_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(2))
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, numbers)

    def forward(self, hidden_BKD: Tensor) -> Tensor:
        """(B, K, 7 D) -> normalised actions (B, K, 7)."""
        x = F.relu(self.fc1(self.layer_norm1(hidden_BKD)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x))


class OFTHeads(nn.Module):
    """The modules beside the network that `config` requires."""

    def __init__(self, config: OFTConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.proprio_projector = ProprioProjector(config.proprio, width) if config.proprio else None
        self.action_head = ActionHead(width, config.numbers) if config.regression else None

    def hidden(
        self,
        model: OpenVLA,
        prompts: Sequence[Sequence[int]],
        pixels_BICHW: Tensor,
        state_BP: Tensor | None,
        eos_id: int,
    ) -> Tensor:
        """Compute the hidden states from which the chunk's numbers are read.

        The sequence is `<s>`, the patches of every image, the state token, the rest of the prompt, 7 K empty
        embeddings and `</s>`. Attention is bidirectional. As in next-token prediction, a number is read one position
        before its own embedding. Rows of different length are padded on the right, and padding is masked.

        Args:
            model: The network.
            prompts: Token ids of each row.
            pixels_BICHW: The prepared images of each row.
            state_BP: The normalised state of each row; None without a state token.
            eos_id: The end-of-sequence token.

        Returns:
            (B, 7 K, D).

        Raises:
            ValueError: The arguments differ in number, do not suit the heads, or do not fit the model's positions.
        """
        language, count = model.language_model.model, self.config.numbers * self.config.chunk
        B, images = pixels_BICHW.shape[:2]
        if images != self.config.images or len(prompts) != B or not all(prompts):
            raise ValueError(f"{len(prompts)} prompts and {tuple(pixels_BICHW.shape)} pixels for {self.config}")
        device = pixels_BICHW.device
        lengths = [len(prompt) for prompt in prompts]
        ids_BT = torch.zeros((B, max(lengths)), dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids_BT[row, : len(prompt)] = torch.as_tensor(prompt)
        text_BTD = language.embed_tokens(ids_BT.to(device))
        seen_BND = model.image_tokens(pixels_BICHW.flatten(0, 1).to(text_BTD.dtype)).view(B, -1, text_BTD.shape[2])
        if self.proprio_projector is not None:
            if state_BP is None or state_BP.shape != (B, self.config.proprio):
                has = None if state_BP is None else tuple(state_BP.shape)
                raise ValueError(f"state: expected ({B}, {self.config.proprio}), got {has}")
            seen_BND = torch.cat([seen_BND, self.proprio_projector(state_BP.to(seen_BND))], dim=1)
        end_1D = language.embed_tokens(torch.tensor([eos_id], device=device))
        seen = seen_BND.shape[1]
        longest = seen + max(lengths) + count + 1
        if longest > language.text.max_position_embeddings:
            limit = language.text.max_position_embeddings
            raise ValueError(f"the prompt needs {longest} of the model's {limit} positions; shorten it")
        embeds_BLD = text_BTD.new_zeros((B, longest, text_BTD.shape[2]))
        for row, length in enumerate(lengths):
            embeds_BLD[row, 0] = text_BTD[row, 0]
            embeds_BLD[row, 1 : seen + 1] = seen_BND[row]
            embeds_BLD[row, seen + 1 : seen + length] = text_BTD[row, 1:length]
            embeds_BLD[row, seen + length + count] = end_1D[0]
        length_B = torch.tensor(lengths, device=device) + seen
        real_BL = torch.arange(longest, device=device)[None] <= length_B[:, None] + count
        hidden_BLD = language(embeds_BLD, mask_B1TS=real_BL[:, None, None].expand(-1, 1, longest, -1))
        at_BM = length_B[:, None] - 1 + torch.arange(count, device=device)[None]
        return hidden_BLD.gather(1, at_BM[:, :, None].expand(-1, -1, hidden_BLD.shape[2]))
