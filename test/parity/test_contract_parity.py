"""Image preparation, action tokens, normalisation and statistics equal the reference's exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest

from openvla_policy.contract.action_tokens import ActionTokenizer
from openvla_policy.contract.image import ImagePreparation, crop_and_resize
from openvla_policy.contract.statistics import FieldStatistics, Statistics, compute


@pytest.mark.parametrize("tag", ["fused_fp32", "siglip384"])
@pytest.mark.parametrize("strategy", ["resize-naive", "resize-crop", "letterbox"])
def test_processor(reference, images, tag, strategy):
    config = json.loads((reference / f"processor/{tag}_{strategy}/preprocessor_config.json").read_text())
    preparation = ImagePreparation.from_config(config)
    assert preparation.to_config() == config
    expected = np.load(reference / "processor/pixel_values.npz")
    cases = [key for key in expected.files if key.startswith(f"{tag}|{strategy}|")]
    assert cases
    for key in cases:
        _, _, name, what = key.split("|")
        if what == "uint8":
            assert (preparation.resize(images[name]).transpose(2, 0, 1) == expected[key]).all(), key
        elif what == "corner":
            corner = preparation(images[name])[:, :4, :4].numpy()
            np.testing.assert_allclose(corner, expected[key], rtol=0, atol=1e-6)
        else:
            mean = preparation(images[name]).double().mean((1, 2)).numpy()
            np.testing.assert_allclose(mean, expected[key], rtol=0, atol=1e-6)


def test_evaluation_centre_crop(reference, images):
    expected = np.load(reference / "eval_images/center_crop.npz")
    assert expected.files
    for name in expected.files:
        assert (crop_and_resize(images[name], 0.9, 224, 224) == expected[name]).all(), name


def test_action_tokenizer(reference):
    expected = np.load(reference / "action_tokenizer/action_tokenizer.npz")
    tokens = ActionTokenizer(32000)
    assert (tokens.edges == expected["bins"]).all() and (tokens.centers == expected["bin_centers"]).all()
    assert (tokens.encode(expected["actions"]) == expected["token_ids"]).all()
    assert (tokens.decode(expected["token_ids"]) == expected["decoded"]).all()
    assert (tokens.decode(expected["all_ids"]) == expected["all_decoded"]).all()


@pytest.mark.parametrize("kind", ["normal", "bounds", "bounds_q99"])
@pytest.mark.parametrize("which", ["action", "proprio"])
@pytest.mark.parametrize("masked", [True, False])
def test_normalise(reference, kind, which, masked):
    expected = np.load(reference / "normalization/normalize.npz")
    data = json.loads((reference / "normalization/normalize_stats.json").read_text())[which]
    if not masked:
        data.pop("mask", None)
    result = FieldStatistics.from_json(data).normalise(expected[f"input_{which}"], kind)
    wanted = expected[f"{kind}|{'mask' if masked else 'nomask'}|{which}"]
    assert result.dtype == wanted.dtype and (result == wanted).all()


@pytest.mark.parametrize("case", ["with_mask", "no_mask", "q01_eq_q99_dim3"])
def test_unnormalise(reference, case):
    expected = np.load(reference / "normalization/unnormalize.npz")
    data = json.loads((reference / "normalization/unnormalize_stats.json").read_text())[case]
    assert (FieldStatistics.from_json(data).unnormalise(expected["normalized"]) == expected[case]).all()


def test_statistics(reference):
    trajectories = np.load(reference / "statistics/trajectories.npz")
    expected = json.loads((reference / "statistics/dataset_statistics.json").read_text())["fake"]
    actions = [trajectories[f"action{n}"] for n in range(3)]
    proprios = [trajectories[f"proprio{n}"] for n in range(3)]
    assert compute(actions, proprios, mask=[True] * 6 + [False]).to_json() == expected
    assert Statistics.from_json(expected).to_json() == expected
