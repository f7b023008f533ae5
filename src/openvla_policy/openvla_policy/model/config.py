"""All sizes of an OpenVLA, read from and written to the reference's config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from openvla_policy.model.vit_sizes import VisionGeometry, geometry_of

_TEXT_DEFAULTS: dict[str, Any] = {  # of LlamaConfig in transformers 4.40.1: config.json lists differences
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class TextGeometry:
    """Sizes of the Llama language model. `vocab_size` includes padding."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 2048
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TextGeometry:
        """Read `text_config`. Absent values have the defaults of the reference's version of transformers."""
        kind = data.get("model_type", "llama")
        if kind != "llama":
            raise ValueError(f"text_config.model_type: {kind!r} is not supported; only 'llama' is")
        if data.get("hidden_act", "silu") != "silu":
            raise ValueError(f"text_config.hidden_act: {data['hidden_act']!r} is not supported; only 'silu' is")
        values = {key: data.get(key, default) for key, default in _TEXT_DEFAULTS.items()}
        rope = data.get("rope_parameters") or data.get("rope_scaling") or {}  # transformers 5 / 4
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            raise ValueError(f"text_config: rotary scaling {dict(rope)} is not supported")
        values["rope_theta"] = rope.get("rope_theta", values["rope_theta"])
        heads = values["num_attention_heads"]
        return cls(
            **values,
            num_key_value_heads=data.get("num_key_value_heads") or heads,
            head_dim=data.get("head_dim") or values["hidden_size"] // heads,
        )

    def to_dict(self) -> dict[str, Any]:
        """`text_config` with every value explicit."""
        return {"model_type": "llama"} | asdict(self)


@dataclass(frozen=True)
class OpenVLAConfig:
    """What the network needs, and the names that the reference's code reads from config.json."""

    vision: tuple[VisionGeometry, ...]
    text: TextGeometry
    projector: str = "mlp"  # or "linear"; a fused model always has the three-layer MLP
    pad_token_id: int = 32000
    pad_to_multiple_of: int = 64
    n_action_bins: int = 256
    image_resize_strategy: str = "resize-naive"
    vision_backbone_id: str = ""
    llm_backbone_id: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def fused(self) -> bool:
        """Whether the features of two encoders are concatenated."""
        return len(self.vision) > 1

    @property
    def image_size(self) -> int:
        """Side of the square image [px]."""
        return self.vision[0].image_size

    @property
    def patches(self) -> int:
        """Image tokens, which follow the first text token."""
        return self.vision[0].patches

    @property
    def vision_width(self) -> int:
        """Features of one image token, of all encoders."""
        return sum(geometry.width for geometry in self.vision)

    @property
    def action_vocab_size(self) -> int:
        """The vocabulary before padding: action tokens are its last `n_action_bins` ids."""
        return self.text.vocab_size - self.pad_to_multiple_of

    def __post_init__(self) -> None:
        if not 1 <= len(self.vision) <= 2:
            raise ValueError(f"vision: one or two encoders, got {len(self.vision)}")
        if len({geometry.patches for geometry in self.vision}) != 1:
            counts = {geometry.name: geometry.patches for geometry in self.vision}
            raise ValueError(f"vision: fused encoders must see the same number of patches, got {counts}")
        if not 0 < self.n_action_bins < self.action_vocab_size:
            raise ValueError(
                f"n_action_bins: {self.n_action_bins} do not fit the unpadded vocabulary of "
                f"{self.action_vocab_size} (vocab_size {self.text.vocab_size} - {self.pad_to_multiple_of})"
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> OpenVLAConfig:
        """Read config.json (without `norm_stats`, which do not concern the network)."""
        ids = data.get("timm_model_ids")
        sizes = data.get("image_sizes")
        if not ids or not sizes or len(ids) != len(sizes):
            raise ValueError(f"config.json: timm_model_ids {ids} and image_sizes {sizes} must come in pairs")
        described = data.get("vision_geometry") or [None] * len(ids)
        if len(described) != len(ids):
            raise ValueError(f"config.json: vision_geometry has {len(described)} entries, not {len(ids)}")
        activations = data.get("timm_override_act_layers") or [None] * len(ids)
        vision = tuple(
            geometry_of(name, int(size), explicit, activation)
            for name, size, explicit, activation in zip(ids, sizes, described, activations, strict=True)
        )
        fused = data.get("use_fused_vision_backbone")
        if fused is not None and bool(fused) != (len(ids) > 1):
            raise ValueError(f"config.json: use_fused_vision_backbone is {fused} with {len(ids)} encoders")
        text = TextGeometry.from_dict(data.get("text_config") or {})
        known = {f.name for f in fields(cls)} - {"vision", "text", "projector", "extra"}
        values = {key: data[key] for key in known if data.get(key) is not None}
        linear = str(data.get("arch_specifier", "")).endswith("linear")
        extra = {key: value for key, value in data.items() if key not in known | _REBUILT}
        return cls(vision, text, projector="linear" if linear else "mlp", extra=extra, **values)

    def to_dict(self) -> dict[str, Any]:
        """config.json as the reference writes it; with `vision_geometry` for encoders that it does not know."""
        mlp = "fused-gelu-mlp" if self.fused else "gelu-mlp"
        data = {
            "arch_specifier": f"no-align+{'linear' if self.projector == 'linear' else mlp}",
            "architectures": ["OpenVLAForActionPrediction"],
            "auto_map": {
                "AutoConfig": "openvla/openvla-7b--configuration_prismatic.OpenVLAConfig",
                "AutoModelForVision2Seq": "openvla/openvla-7b--modeling_prismatic.OpenVLAForActionPrediction",
            },
            "llm_max_length": 2048,
            "model_type": "openvla",
            "output_projector_states": False,
            **self.extra,
            "image_resize_strategy": self.image_resize_strategy,
            "image_sizes": [geometry.image_size for geometry in self.vision],
            "llm_backbone_id": self.llm_backbone_id,
            "n_action_bins": self.n_action_bins,
            "pad_to_multiple_of": self.pad_to_multiple_of,
            "pad_token_id": self.pad_token_id,
            "text_config": self.text.to_dict() | {"pad_token_id": self.pad_token_id},
            "timm_model_ids": [geometry.name for geometry in self.vision],
            "timm_override_act_layers": ["quick_gelu" if g.quick_gelu else None for g in self.vision],
            "use_fused_vision_backbone": self.fused,
            "vision_backbone_id": self.vision_backbone_id,
        }
        if not all(geometry.is_known() for geometry in self.vision):
            data["vision_geometry"] = [geometry.to_dict() for geometry in self.vision]
        return data


_REBUILT = {
    "norm_stats",
    "text_config",
    "timm_model_ids",
    "image_sizes",
    "timm_override_act_layers",
    "use_fused_vision_backbone",
    "vision_geometry",
}


def _llama2_7b(vocab_size: int = 32064) -> TextGeometry:
    return TextGeometry.from_dict({"vocab_size": vocab_size})


def openvla_7b() -> OpenVLAConfig:
    """The published model: DINOv2 ViT-L + SigLIP ViT-SO, 224 px, Llama 2 7B."""
    names = ("vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224")
    return OpenVLAConfig(
        vision=tuple(geometry_of(name, 224) for name in names),
        text=_llama2_7b(),
        vision_backbone_id="dinosiglip-vit-so-224px",
        llm_backbone_id="llama2-7b-pure",
        extra={"hf_llm_id": "meta-llama/Llama-2-7b-hf"},
    )


def siglip_7b() -> OpenVLAConfig:
    """SigLIP ViT-SO alone, 224 px, Llama 2 7B: the model of the paper's Table 1 (footnote 2)."""
    return replace(
        openvla_7b(),
        vision=(geometry_of("vit_so400m_patch14_siglip_224", 224),),
        vision_backbone_id="siglip-vit-so400m",
    )


def mid() -> OpenVLAConfig:
    """Build a model of 108M parameters in the published model's form, for benchmarks without a GPU.

    Two ViTs 384 wide and 12 deep at 224 px, Llama 512 wide and 8 deep, the published vocabulary. Every matrix
    has a size that the int4 kernels support (rows in multiples of 32, columns of 64).

    Returns:
        The configuration.
    """
    return replace(
        tiny(
            vocab_size=32000,
            image_size=224,
            vision_width=384,
            vision_depth=12,
            vision_heads=6,
            hidden_size=512,
            layers=8,
            heads=8,
            intermediate_size=1408,
        ),
        vision_backbone_id="openvla-mid",
        llm_backbone_id="llama-mid",
    )


def tiny(
    *,
    vocab_size: int = 768,
    image_size: int = 112,
    patch: int = 14,
    vision_width: int | Sequence[int] = 128,
    vision_depth: int = 4,
    vision_heads: int = 4,
    hidden_size: int = 192,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int | None = None,
    intermediate_size: int | None = None,
    fused: bool = True,
    layer_scale: float | None = None,
) -> OpenVLAConfig:
    """Build a small model of the published model's form.

    Args:
        vocab_size: Tokens with the 256 action tokens, without the padding.
        image_size: Side of the image [px].
        patch: Side of a patch [px].
        vision_width: Width of the encoders, or of each.
        vision_depth: Blocks of an encoder; the last one is built, but not used, as in the reference.
        vision_heads: Attention heads of an encoder.
        hidden_size: Width of the language model.
        layers: Its layers.
        heads: Its attention heads.
        kv_heads: Its key-value heads. None: as many as `heads`.
        intermediate_size: Width of its MLPs. None: 8/3 of its width.
        fused: Two encoders (DINOv2 and SigLIP) rather than one (SigLIP).
        layer_scale: Initial LayerScale of the DINOv2 encoder. None: without LayerScale.

    Returns:
        The configuration.
    """
    widths = [vision_width] * 2 if isinstance(vision_width, int) else list(vision_width)
    common: dict[str, Any] = dict(
        image_size=image_size, patch=patch, depth=vision_depth, heads=vision_heads, mlp_ratio=4.0
    )
    dino = VisionGeometry(
        name="openvla_tiny_dinov2",
        width=widths[0],
        class_token=True,
        registers=4,
        layer_scale=layer_scale,
        **common,
    )
    siglip = VisionGeometry(name="openvla_tiny_siglip", width=widths[-1], attention_pool=True, **common)
    text = TextGeometry.from_dict(
        {
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size or hidden_size * 8 // 3,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads or heads,
            "vocab_size": vocab_size + 64,
        }
    )
    return OpenVLAConfig(
        vision=(dino, siglip) if fused else (siglip,),
        text=text,
        pad_token_id=vocab_size,
        vision_backbone_id="openvla-tiny",
        llm_backbone_id="llama-tiny",
    )
