"""Sizes of vision encoders: a table of known timm ids, and a description for any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class VisionGeometry:
    """One ViT. config.json's `vision_geometry` has the same fields.

    Attributes:
        name: timm id.
        image_size: Side of the image [px].
        patch: Side of a patch [px].
        width: Width of the transformer.
        depth: Blocks; the last one is loaded but not used (see vision.py).
        heads: Attention heads.
        mlp_ratio: An MLP's hidden width is int(width * mlp_ratio).
        class_token: Whether a class token precedes the patches.
        registers: Register tokens before the patches.
        embed_class: Whether the position embedding covers the class token (CLIP, plain ViT).
        layer_scale: Initial LayerScale. None: without LayerScale.
        attention_pool: Whether it has SigLIP's pooling head, whose weights are not used.
        pre_norm: A norm before the first block, and no bias in the patch embedding (CLIP).
        quick_gelu: CLIP's activation.
        eps: Of the layer norms.
    """

    name: str
    image_size: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    class_token: bool = False
    registers: int = 0
    embed_class: bool = False
    layer_scale: float | None = None
    attention_pool: bool = False
    pre_norm: bool = False
    quick_gelu: bool = False
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.image_size < self.patch or self.width % self.heads or self.depth < 2:
            raise ValueError(
                f"vision encoder {self.name!r}: image_size {self.image_size} must be at least patch "
                f"{self.patch}, width {self.width} divide by heads {self.heads}, and depth {self.depth} be at least 2"
            )

    @property
    def patches(self) -> int:
        """Image tokens; a margin narrower than a patch (SigLIP at 384 px) is ignored."""
        return (self.image_size // self.patch) ** 2

    @property
    def prefix(self) -> int:
        """Tokens before the patches."""
        return int(self.class_token) + self.registers

    @property
    def mlp_width(self) -> int:
        """Hidden width of a block's MLP."""
        return int(self.width * self.mlp_ratio)

    def is_known(self) -> bool:
        """Whether the table describes this encoder completely."""
        row = _TABLE.get(_base(self.name))
        return row is not None and replace(row, **_varying(self)) == self

    def to_dict(self) -> dict[str, Any]:
        """An entry of config.json's `vision_geometry`."""
        return asdict(self)


def geometry_of(
    name: str, image_size: int, explicit: Mapping[str, Any] | None = None, activation: str | None = None
) -> VisionGeometry:
    """Find the sizes of an encoder.

    Args:
        name: timm id.
        image_size: Side of the image [px].
        explicit: Its entry in config.json's `vision_geometry`, which replaces the table's.
        activation: Its entry in `timm_override_act_layers`.

    Returns:
        The sizes.

    Raises:
        ValueError: The encoder is not in the table, or its entries are wrong.
    """
    if activation not in (None, "gelu", "quick_gelu"):
        raise ValueError(f"timm_override_act_layers: {activation!r} is unknown; null, gelu or quick_gelu")
    own: dict[str, Any] = {"name": name, "image_size": image_size}
    if activation is not None:
        own["quick_gelu"] = activation == "quick_gelu"
    if explicit is not None:
        known = {f.name for f in fields(VisionGeometry)}
        required = {f.name for f in fields(VisionGeometry) if f.default is MISSING}
        unknown, absent = set(explicit) - known, required - set(explicit) - set(own)
        if unknown or absent:
            raise ValueError(
                f"vision_geometry of {name!r}: unknown {sorted(unknown)}, missing {sorted(absent)}; "
                f"the fields are {', '.join(sorted(known))}"
            )
        return VisionGeometry(**{**explicit, **own})
    row = _TABLE.get(_base(name))
    if row is None:
        raise ValueError(
            f"vision encoder {name!r} is not in the table ({', '.join(sorted(_TABLE))}); "
            "describe it in config.json under vision_geometry (see openvla_policy/model/vit_sizes.py)"
        )
    return replace(row, **own)


def _base(name: str) -> str:
    return name.split(".")[0]  # timm's ".tag" names the weights, not the shape


def _varying(geometry: VisionGeometry) -> dict[str, Any]:
    return {"name": geometry.name, "image_size": geometry.image_size, "quick_gelu": geometry.quick_gelu}


Row = dict[str, Any]


def _rows() -> dict[str, VisionGeometry]:
    large: Row = dict(width=1024, depth=24, heads=16)
    base: Row = dict(width=768, depth=12, heads=12)
    small: Row = dict(width=384, depth=12, heads=6)
    huge: Row = dict(width=1280, depth=32, heads=16)
    class_only: Row = dict(class_token=True, embed_class=True, layer_scale=1e-5)  # DINOv2 without registers
    plain: Row = dict(patch=16, class_token=True, embed_class=True)
    so400m: Row = dict(patch=14, width=1152, depth=27, heads=16, mlp_ratio=3.7362, attention_pool=True)
    dino: Row = dict(class_token=True, registers=4, layer_scale=1e-5)
    clip: Row = dict(class_token=True, embed_class=True, pre_norm=True, eps=1e-5)
    tiny: Row = dict(patch=14, width=96)  # the two encoders of the parity fixtures
    rows = [
        VisionGeometry("vit_large_patch14_reg4_dinov2", 518, patch=14, **large, **dino),
        VisionGeometry("vit_base_patch14_reg4_dinov2", 518, patch=14, **base, **dino),
        VisionGeometry("vit_small_patch14_reg4_dinov2", 518, patch=14, **small, **dino),
        VisionGeometry("vit_large_patch14_dinov2", 518, patch=14, **large, **class_only),
        VisionGeometry("vit_base_patch14_dinov2", 518, patch=14, **base, **class_only),
        VisionGeometry("vit_small_patch14_dinov2", 518, patch=14, **small, **class_only),
        VisionGeometry("vit_so400m_patch14_siglip_224", 224, **so400m),
        VisionGeometry("vit_so400m_patch14_siglip_384", 384, **so400m),
        VisionGeometry("vit_base_patch16_siglip_224", 224, patch=16, **base, attention_pool=True),
        VisionGeometry("vit_base_patch16_siglip_256", 256, patch=16, **base, attention_pool=True),
        VisionGeometry("vit_base_patch16_siglip_384", 384, patch=16, **base, attention_pool=True),
        VisionGeometry("vit_base_patch16_siglip_512", 512, patch=16, **base, attention_pool=True),
        VisionGeometry("vit_large_patch16_siglip_256", 256, patch=16, **large, attention_pool=True),
        VisionGeometry("vit_large_patch16_siglip_384", 384, patch=16, **large, attention_pool=True),
        VisionGeometry("vit_base_patch16_clip_224", 224, patch=16, **base, **clip),
        VisionGeometry("vit_base_patch32_clip_224", 224, patch=32, **base, **clip),
        VisionGeometry("vit_huge_patch14_clip_224", 224, patch=14, **huge, **clip),
        VisionGeometry("vit_large_patch14_clip_224", 224, patch=14, **large, **clip),
        VisionGeometry("vit_large_patch14_clip_336", 336, patch=14, **large, **clip),
        VisionGeometry("vit_large_patch16_224", 224, **large, **plain),
        VisionGeometry("vit_base_patch16_224", 224, **base, **plain),
        VisionGeometry("vit_small_patch16_224", 224, **small, **plain),
        VisionGeometry("vit_ovtiny_patch14_reg4_dinov2", 224, depth=4, heads=3, **tiny, **dino),
        VisionGeometry(
            "vit_ovtiny_patch14_siglip_224", 224, depth=3, heads=2, mlp_ratio=3.7362, **tiny, attention_pool=True
        ),
    ]
    return {row.name: row for row in rows}


_TABLE = _rows()
