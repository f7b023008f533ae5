"""transformers' Auto classes load the reference's folder and compute its numbers, without remote code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.slow  # imports transformers


def test_auto_classes_load_the_reference_folder(reference, runs, tmp_path):
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

    import openvla_policy.checkpoint.auto_classes  # noqa: F401  (registers)

    folder = reference / "fused_tiny/checkpoint"
    config = AutoConfig.from_pretrained(folder)
    assert config.network.text.vocab_size == 32064 and config.text_config.num_hidden_layers == 3
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    expected = np.load(reference / "fused_tiny/expected/last_logits.npz")
    for run in runs[:2]:
        image = Image.open(reference / f"images/{run['image']}.png")
        inputs = processor(run["prompt"], image)
        assert inputs["input_ids"].tolist() == [run["input_ids_used"]]
        with torch.inference_mode():
            logits = model(**inputs).logits[0, -1, expected["columns"]]
        np.testing.assert_allclose(logits.numpy(), expected["runs"][run["run"]], rtol=0, atol=1e-4)
        for key, wanted in run["actions"].items():
            np.testing.assert_allclose(model.predict_action(**inputs, unnorm_key=key), wanted, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="unnorm_key is not set; this checkpoint has: fake_bridge, fake_droid"):
        model.predict_action(**inputs)

    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path, dtype=torch.float32)
    theirs, ours = model.state_dict(), again.state_dict()
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)

    batch = processor([run["prompt"] for run in runs[4:6]], [image, image])
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["attention_mask"].sum(1).tolist() == [len(run["input_ids_used"]) for run in runs[4:6]]
