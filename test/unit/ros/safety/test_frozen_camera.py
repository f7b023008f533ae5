"""A camera that froze and stamps its picture anew: seen by the picture, and no action is given on it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from openvla_policy.contract.observation import Observation
from openvla_ros.safety.frozen_camera import AwakePolicy, FrozenCamera, StillPicture, frozen

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0.0, 1.0)), min_size=1, max_size=20))
def test_a_picture_is_as_old_as_the_first_of_its_like_without_another_in_between(frames):
    still, stamp, since, before = StillPicture(), 100.0, 100.0, None
    for which, step in frames:
        stamp += step
        since = since if which == before else stamp
        before = which
        picture = PICTURE.copy()
        picture[-1, -1, 2] ^= which  # a camera's noise: one bit
        assert still.age(picture, stamp) == stamp - since


def test_another_size_or_a_clock_that_went_back_begins_anew():
    still = StillPicture()
    still.age(PICTURE, 10.0)
    assert still.age(PICTURE[:24], 12.0) == 0.0
    assert still.age(PICTURE[:24], 11.0) == 0.0 and still.age(PICTURE[:24], 13.0) == 2.0


def test_the_reason_names_age_and_limit_and_0_switches_it_off():
    assert frozen(1.0, 1.0) == "" and frozen(99.0, 0.0) == ""
    said = "the camera is frozen: its picture has not changed by one bit for 1.25 s, limit 1 s"
    assert frozen(1.25, 1.0) == said


class Follower:
    """Answers every picture, and counts."""

    def __init__(self):
        self.asked = self.begun = 0

    def reset(self):
        self.begun += 1

    def predict(self, observation, instruction):
        self.asked += 1
        return instruction


def test_a_policy_is_not_asked_about_a_frozen_picture_until_it_changes():
    follower = Follower()
    policy = AwakePolicy(follower, 1.0)
    for stamp in (0.0, 0.5, 1.0):
        assert policy.predict(Observation(PICTURE, stamp), "go") == "go"
    with pytest.raises(FrozenCamera, match=r"for 1\.20 s, limit 1 s"):
        policy.predict(Observation(PICTURE, 1.2), "go")
    policy.reset()
    with pytest.raises(TimeoutError):  # what the policy node takes for passing: it asks again
        policy.predict(Observation(PICTURE, 9.0), "go")
    assert policy.predict(Observation(PICTURE ^ 1, 9.2), "go") == "go"
    assert (follower.asked, follower.begun) == (4, 1)
    off = AwakePolicy(follower, 0.0)
    assert [off.predict(Observation(PICTURE, stamp), "go") for stamp in (0.0, 99.0)] == ["go", "go"]
