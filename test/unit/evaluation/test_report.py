"""Suites and trials; outcomes, success rates and their pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, strategies as st

from openvla_evaluation import plan
from openvla_evaluation.report import outcomes, pictures
from openvla_evaluation.report.outcomes import Episode, Step
from openvla_evaluation.statistics import Rate
from openvla_evaluation.suites import cubes


def episode(target: str, lifted: tuple[str, ...], outcome: str = "", index: int = 1, frames: int = 0) -> Episode:
    steps = tuple(
        Step((np.full((96, 96, 3), 10 * number, np.uint8),), np.full(7, 0.01 * number), 0.1, 5.0)
        for number in range(frames)
    )
    outcome = outcome or outcomes.judge(target, lifted)
    instruction = f"lift the {target} cube"
    return Episode(
        index, 1_000_000, instruction, target, outcome, "", lifted, 7, 2.0, (0.1, 0.3), (0.05, 0.06), 0, steps
    )


@pytest.mark.parametrize(
    ("lifted", "outcome"),
    [
        ((), outcomes.NOTHING),
        (("red",), outcomes.SUCCESS),
        (("blue",), outcomes.WRONG),
        (("red", "blue"), outcomes.SEVERAL),
    ],
)
def test_only_the_named_object_alone_is_a_success(lifted: tuple[str, ...], outcome: str) -> None:
    assert outcomes.judge("red", lifted) == outcome


def test_rate_has_the_papers_standard_error_and_wilson_interval() -> None:
    rate = Rate(8, 10)
    assert rate.value == 0.8
    assert rate.standard_error == pytest.approx(0.12649, abs=1e-5)
    assert str(rate) == "8/10 = 80 ± 13 %"
    # Wilson's interval for 8 of 10 (Brown, Cai, DasGupta 2001).
    assert rate.interval == pytest.approx((0.4902, 0.9433), abs=1e-4)


@given(st.integers(1, 500), st.integers(0, 500))
def test_interval_contains_the_rate_within_zero_and_one(trials: int, successes: int) -> None:
    rate = Rate(min(successes, trials), trials)
    low, high = rate.interval
    assert 0.0 <= low <= rate.value + 1e-12 and rate.value - 1e-12 <= high <= 1.0


def test_faults_count_as_failures_and_interruptions_not_at_all() -> None:
    episodes = [
        episode("red", ("red",)),
        episode("red", (), outcomes.FAULT),
        episode("red", (), outcomes.INTERRUPTED),
    ]
    rate = outcomes.success_rate(episodes)
    assert (rate.successes, rate.trials) == (1, 2)


def test_summary_without_episodes_is_valid_json() -> None:
    summary = outcomes.summarise([], cubes.OBJECTS, paired=True)
    assert json.loads(json.dumps(summary, allow_nan=False))["success_rate"]["value"] is None


def test_confusion_counts_every_episode_in_its_cell() -> None:
    episodes = [
        episode("red", ("red",)),
        episode("red", ("blue",)),
        episode("green", ()),
        episode("blue", ("red", "green")),
        episode("blue", ("blue",)),
        episode("blue", (), outcomes.INTERRUPTED),
    ]
    table = outcomes.confusion(episodes, cubes.OBJECTS)
    assert table.counts.tolist() == [[1, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 1, 0, 1]]
    assert (table.grounded.successes, table.grounded.trials) == (2, 5)
    assert table.to_json()["instructed"]["blue"] == {"red": 0, "green": 0, "blue": 1, "none": 0, "several": 1}
    assert str(table).splitlines()[1].split() == ["red", "1", "0", "1", "0", "0"]


def test_summary_has_outcomes_latencies_and_episodes() -> None:
    summary = outcomes.summarise([episode("red", ("red",)), episode("blue", ())], cubes.OBJECTS, paired=False)
    assert summary["outcomes"] == {outcomes.SUCCESS: 1, outcomes.NOTHING: 1}
    assert summary["latency_s"]["p50"] == pytest.approx(0.2)
    first = summary["episodes"][0]
    assert first["seed"] == 1_000_000 and first["steps"] == 7 and first["rate_hz"] == 3.5
    assert first["inference_s"]["max"] == 0.06


# ---- sentences and seeds ------------------------------------------------------------------------


@given(st.integers(0, 2_000_000))
def test_sentence_of_a_seed_names_its_target_reproducibly(seed: int) -> None:
    sentence = cubes.instruction_of_seed(seed)
    assert cubes.target_of(sentence) == cubes.target_for(seed)
    assert sentence == cubes.instruction_of_seed(seed)


def test_every_template_is_used_for_every_object() -> None:
    seen = {cubes.instruction_of_seed(seed) for seed in range(1000)}
    assert seen == {template.format(object=name) for template in cubes.TEMPLATES for name in cubes.OBJECTS}


@pytest.mark.parametrize("sentence", ["lift the cube", "put the red cube on the blue cube", "lift the bored cube"])
def test_ambiguous_sentence_is_rejected_with_the_choices(sentence: str) -> None:
    with pytest.raises(ValueError, match="red, green, blue"):
        cubes.target_of(sentence)


def test_evaluation_never_uses_a_training_seed() -> None:
    for seed in (0, 12, cubes.EVALUATION_SEED, cubes.EVALUATION_SEED + 5):
        for trial in plan.trials(plan.Suite(seed=seed, episodes=3)):
            assert trial.seed in cubes.EVALUATION_SEEDS and trial.seed not in cubes.TRAINING_SEEDS


def test_paired_trials_combine_each_start_state_with_every_instruction() -> None:
    made = plan.trials(plan.Suite(paired=2))
    assert [(t.seed - cubes.EVALUATION_SEED, t.target) for t in made] == [
        (0, "red"), (0, "green"), (0, "blue"), (1, "red"), (1, "green"), (1, "blue"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epsiodes: 3", "unknown key 'epsiodes'.*episodes"),
        ("episodes: three", "episodes is 'three'.*int"),
        ("max_steps: 0", "max_steps is 0.*1 to"),
        ("instruction: lift the purple cube", "purple.*red, green, blue"),
        ("- 1", "mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_bad_settings_name_file_key_and_choices(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "lift.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        plan.load_suite(path)
    assert "lift.yaml" in str(error.value) and "\n" not in str(error.value)


# ---- pictures ------------------------------------------------------------------------


def test_video_frame_shows_image_action_and_verdict() -> None:
    caption = pictures.Caption("policy", 1, 2, 1_000_000, "lift the red cube", "red")
    image = np.full((224, 224, 3), 200, np.uint8)
    step = Step((image,), np.array([0.03, 0, 0, 0, 0, 0, 1.0]), 0.1, 5.0)
    frame = pictures.draw_frame(image, step, 3, caption)
    assert frame.shape == (540, 960, 3) and frame.dtype == np.uint8
    assert (frame[:540, :540] == 200).all(), "the camera image is shown whole"
    still = pictures.draw_frame(image, Step((image,), np.zeros(7), 0.1, 5.0), 3, caption)
    assert (frame != still).any(), "the action is drawn"
    verdict = pictures.draw_frame(image, step, 3, caption, outcomes.SUCCESS)
    assert (verdict[500, 20:60] == pictures.GOOD).all(axis=-1).any()


@pytest.mark.parametrize("count", [1, 12, 30])
def test_contact_sheet_has_a_strip_for_every_episode(count: int) -> None:
    episodes = [episode("red", ("red",) if n % 2 else (), index=n, frames=4) for n in range(count)]
    sheet = np.asarray(pictures.contact_sheet(episodes, "title"))
    green = (sheet[:, :, :] == pictures.GOOD).all(axis=-1)
    bad = (sheet == pictures.BAD).all(axis=-1)
    assert green.any() == (count > 1) and bad.any()


def test_confusion_picture_of_an_empty_table_is_drawn() -> None:
    picture = pictures.confusion_picture(outcomes.confusion([], cubes.OBJECTS), "title")
    assert picture.width > 600


def test_thinned_episode_keeps_figures_and_outer_images() -> None:
    whole = episode("red", ("red",), frames=20)
    thin = whole.thinned(6)
    assert len(thin.steps) == 6 and thin.to_json() == whole.to_json()
    assert (thin.steps[0].image == whole.steps[0].image).all()
    assert (thin.steps[-1].image == whole.steps[-1].image).all()
    assert episode("red", ()).thinned(6).steps == ()
