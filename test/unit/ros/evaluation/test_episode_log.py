"""The messages of an episode and the steps that they make up."""

from __future__ import annotations

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from openvla_msgs.msg import ActionChunk, EndEffectorDelta, PolicyStatus, SafetyState
from sensor_msgs.msg import Image

from openvla_ros.evaluation.episode_log import EpisodeLog


def stamp(seconds: float) -> Time:
    return Time(sec=int(seconds), nanosec=round(seconds % 1 * 1e9))


def chunk(seconds: float) -> ActionChunk:
    return ActionChunk(observation_stamp=stamp(seconds), actions=[EndEffectorDelta(gripper=1.0)])


def image(seconds: float) -> Image:
    made = Image(height=2, width=3, step=9, encoding="rgb8", data=bytes(18))
    made.header.stamp = stamp(seconds)
    return made


@pytest.fixture
def log() -> EpisodeLog:
    """Actions from the images at 1 and 2 s, of a camera with 20 Hz."""
    times = np.arange(1.0, 2.2, 0.05)
    return EpisodeLog([chunk(1.0), chunk(2.0)], [10.0, 10.5], [image(float(t)) for t in times])


def test_step_begins_with_the_image_it_was_predicted_from(log: EpisodeLog) -> None:
    steps = log.steps()
    assert len(steps) == 2 and steps[0].image.shape == (2, 3, 3)
    assert steps[0].action[6] == 1.0 and steps[1].rate == pytest.approx(2.0)


def test_images_between_actions_are_thinned(log: EpisodeLog) -> None:
    assert len(log.steps()[0].images) == 10


def test_action_whose_image_was_lost_is_no_step(log: EpisodeLog) -> None:
    log.images = [one for one in log.images if one.header.stamp != stamp(2.0)]
    assert len(log.steps()) == 1


def test_messages_from_before_the_reset_are_dropped(log: EpisodeLog) -> None:
    log.lifted.add("red")
    log.discard_before((1, 500_000_000))
    assert [one.observation_stamp for one in log.chunks] == [stamp(2.0)] and log.arrivals == [10.5]
    assert log.images[0].header.stamp.nanosec >= 500_000_000 and not log.lifted


def test_restarted_log_counts_refusals_from_zero() -> None:
    log = EpisodeLog(safety=SafetyState(refused_count=3)).restarted()
    assert log.refused == 0
    log.safety = SafetyState(refused_count=5)
    assert log.refused == 2


def test_state_text_quotes_bridge_and_policy() -> None:
    log = EpisodeLog(safety=SafetyState(state=SafetyState.HOLD, reason="not enabled"))
    assert log.state_text(policy=False) == "safety/state: HOLD not enabled"
    assert log.state_text(policy=True).endswith("; nothing was received on policy/status")
    log.status = PolicyStatus(state="predicting")
    assert log.state_text(policy=True).endswith("; policy/status: predicting")
