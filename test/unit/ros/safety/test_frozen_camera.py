"""A camera that freezes and stamps its image again: detected by the image, and no action is given on it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from openvla_policy.contract.observation import Observation
from openvla_ros.safety.frozen_camera import FrozenCamera, FrozenCameraGuard, ImageAge

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0.0, 1.0)), min_size=1, max_size=20))
def test_an_image_ages_until_one_bit_changes(frames):
    age, stamp, since, before = ImageAge(), 100.0, 100.0, None
    for which, step in frames:
        stamp += step
        since = since if which == before else stamp
        before = which
        image = IMAGE.copy()
        image[-1, -1, 2] ^= which  # a camera's noise: one bit
        assert age.update(image, stamp) == stamp - since


def test_another_size_resets_the_age():
    age = ImageAge()
    age.update(IMAGE, 10.0)
    assert age.update(IMAGE[:24], 12.0) == 0.0


def test_a_clock_set_back_resets_the_age():
    age = ImageAge()
    age.update(IMAGE, 12.0)
    assert age.update(IMAGE, 11.0) == 0.0
    assert age.update(IMAGE, 13.0) == 2.0


class Policy:
    """Answers every image, and counts."""

    def __init__(self):
        self.predictions = self.resets = 0

    def reset(self):
        self.resets += 1

    def predict(self, observation, instruction):
        self.predictions += 1
        return instruction


def test_a_frozen_image_is_not_passed_to_the_policy():
    policy = Policy()
    guard = FrozenCameraGuard(policy, 1.0)
    for stamp in (0.0, 0.5, 1.0):
        assert guard.predict(Observation(IMAGE, stamp), "go") == "go"
    with pytest.raises(FrozenCamera, match=r"has not changed by one bit for 1\.20 s, limit 1 s"):
        guard.predict(Observation(IMAGE, 1.2), "go")
    assert guard.predict(Observation(IMAGE ^ 1, 9.2), "go") == "go"
    assert policy.predictions == 4


def test_a_reset_keeps_the_age_of_the_image():
    policy = Policy()
    guard = FrozenCameraGuard(policy, 1.0)
    guard.predict(Observation(IMAGE, 0.0), "go")
    guard.reset()
    assert policy.resets == 1
    with pytest.raises(TimeoutError):  # which the policy node takes for a passing failure: it asks again
        guard.predict(Observation(IMAGE, 9.0), "go")


def test_a_limit_of_0_switches_the_guard_off():
    guard = FrozenCameraGuard(Policy(), 0.0)
    assert [guard.predict(Observation(IMAGE, stamp), "go") for stamp in (0.0, 99.0)] == ["go", "go"]
