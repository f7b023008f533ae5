"""The networks behind Prismatic's backbone names, as its own checkpoints use them.

Names and pairings: openvla, prismatic/extern/hf/configuration_prismatic.py and prismatic/conf/models.py; sizes of the
language models: the config.json of each on the Hugging Face hub.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from openvla_policy.model.config import OpenVLAConfig, TextGeometry
from openvla_policy.model.vit_sizes import geometry_of

_DINO = "vit_large_patch14_reg4_dinov2.lvd142m"
_CLIP = "vit_large_patch14_clip_224.openai", "vit_large_patch14_clip_336.openai"
_SIGLIP = "vit_so400m_patch14_siglip_224", "vit_so400m_patch14_siglip_384"
VISION: dict[str, tuple[int, tuple[str, ...]]] = {  # name: (px, timm ids)
    "clip-vit-b": (224, ("vit_base_patch16_clip_224.openai",)),
    "clip-vit-l": (224, (_CLIP[0],)),
    "clip-vit-l-336px": (336, (_CLIP[1],)),
    "siglip-vit-b16-224px": (224, ("vit_base_patch16_siglip_224",)),
    "siglip-vit-b16-256px": (256, ("vit_base_patch16_siglip_256",)),
    "siglip-vit-b16-384px": (384, ("vit_base_patch16_siglip_384",)),
    "siglip-vit-so400m": (224, (_SIGLIP[0],)),
    "siglip-vit-so400m-384px": (384, (_SIGLIP[1],)),
    "dinov2-vit-l": (224, (_DINO,)),
    "in1k-vit-l": (224, ("vit_large_patch16_224.augreg_in21k_ft_in1k",)),
    "dinoclip-vit-l-336px": (336, (_DINO, _CLIP[1])),
    "dinosiglip-vit-so-224px": (224, (_DINO, _SIGLIP[0])),
    "dinosiglip-vit-so-384px": (384, (_DINO, _SIGLIP[1])),
}
_7B: dict[str, Any] = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
_13B = _7B | {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
}
LANGUAGE: dict[str, tuple[str, dict[str, Any]]] = {  # name: (hub id, text_config beside LlamaConfig's defaults)
    "llama2-7b-pure": ("meta-llama/Llama-2-7b-hf", _7B),
    "llama2-7b-chat": ("meta-llama/Llama-2-7b-chat-hf", _7B),
    "vicuna-v15-7b": ("lmsys/vicuna-7b-v1.5", _7B),
    "llama2-13b-pure": ("meta-llama/Llama-2-13b-hf", _13B),
    "llama2-13b-chat": ("meta-llama/Llama-2-13b-chat-hf", _13B),
    "vicuna-v15-13b": ("lmsys/vicuna-13b-v1.5", _13B),
}


@dataclass(frozen=True)
class BaseModel:
    """The network of a Prismatic `model_id`: the fields of its config.json that determine it."""

    vision_backbone_id: str
    llm_backbone_id: str
    arch_specifier: str = "no-align+gelu-mlp"
    image_resize_strategy: str = "resize-naive"


_FUSED = "no-align+fused-gelu-mlp"
BASE_MODELS: dict[str, BaseModel] = {  # those in OpenVLA's own training configurations, and related ones
    "siglip-224px+7b": BaseModel("siglip-vit-so400m", "vicuna-v15-7b", image_resize_strategy="letterbox"),
    "clip-224px+7b": BaseModel("clip-vit-l", "vicuna-v15-7b", image_resize_strategy="letterbox"),
    "reproduction-llava-v15+7b": BaseModel("clip-vit-l-336px", "vicuna-v15-7b", "gelu-mlp", "letterbox"),
    "prism-clip+7b": BaseModel("clip-vit-l-336px", "llama2-7b-pure"),
    "prism-siglip+7b": BaseModel("siglip-vit-so400m-384px", "llama2-7b-pure"),
    "prism-dinosiglip+7b": BaseModel("dinosiglip-vit-so-384px", "llama2-7b-pure", _FUSED),
    "prism-dinosiglip+13b": BaseModel("dinosiglip-vit-so-384px", "llama2-13b-pure", _FUSED),
    "prism-dinosiglip-224px+7b": BaseModel("dinosiglip-vit-so-224px", "llama2-7b-pure", _FUSED),
    "prism-dinosiglip-224px-controlled+7b": BaseModel("dinosiglip-vit-so-224px", "llama2-7b-pure", _FUSED),
    "dinosiglip-224px-resize-naive+7b": BaseModel("dinosiglip-vit-so-224px", "vicuna-v15-7b", _FUSED),
}


def network_of(base: BaseModel) -> OpenVLAConfig:
    """Build the configuration of a Prismatic model: its backbones, with `<PAD>` and 63 spare rows added.

    The language model has the rms_norm_eps of its training, 1e-5, as in the reference's native code. The published
    Hugging Face conversions omit it from config.json, which makes it 1e-6.

    Args:
        base: The model.

    Returns:
        The configuration.

    Raises:
        ValueError: A backbone is unknown or unsupported.
    """
    if base.vision_backbone_id not in VISION:
        known = ", ".join(sorted(VISION))
        raise ValueError(f"vision_backbone_id: {base.vision_backbone_id!r} is unknown; known are {known}")
    if base.llm_backbone_id not in LANGUAGE:
        known = ", ".join(sorted(LANGUAGE))
        raise ValueError(f"llm_backbone_id: {base.llm_backbone_id!r} is not supported; the Llama models are: {known}")
    size, ids = VISION[base.vision_backbone_id]
    hub_id, text = LANGUAGE[base.llm_backbone_id]
    return OpenVLAConfig(
        vision=tuple(geometry_of(name, size, activation="quick_gelu" if "clip" in name else None) for name in ids),
        text=TextGeometry.from_dict(text | {"vocab_size": 32064}),
        projector="linear" if base.arch_specifier.endswith("linear") else "mlp",
        image_resize_strategy=base.image_resize_strategy,
        vision_backbone_id=base.vision_backbone_id,
        llm_backbone_id=base.llm_backbone_id,
        extra={"hf_llm_id": hub_id},
    )


def prismatic_7b(model_id: str = "prism-dinosiglip-224px+7b") -> OpenVLAConfig:
    """The configuration of a Prismatic vision-language model, from which a policy is trained (paper, section 3.1).

    Args:
        model_id: As on the hub in TRI-ML/prismatic-vlms. Default: the base of the published OpenVLA.

    Returns:
        The configuration.

    Raises:
        ValueError: The model is unknown.
    """
    if model_id not in BASE_MODELS:
        raise ValueError(f"Prismatic model {model_id!r} is unknown; known are {', '.join(sorted(BASE_MODELS))}")
    return network_of(BASE_MODELS[model_id])
