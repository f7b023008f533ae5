"""Gripper conventions: the reference's own conversions (test/fixtures/parity/transforms), and properties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from openvla_policy.contract.gripper import (
    CONVENTIONS,
    STATELESS,
    check_option,
    convert_actions,
    from_opening,
    policy_convention,
    to_opening,
)
from openvla_policy.contract.gripper_datasets import DATASETS

FIXTURE = np.load(Path(__file__).parents[3] / "fixtures/parity/transforms/gripper.npz")
OPENINGS = hnp.arrays(np.float64, st.integers(0, 30), elements=st.floats(0, 1))
ANY = hnp.arrays(np.float64, st.integers(0, 30), elements=st.floats(-2, 2))


def test_recorded_positions_are_binarised_as_in_the_reference():
    for case in range(6):
        given_values, wanted = FIXTURE[f"binarize_in{case}"], FIXTURE[f"binarize_out{case}"]
        assert (to_opening(given_values, "opening", binarise=True) == wanted).all(), case
    bridge = DATASETS["bridge_orig"]
    # The reference drops Bridge's first step before binarising, and the last after.
    result = to_opening(FIXTURE["bridge_action_gripper"][1:], bridge.convention, bridge.binarise)[:-1]
    assert (result == FIXTURE["bridge_action_out_gripper"]).all()


def test_relative_commands_become_states_as_in_the_reference():
    for case in range(6):
        result = to_opening(FIXTURE[f"rel2abs_in{case}"], "relative_closing")
        assert (result == FIXTURE[f"rel2abs_out{case}"]).all(), case


def test_libero_and_droid_as_in_the_reference():
    libero, droid = DATASETS["libero_10"], DATASETS["droid"]
    assert (
        to_opening(FIXTURE["libero_action_gripper"], libero.convention) == FIXTURE["libero_action_out_gripper"]
    ).all()
    positions = FIXTURE["droid_gripper_position"][:, 0]
    assert (to_opening(positions, droid.convention) == FIXTURE["droid_out_gripper"]).all()


def test_libero_receives_what_the_reference_sends():
    actions, wanted = FIXTURE["libero_post_in"], FIXTURE["libero_post_out"]
    assert (from_opening(actions[:, 6], "signed_closing", binarise=True) == wanted[:, 6]).all()


def test_every_data_set_of_the_reference_has_its_row():
    names = {str(name).removesuffix("_no_noops") for name in FIXTURE["registry"]}
    assert len(names) == 73
    assert names | {"libero_90"} == set(DATASETS)
    for name, row in DATASETS.items():
        assert row.convention in (None, *CONVENTIONS), name
        assert (row.constant is None) or row.convention is None, name


@pytest.mark.parametrize("convention", STATELESS)
@given(OPENINGS)
def test_conversions_are_inverse(convention, opening):
    commanded = from_opening(opening, convention)
    np.testing.assert_allclose(to_opening(commanded, convention), opening, rtol=0, atol=1e-12)


@pytest.mark.parametrize("convention", CONVENTIONS)
@settings(max_examples=30)
@given(ANY, st.booleans())
def test_any_input_stays_in_the_contracts_range(convention, values, binarise):
    opening = to_opening(values, convention, binarise)
    assert opening.shape == values.shape and ((opening >= 0) & (opening <= 1)).all()
    if binarise and len(values) and opening[-1] in (0.0, 1.0):
        assert np.isin(opening, (0.0, 1.0)).all()


def test_signs():
    assert to_opening(np.array([0, 1]), "closing").tolist() == [1, 0]
    assert to_opening(np.array([-1.0, 0.5, 1]), "closing").tolist() == [1, 0.5, 0]
    assert to_opening(np.array([-1.0, 0, 1]), "signed_closing").tolist() == [1, 0.5, 0]
    assert to_opening(np.array([-1.0, 0, 1]), "signed_opening").tolist() == [0, 0.5, 1]
    assert to_opening(np.array([0.0, 1, 0, -1, 0]), "relative_closing").tolist() == [1, 0, 0, 1, 1]
    for wrong in (lambda: to_opening(np.zeros(1), "up"), lambda: from_opening(np.zeros(1), "relative_closing")):  # type: ignore
        with pytest.raises(ValueError, match="choose one of opening, closing"):
            wrong()


def test_policies_of_the_reference_use_the_contracts_convention(caplog):
    policy_convention.cache_clear()
    actions = np.array([[0, 0, 0, 0, 0, 0, 1.02]])
    for name in ("bridge_orig", "libero_spatial_no_noops", "fractal20220817_data", "my_kitchen"):
        assert convert_actions(actions, "auto", name) is actions  # bit for bit
    assert not caplog.records
    for name, message in (
        ("language_table", "no gripper; the policy always answers about 1"),
        ("robo_net", "not documented"),
    ):
        assert convert_actions(actions, "auto", name) is actions and message in caplog.text
    assert len(caplog.records) == 2 and convert_actions(actions, "auto", "robo_net") is actions
    assert len(caplog.records) == 2  # logged once


def test_a_policy_of_another_convention_is_converted():
    actions = np.array([[0.1, 0, 0, 0, 0, 0, -1.0], [0, 0, 0, 0, 0, 0.2, 1.3]])
    result = convert_actions(actions, "signed_closing", "mine")
    assert result[:, 6].tolist() == [1, 0] and (result[:, :6] == actions[:, :6]).all()
    for option in ("relative_closing", "up"):
        with pytest.raises(ValueError, match="choose one of auto, opening, closing"):
            check_option(option)  # type: ignore[arg-type]
