"""The policy under transformers' Auto classes, with no remote code.

Importing this module registers it; then `AutoConfig`, `AutoModel`, `AutoModelForImageTextToText` and
`AutoProcessor` load checkpoint folders with `"model_type": "openvla"`. For tools that need a transformers model:
`generate` here keeps no cache and computes every position again for every token; runtime.LocalPolicy gives the same
tokens several times faster, and starts without transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationMixin,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.feature_extraction_utils import BatchFeature
from transformers.modeling_outputs import CausalLMOutputWithPast

from openvla_policy.checkpoint.checkpoint import read_json, resolve
from openvla_policy.checkpoint.tokenizer import Tokenizer
from openvla_policy.contract.action_tokens import ActionTokenizer
from openvla_policy.contract.image import ImagePreparation
from openvla_policy.contract.statistics import Statistics, choose
from openvla_policy.model.config import OpenVLAConfig
from openvla_policy.model.vla import OpenVLA


class OpenVLAPreTrainedConfig(PreTrainedConfig):
    """config.json as transformers represents it; `network` is what the network reads of it."""

    model_type = "openvla"
    sub_configs: ClassVar[dict[str, type]] = {"text_config": LlamaConfig}

    def __init__(self, text_config: dict[str, Any] | LlamaConfig | None = None, **values: Any) -> None:
        if not isinstance(text_config, LlamaConfig):
            text_config = LlamaConfig(**(text_config or {}))
        self.text_config = text_config
        super().__init__(**values)

    @property
    def network(self) -> OpenVLAConfig:
        """Sizes of the network."""
        return OpenVLAConfig.from_dict(self.to_dict())


class OpenVLAForActionPrediction(PreTrainedModel, GenerationMixin):
    """The network with transformers' loading, saving and generation, and the reference's key names."""

    config_class = OpenVLAPreTrainedConfig
    main_input_name = "input_ids"
    network: OpenVLA
    _no_split_modules = ["Block", "DecoderLayer"]  # noqa: RUF012 (an instance variable of the base class)

    def __init__(self, config: OpenVLAPreTrainedConfig) -> None:
        super().__init__(config)
        network = OpenVLA(config.network)
        # The parts are submodules of this class, as a prefix would change the keys of the layout; the network that
        # connects them shares them without being registered.
        self.vision_backbone, self.projector = network.vision_backbone, network.projector
        self.language_model = network.language_model
        self.__dict__["network"] = network
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Do nothing: the network initialises itself, and every checkpoint has every weight."""

    def get_input_embeddings(self) -> torch.nn.Module:
        """Token embeddings."""
        return self.language_model.model.embed_tokens

    def get_output_embeddings(self) -> torch.nn.Module:
        """The head."""
        return self.language_model.lm_head

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Ids (B, T) and pixels (B, C, H, W) -> logits (B, T + N, V) and, with labels (B, T), their loss."""
        output = self.network(input_ids, pixel_values, attention_mask, labels, all_logits=True)
        return CausalLMOutputWithPast(loss=output.loss, logits=output.logits)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, pixel_values: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Give the whole sequence to every step. transformers requires the name `kwargs`."""
        return {"input_ids": input_ids, "pixel_values": pixel_values}

    @torch.inference_mode()
    def predict_action(
        self, input_ids: Tensor, pixel_values: Tensor, unnorm_key: str | None = None, **_: Any
    ) -> np.ndarray:
        """One action (7,) float64 in dataset units for one prompt (1, T): the reference's call."""
        entries = getattr(self.config, "norm_stats", None) or {}
        statistics = {key: Statistics.from_json(data, f"norm_stats: {key}") for key, data in entries.items()}
        chosen = choose(statistics, unnorm_key)[1]
        dim, eos = chosen.action.dim, self.generation_config.eos_token_id
        ids = self.generate(  # type: ignore[misc]
            input_ids=input_ids,
            pixel_values=pixel_values,
            max_new_tokens=dim,
            min_new_tokens=dim,
            do_sample=False,
            use_cache=False,
            eos_token_id=2 if eos is None else eos,
        )
        sizes = self.network.config
        tokens = ActionTokenizer(sizes.action_vocab_size, sizes.n_action_bins)
        return chosen.unnormalise(tokens.decode(ids[0, -dim:].cpu().numpy()))


class PrismaticProcessor:
    """Text and images to model inputs. Has the name in published preprocessor_config.json files."""

    def __init__(self, preparation: ImagePreparation, tokenizer: Tokenizer, pad_id: int) -> None:
        self.preparation, self.tokenizer, self.pad_id = preparation, tokenizer, pad_id

    @classmethod
    def from_pretrained(cls, path: str | Path, **_: Any) -> PrismaticProcessor:
        """Read preprocessor_config.json, the tokenizer and the padding id of a folder or hub id."""
        folder = resolve(path)
        preparation = ImagePreparation.from_config(read_json(folder / "preprocessor_config.json"))
        pad_id = read_json(folder / "config.json").get("pad_token_id", OpenVLAConfig.pad_token_id)
        return cls(preparation, Tokenizer.from_folder(folder), pad_id)

    def __call__(
        self, text: str | Sequence[str], images: Image.Image | np.ndarray | Sequence[Any], **_: Any
    ) -> BatchFeature:
        """Prepare prompts and as many images for the model.

        Args:
            text: Prompts (see build_prompt). The token that precedes an action is appended.
            images: RGB images (H, W, 3).

        Returns:
            input_ids and attention_mask (B, T), padded on the right, and pixel_values (B, C, H, W).

        Raises:
            ValueError: There are not as many images as prompts.
        """
        texts = [text] if isinstance(text, str) else list(text)
        frames = [images] if isinstance(images, Image.Image | np.ndarray) else list(images)
        if len(texts) != len(frames):
            raise ValueError(f"{len(texts)} texts for {len(frames)} images")
        rows = [torch.tensor(self.tokenizer.encode_prompt(prompt)) for prompt in texts]
        pad = torch.nn.utils.rnn.pad_sequence
        return BatchFeature(
            {
                "input_ids": pad(rows, batch_first=True, padding_value=self.pad_id),
                "attention_mask": pad([torch.ones_like(row) for row in rows], batch_first=True),
                "pixel_values": torch.stack([self.preparation(_rgb(frame)) for frame in frames]),
            }
        )


def _rgb(frame: Image.Image | np.ndarray) -> np.ndarray:
    return np.asarray(frame.convert("RGB")) if isinstance(frame, Image.Image) else frame


AutoConfig.register("openvla", OpenVLAPreTrainedConfig, exist_ok=True)
AutoModel.register(OpenVLAPreTrainedConfig, OpenVLAForActionPrediction, exist_ok=True)
AutoModelForImageTextToText.register(OpenVLAPreTrainedConfig, OpenVLAForActionPrediction, exist_ok=True)
AutoProcessor.register(OpenVLAPreTrainedConfig, PrismaticProcessor, exist_ok=True)
