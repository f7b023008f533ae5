"""Properties of action tokens, normalisation, prompts, images and the dataclasses of the contract."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from openvla_policy.contract.action import ActionChunk, is_all_zero
from openvla_policy.contract.action_tokens import ActionTokenizer
from openvla_policy.contract.image import ImagePreparation, center_crop
from openvla_policy.contract.observation import Observation
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.contract.statistics import FieldStatistics, Statistics, compute

TOKENS = ActionTokenizer(768)
UNIT = hnp.arrays(np.float64, 7, elements=st.floats(-1, 1))


@given(UNIT)
def test_a_token_is_within_half_a_bin_of_its_value(action):
    ids = TOKENS.encode(action)
    assert TOKENS.is_action(ids).all()
    assert np.abs(TOKENS.decode(ids) - action).max() <= (2 / 255) / 2 + 1e-12


@given(st.integers(TOKENS.first_id + 1, TOKENS.last_id))
def test_a_token_survives_the_round_trip(token):
    # The lowest id is reached only by exactly +1: 256 edges enclose 255 bins.
    assert TOKENS.encode(TOKENS.decode(token)) == token


@given(hnp.arrays(np.float64, 7, elements=st.floats(allow_nan=False)))
def test_any_number_has_a_token_and_order_is_kept(action):
    ids = TOKENS.encode(np.sort(action))
    assert TOKENS.is_action(ids).all() and (np.diff(ids) <= 0).all()


def test_nan_has_no_token():
    with pytest.raises(ValueError, match="NaN at"):
        TOKENS.encode(np.array([0.0, np.nan]))


def test_ids_outside_the_range_clip_to_the_nearest_bin():
    low, high = TOKENS.centers[0], TOKENS.centers[-1]
    assert TOKENS.decode(np.array([TOKENS.last_id + 40, 2])).tolist() == [low, high]
    assert not TOKENS.is_action([2, 768]).any()


BOUNDS = st.lists(st.tuples(st.floats(-5, 5), st.floats(1e-2, 5)), min_size=7, max_size=7)


def statistics(bounds, mask=None) -> FieldStatistics:
    low = np.array([b[0] for b in bounds])
    high = low + np.array([b[1] for b in bounds])
    data = {"q01": low.tolist(), "q99": high.tolist()}
    return FieldStatistics.from_json(data if mask is None else data | {"mask": mask})


@given(BOUNDS, UNIT, st.lists(st.booleans(), min_size=7, max_size=7))
def test_normalise_undoes_unnormalise(bounds, action, mask):
    entry = statistics(bounds, mask)
    np.testing.assert_allclose(entry.normalise(entry.unnormalise(action)), action, atol=1e-5)


@given(BOUNDS, hnp.arrays(np.float64, (3, 7), elements=st.floats(-1e3, 1e3)))
def test_normalised_values_lie_in_the_unit_interval_only_where_masked(bounds, actions):
    entry = statistics(bounds, [True] * 6 + [False])
    result = entry.normalise(actions)
    assert np.abs(result[:, :6]).max() <= 1
    assert (result[:, 6] == actions[:, 6]).all()


def test_a_dimension_that_never_changes_becomes_zero():
    entry = FieldStatistics.from_json({"q01": [0.0, 1.0], "q99": [1.0, 1.0], "min": [0.0, 1.0], "max": [1.0, 1.0]})
    assert entry.normalise(np.array([0.5, 1.0]))[1] == 0.0


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400))
def test_quantiles_agree_with_numpy(seed, length):
    values = np.random.default_rng(seed).normal(size=(length, 7)).astype(np.float32)
    entry = compute([values]).action
    np.testing.assert_allclose(entry.q01, np.quantile(values.astype(np.float64), 0.01, axis=0), atol=1e-6)
    np.testing.assert_allclose(entry.q99, np.quantile(values.astype(np.float64), 0.99, axis=0), atol=1e-6)
    assert (entry.min <= entry.q01).all() and (entry.q99 <= entry.max).all()


def test_hash_follows_what_unnormalisation_reads():
    rng = np.random.default_rng(1)
    one = compute([rng.normal(size=(20, 7))])
    assert Statistics.from_json(one.to_json()).hash == one.hash
    assert one.with_mask([True] * 6 + [False]).hash != one.hash
    assert compute([rng.normal(size=(20, 7))]).hash != one.hash


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "'action' entry"),
        ({"action": {"q01": [0.0]}}, "q99 missing"),
        ({"action": {"q01": [0.0], "q99": [1.0, 2.0]}}, r"q99: expected 1 numbers"),
        ({"action": {"q01": [float("nan")], "q99": [1.0]}}, "not finite"),
    ],
)
def test_invalid_statistics_are_reported(data, message):
    with pytest.raises(ValueError, match=message):
        Statistics.from_json(data, "sim")
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 7\) values"):
        compute([np.zeros((3, 7))]).normalise(np.zeros(6))


def test_prompt():
    assert build_prompt("Lift It") == "In: What action should the robot take to lift it?\nOut:"
    vicuna = build_prompt("lift it", "vicuna")
    assert vicuna.endswith("USER: What action should the robot take to lift it? ASSISTANT:")
    with pytest.raises(ValueError, match="empty"):
        build_prompt("  ")
    with pytest.raises(ValueError, match="openvla, vicuna"):
        build_prompt("lift", "other")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.uint8)])
def test_only_uint8_rgb_is_an_image(bad):
    with pytest.raises(ValueError, match="uint8 RGB"):
        Observation(bad)
    with pytest.raises(ValueError, match="uint8 RGB"):
        ImagePreparation.standard(16, ["half"]).resize(bad)


def test_action_chunks_reject_invalid_actions():
    assert len(ActionChunk(np.zeros((2, 7)), 0.2, "base")) == 2
    for actions, period, message in (
        (np.full((1, 7), np.nan), 0.2, "not finite"),
        (np.zeros(7), 0.2, "shape"),
        (np.zeros((1, 7)), 0.0, "period"),
    ):
        with pytest.raises(ValueError, match=message):
            ActionChunk(actions, period, "base")
    assert is_all_zero(np.array([0, 0, 0, 0, 0, 0, 1.0])) and not is_all_zero(np.array([0.01, 0, 0, 0, 0, 0, 1.0]))


@settings(max_examples=20)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["resize-naive", "letterbox", "resize-crop"]))
def test_any_frame_is_prepared_to_the_models_size(height, width, strategy):
    frame = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    preparation = ImagePreparation(
        (28, 28), ((0.5,) * 3, (0.4,) * 3), ((0.5,) * 3, (0.2,) * 3), strategy, letterbox_fill=(1, 2, 3)
    )
    prepared = preparation.resize(frame)
    assert prepared.shape == (28, 28, 3) and prepared.dtype == np.uint8
    pixels = preparation(frame)
    assert pixels.shape == (6, 28, 28) and (pixels == preparation.normalise(prepared)).all()
    assert preparation.normalise(np.stack([prepared] * 2)).shape == (2, 6, 28, 28)
    assert ImagePreparation.from_config(preparation.to_config()) == preparation


def test_centre_crop_zooms():
    frame = np.zeros((100, 100, 3), np.uint8)
    frame[2:-2, 2:-2] = 200
    assert frame[1, 1, 0] == 0 and center_crop(frame)[1, 1, 0] > 190  # the margin of 2 px is cropped
    assert (ImagePreparation.standard(100, ["half"]).with_crop().resize(frame) == center_crop(frame)).all()
