"""Vision transformers with timm's parameter names, for the patch features that OpenVLA reads."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from openvla_policy.model.attention import attend
from openvla_policy.model.linear import Linear
from openvla_policy.model.vit_sizes import VisionGeometry

# Shapes: B batch, C channels, H W pixels, L tokens, N patches, D width, h heads, d head width.


class QuickGELU(nn.Module):
    """CLIP's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return x * torch.sigmoid(1.702 * x)


class PatchEmbed(nn.Module):
    """Split the image into patches and project each."""

    def __init__(self, geometry: VisionGeometry) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, geometry.width, geometry.patch, geometry.patch, bias=not geometry.pre_norm)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, D)."""
        return self.proj(x_BCHW).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention over all tokens."""

    def __init__(self, geometry: VisionGeometry) -> None:
        super().__init__()
        self.heads = geometry.heads
        self.qkv = Linear(geometry.width, 3 * geometry.width)
        self.proj = Linear(geometry.width, geometry.width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        B, L, D = x_BLD.shape
        q_BhLd, k_BhLd, v_BhLd = self.qkv(x_BLD).view(B, L, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x_BhLd = attend(q_BhLd, k_BhLd, v_BhLd)
        return self.proj(x_BhLd.transpose(1, 2).reshape(B, L, D))


class MLP(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, geometry: VisionGeometry) -> None:
        super().__init__()
        self.fc1 = Linear(geometry.width, geometry.mlp_width)
        self.act = QuickGELU() if geometry.quick_gelu else nn.GELU()
        self.fc2 = Linear(geometry.mlp_width, geometry.width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.fc2(self.act(self.fc1(x)))


class LayerScale(nn.Module):
    """A trained gain for each channel; `scale_factor` is the reference's name for timm's gamma."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return x * self.scale_factor


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, geometry: VisionGeometry) -> None:
        super().__init__()
        scale = geometry.layer_scale
        self.norm1 = nn.LayerNorm(geometry.width, eps=geometry.eps)
        self.attn = Attention(geometry)
        self.ls1 = nn.Identity() if scale is None else LayerScale(geometry.width, scale)
        self.norm2 = nn.LayerNorm(geometry.width, eps=geometry.eps)
        self.mlp = MLP(geometry)
        self.ls2 = nn.Identity() if scale is None else LayerScale(geometry.width, scale)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        x_BLD = x_BLD + self.ls1(self.attn(self.norm1(x_BLD)))
        return x_BLD + self.ls2(self.mlp(self.norm2(x_BLD)))


class AttentionPool(nn.Module):
    """SigLIP's pooling head: weights only, as OpenVLA reads patches and not the pooled vector."""

    def __init__(self, geometry: VisionGeometry) -> None:
        super().__init__()
        width = geometry.width
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q = Linear(width, width)
        self.kv = Linear(width, 2 * width)
        self.proj = Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=geometry.eps)
        self.mlp = MLP(geometry)


class VisionTransformer(nn.Module):
    """One encoder. Its last block, final norm and pooling are loaded and saved, but not used."""

    def __init__(self, geometry: VisionGeometry) -> None:
        super().__init__()
        self.geometry = geometry
        width = geometry.width
        self.patch_embed = PatchEmbed(geometry)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if geometry.class_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, geometry.registers, width)) if geometry.registers else None
        embedded = geometry.patches + int(geometry.embed_class and geometry.class_token)
        self.pos_embed = nn.Parameter(torch.zeros(1, embedded, width))
        self.norm_pre = nn.LayerNorm(width, eps=geometry.eps) if geometry.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(geometry) for _ in range(geometry.depth))
        self.norm = nn.LayerNorm(width, eps=geometry.eps)
        self.attn_pool = AttentionPool(geometry) if geometry.attention_pool else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> patch features (B, N, D): output of the last block but one, un-normed."""
        size = self.geometry.image_size
        if x_BCHW.shape[1:] != (3, size, size):
            raise ValueError(f"{self.geometry.name} takes (B, 3, {size}, {size}), got {tuple(x_BCHW.shape)}")
        x_BLD = self.patch_embed(x_BCHW)
        if not self.geometry.embed_class:
            x_BLD = x_BLD + self.pos_embed
        prefix = [t.expand(len(x_BLD), -1, -1) for t in (self.cls_token, self.reg_token) if t is not None]
        x_BLD = torch.cat([*prefix, x_BLD], dim=1) if prefix else x_BLD
        if self.geometry.embed_class:
            x_BLD = x_BLD + self.pos_embed
        x_BLD = self.norm_pre(x_BLD)
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD)
        return x_BLD[:, self.geometry.prefix :]


class VisionBackbone(nn.Module):
    """One encoder, or two whose features are concatenated: [DINOv2 | SigLIP]."""

    def __init__(self, geometries: tuple[VisionGeometry, ...]) -> None:
        super().__init__()
        self.featurizer = VisionTransformer(geometries[0])
        self.fused_featurizer = VisionTransformer(geometries[1]) if len(geometries) > 1 else None

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """(B, 3 * encoders, H, W) -> (B, N, sum of widths)."""
        encoders = 1 if self.fused_featurizer is None else 2
        if pixels_BCHW.ndim != 4 or pixels_BCHW.shape[1] != 3 * encoders:
            shape = tuple(pixels_BCHW.shape)
            raise ValueError(f"pixel_values: expected (B, {3 * encoders}, H, W), got {shape}")
        if self.fused_featurizer is None:
            return self.featurizer(pixels_BCHW)
        first, second = pixels_BCHW.split(3, dim=1)
        return torch.cat([self.featurizer(first), self.fused_featurizer(second)], dim=2)


def sinusoids_2d(side: int, width: int) -> Tensor:
    """Compute fixed position codes of a square grid: sine and cosine of row and column (Vaswani et al., 2017).

    Half of the features are for each axis, with wavelengths from two cells up to four times the grid.

    Args:
        side: Cells on a side of the grid.
        width: Features of a code.

    Returns:
        (side * side, width) with values in [-1, 1].
    """
    count = -(-width // 4)
    frequency = math.pi * torch.logspace(0.0, math.log10(1.0 / (2.0 * side)), count)
    angle = torch.arange(side, dtype=torch.float32)[:, None] * frequency[None]
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows = axis[:, None].expand(side, side, -1)
    columns = axis[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).reshape(side * side, -1)[:, :width]
