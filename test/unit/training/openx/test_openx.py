"""The registry of datasets, expressions, standardisation on the published schemas, statistics, mixtures."""

from __future__ import annotations

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings, strategies as st

from openvla_policy.contract.gripper_datasets import DatasetGripper
from openvla_training.openx import statistics
from openvla_training.openx.cli import main
from openvla_training.openx.dataset import Dataset
from openvla_training.openx.expressions import evaluate, keys_of, parse
from openvla_training.openx.mixture import Mixture, from_yaml, load_mixture, mixtures_folder
from openvla_training.openx.registry import find, registry
from openvla_training.openx.schemas import SCHEMAS, features_of
from openvla_training.openx.source import EpisodeSource, fingerprint
from openvla_training.openx.standardise import is_no_op, sentences, standardise
from openvla_training.openx.synthetic import write_synthetic
from openvla_training.rlds.shards import open_records, open_shard
from openvla_training.rotations import angles_to_matrices, matrices_to_angles, quaternions_to_matrices

OPENING = DatasetGripper()


# ---- expressions ----------------------------------------------------------------------------------------------


def test_expressions_pick_columns_and_call_functions():
    steps = {"action": np.arange(12, dtype=np.float64).reshape(2, 6), "observation/open": np.array([True, False])}
    cases = {
        "action[0:2]": [[0, 1], [6, 7]],
        "action[-1]": [[5], [11]],
        "action[4]": [[4], [10]],
        "action[-3:-1]": [[3, 4], [9, 10]],
        "observation/open": [[1], [0]],
        "invert(clip(action[1]))": [[0], [0]],
        "zeros(2)": [[0, 0], [0, 0]],
        "ones(1)": [[1], [1]],
        "gripper(observation/open)": [[1], [0]],
        "angles(action[2:6])": None,
    }
    for text, wanted in cases.items():
        found = evaluate(parse(text), steps, 2, OPENING)
        if wanted is not None:
            np.testing.assert_array_equal(found, wanted, err_msg=text)
    assert keys_of(parse("wrist_motion(a/b[0:6], clip(c))")) == {"a/b", "c"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("action[", "cannot be read"),
        ("closing(action)", "'closing' is unknown; choose from gripper, invert"),
        ("zeros(action)", "zeros takes a number of columns"),
        ("wrist_motion(action)", "takes 2 argument"),
        ("", "cannot be read"),
    ],
)
def test_a_wrong_expression_is_explained(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_missing_columns_are_reported():
    steps = {"action": np.zeros((3, 7), np.float32)}
    for text in ("action[7]", "action[5:9]", "action[-8:]"):
        with pytest.raises(ValueError, match="'action' has 7 columns"):
            evaluate(parse(text), steps, 3, OPENING)
    with pytest.raises(ValueError, match="'state' is not in the steps; there are action"):
        evaluate(parse("state[0:6]"), steps, 3, OPENING)


@settings(max_examples=50)
@given(st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3))
def test_angles_and_matrices_are_inverse(angles):
    (matrix,) = matrices = angles_to_matrices(np.array([angles]))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(matrices_to_angles(matrices), [angles], atol=1e-6)


def test_a_rotation_vector_is_its_angles():
    turns = np.array([[0.0, 0, 0], [0.4, 0, 0], [0, -0.3, 0], [0, 0, 2.0]])
    found = evaluate(parse("axis_angle(action)"), {"action": turns}, 4, OPENING)
    np.testing.assert_allclose(found, turns, atol=1e-12)  # about one axis both say the same
    skew = np.array([[0.3, 0.2, -0.5]])
    angles = evaluate(parse("axis_angle(action)"), {"action": skew}, 1, OPENING)
    np.testing.assert_allclose(angles_to_matrices(angles)[0] @ skew[0], skew[0], atol=1e-12)  # the axis stays


def test_quaternions_turn_about_fixed_axes():
    half = np.sqrt(0.5)
    about_z = evaluate(parse("angles(action)"), {"action": np.array([[0, 0, half, half]])}, 1, OPENING)
    np.testing.assert_allclose(about_z, [[0, 0, np.pi / 2]], atol=1e-12)


def test_gimbal_lock_keeps_the_rotation_with_yaw_zero():
    matrices = angles_to_matrices(np.array([[0.3, np.pi / 2, 0.0], [0.3, -np.pi / 2, 0.2]]))
    angles = matrices_to_angles(matrices)
    np.testing.assert_array_equal(angles[:, 2], 0.0)
    np.testing.assert_allclose(angles_to_matrices(angles), matrices, atol=1e-6)


def test_a_quaternion_of_zeros_is_no_rotation():
    np.testing.assert_array_equal(quaternions_to_matrices(np.zeros((1, 4))), [np.eye(3)])


# ---- rows -----------------------------------------------------------------------------------------------------


def test_all_rows_but_four_satisfy_the_curation_rules():
    assert registry().keys() == SCHEMAS.keys()
    objections = {name: row.objections() for name, row in registry().items() if row.objections()}
    no_camera, two_arms = ["it has no third-person camera"], ["it has 2 arms, not one"]
    assert objections == {
        "dobbe": no_camera,
        "nyu_door_opening_surprising_effectiveness": no_camera,
        "imperialcollege_sawyer_wrist_cam": no_camera,
        "utokyo_xarm_bimanual_converted_externally_to_rlds": two_arms,
    }
    unknown_rate = {name for name, row in registry().items() if row.rate is None}
    assert unknown_rate == {"stanford_mask_vit_converted_externally_to_rlds"}  # it moves until it is at rest
    assert all(row.version and row.robot for row in registry().values())
    other = replace(find("kuka"), task="navigation", control="joint").objections()
    assert other == ["it is navigation, not manipulation", "it is controlled by joint, not by end effector"]


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_each_row_matches_its_published_schema(tmp_path, name):
    row = find(name)
    folder = write_synthetic(tmp_path, name, episodes=2, steps=(5, 7))
    assert folder == tmp_path / row.folder / row.version
    # The published schema says where the row's keys are; only the pictures are smaller here.
    published, written = (
        {k: str(v) for k, v in source_leaves(f).items() if "Image" not in type(v).__name__}
        for f in (features_of(name), tfds.builder_from_directory(folder).info.features)
    )
    assert published == written
    cameras = [f"observation/{camera}" for camera in (*row.camera, *([row.wrist] if row.wrist else []))]
    source = EpisodeSource(folder, "all", sorted({*row.keys, *cameras, *row.language}))
    for index in range(len(source)):
        steps, _ = source[index]
        trajectory = standardise(row, {key: steps[key] for key in row.keys})
        count = len(steps[row.language[0]])
        dropped = 2 if "reached_state" in row.filters else 0
        assert trajectory.actions.shape == (count - dropped, 7) and trajectory.actions.dtype == np.float32
        assert np.isfinite(trajectory.actions).all()
        if row.gripper.convention is not None:
            assert ((trajectory.actions[:, 6] >= 0) & (trajectory.actions[:, 6] <= 1)).all()
        if row.state:
            assert trajectory.states.shape[0] == count - dropped
        assert all(text and "\0" not in text for text in sentences(row, steps, None))
        for camera in cameras:
            image = cv2.imdecode(np.frombuffer(steps[camera][0], np.uint8), cv2.IMREAD_COLOR)
            assert image.shape == source.image_shape(camera.removeprefix("observation/"))


def source_leaves(features):
    from openvla_training.openx.source import leaves

    return leaves(features)


def test_episodes_are_the_same_from_tfrecord_and_array_record(tmp_path):
    folders = [
        write_synthetic(tmp_path / kind, "viola", episodes=5, file_format=kind) for kind in ("tfrecord", "array_record")
    ]
    keys = ["action/world_vector", "action/gripper_closedness_action", "observation/agentview_rgb"]
    sources = [EpisodeSource(folder, "all", keys) for folder in folders]
    assert len(sources[0]) == len(sources[1]) == 5
    for index in (4, 0, 2):
        for key in keys:
            np.testing.assert_array_equal(sources[0][index][0][key], sources[1][index][0][key])
    by_tfds = tfds.builder_from_directory(folders[1]).as_data_source(
        "train", decoders={"steps": {"observation": {"agentview_rgb": tfds.decode.SkipDecoding(),
                                                      "eye_in_hand_rgb": tfds.decode.SkipDecoding()}}}
    )  # fmt: skip
    for step, ours in zip(by_tfds[2]["steps"], sources[1][2][0]["action/world_vector"], strict=True):
        np.testing.assert_array_equal(step["action"]["world_vector"], ours)


def test_without_val_split_training_uses_95_percent(tmp_path):
    folder = write_synthetic(tmp_path / "a", "utaustin_mutex", episodes=40, steps=(1, 1))
    counts = [len(EpisodeSource(folder, split)) for split in ("train", "val", "all")]
    assert counts == [38, 2, 40]
    folder = write_synthetic(tmp_path / "b", "utaustin_mutex", episodes=3, val_episodes=2, steps=(1, 1))
    assert [len(EpisodeSource(folder, split)) for split in ("train", "val", "all")] == [3, 2, 5]
    with pytest.raises(ValueError, match="has no split 'test'; it has train, val"):
        EpisodeSource(folder, "test")
    with pytest.raises(ValueError, match="has no key 'observation/front'; it has action, discount"):
        EpisodeSource(folder, "train", ["observation/front"])


def test_damaged_record_is_reported(tmp_path):
    folder = write_synthetic(tmp_path, "utaustin_mutex", episodes=1, shards=1)
    (shard,) = folder.glob("*.tfrecord*")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="record 0 is cut off or damaged; restore the file"):
        EpisodeSource(folder, "train", ["action"])[0]


def test_first_nonempty_wording_is_used_or_a_random_one():
    row = find("droid")
    texts = zip(row.language, ("", "b", " c "), strict=True)
    steps = {key: np.array([text.encode()] * 2, object) for key, text in texts}
    assert sentences(row, steps, None) == ["b", "b"]
    drawn = {sentences(row, steps, np.random.default_rng(seed))[0] for seed in range(20)}
    assert drawn == {"b", " c "}  # as recorded, as in the reference
    steps[row.language[1]] = np.array([b" \n"] * 2, object)
    assert sentences(row, steps, None) == [" c "] * 2


@pytest.mark.parametrize("name", ["bridge_orig", "bridge_oxe", "kuka", "droid"])
@pytest.mark.parametrize("count", [1, 2])
def test_very_short_episode_gives_no_steps(tmp_path, name, count):
    row = find(name)
    folder = write_synthetic(tmp_path, name, episodes=1, steps=(count, count), shards=1)
    steps, _ = EpisodeSource(folder, "all", sorted(row.keys))[0]
    trajectory = standardise(row, steps)
    left = max(0, count - 2) if "reached_state" in row.filters else count
    assert trajectory.actions.shape == (left, 7) and trajectory.states.shape[0] == len(trajectory.kept) == left


def test_no_ops_filter_drops_idle_steps():
    actions = np.zeros((5, 7), np.float32)
    actions[:, 6] = [0, 0, 1, 1, 1]
    actions[1, 0] = 0.1
    np.testing.assert_array_equal(is_no_op(actions), [True, False, False, True, True])
    row = Dataset("mine", action=("action[0:6]", "action[6]"), filters=("no_ops",))
    np.testing.assert_array_equal(standardise(row, {"action": actions}).kept, [1, 2])


def test_invalid_actions_are_reported():
    actions = np.zeros((4, 7), np.float32)
    actions[2, 1] = np.nan
    with pytest.raises(ValueError, match="dataset 'mine': step 2 is not a number"):
        standardise(Dataset("mine", action=("action",)), {"action": actions})
    with pytest.raises(ValueError, match="gives 6 columns, a policy's has 7"):
        standardise(Dataset("mine", action=("action[0:6]",)), {"action": actions})


# ---- rows of one's own ------------------------------------------------------------------------------------------

OURS = """
datasets: {our_lab: 1.0, bridge_orig: 0.5}
rows:
  our_lab:
    action: ["action[0:3]", "angles(action[3:7])", "gripper(action[7])"]
    gripper: {convention: closing, binarise: true}
    camera: [front, side]
    state: ["observation/state"]
    layout: joint
    rate: 10
    filters: no_ops
"""


def test_own_dataset_needs_one_row_of_yaml(tmp_path):
    (tmp_path / "lab.yaml").write_text(OURS)
    row = load_mixture(tmp_path / "lab.yaml").row("our_lab")
    assert row.camera == ("front", "side") and row.rate == 10.0 and row.filters == ("no_ops",)
    assert row.gripper == DatasetGripper("closing", binarise=True)
    assert load_mixture(tmp_path / "lab.yaml").row("bridge_orig") is find("bridge_orig")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": ["action"]}, "unknown key 'actions'; did you mean action"),
        ({"action": None}, "rows.lab.action is None; it must be a list"),
        ({"gripper": "shut"}, "rows.lab.gripper.convention is 'shut'; it must be 'opening', 'closing'"),
        ({"gripper": ...}, "`gripper` is missing; choose from opening"),
        ({"rate": "fast"}, "rows.lab.rate is 'fast'; it must be a valid number"),
        ({"rate": 0}, "rate is 0.0 Hz; it must be greater than 0"),
        ({"frame": "world"}, "frame is 'world'; it must be 'base' or 'wrist'"),
        ({"filters": ["noops"]}, "filters.0 is 'noops'; it must be 'first_step'"),
        ({"action": ["flip(action)"]}, "dataset 'lab': expression .* 'flip' is unknown"),
        ({"camera": []}, "camera is empty"),
        ({"bgr": 1}, "bgr is 1; it must be a valid boolean"),
        ({"arms": True}, "arms is True; it must be a valid integer"),
    ],
)
def test_a_wrong_row_is_explained(change, message):
    values = {"action": ["action[0:6]", "gripper(action[6])"], "gripper": "opening", **change}
    row = {key: value for key, value in values.items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        from_yaml({"datasets": {"lab": 1.0}, "rows": {"lab": row}}, "lab", "lab.yaml")


# ---- statistics -----------------------------------------------------------------------------------------------


def test_statistics_are_cached_until_data_or_standardisation_change(tmp_path, monkeypatch):
    folder = write_synthetic(tmp_path, "bridge_orig", episodes=4)
    measured = []
    original = statistics.measure
    monkeypatch.setattr(statistics, "measure", lambda row, place: measured.append(row.name) or original(row, place))
    row = find("bridge_orig")
    first = statistics.dataset_statistics(row, folder)
    assert first.action.mask.tolist() == [True] * 6 + [False] and first.num_trajectories == 4
    assert statistics.dataset_statistics(row, folder).to_json() == first.to_json() and len(measured) == 1
    statistics.dataset_statistics(replace(row, robot="another"), folder)  # a fact that changes no number
    assert len(measured) == 1
    statistics.dataset_statistics(replace(row, filters=("first_step",)), folder)
    assert len(measured) == 2
    copy = tmp_path / "copy" / "bridge_orig" / "1.0.0"
    shutil.copytree(folder, copy)
    statistics.dataset_statistics(row, copy)
    assert len(measured) == 2 and fingerprint(copy) == fingerprint(folder)
    shutil.rmtree(folder)
    write_synthetic(tmp_path, "bridge_orig", episodes=4, seed=1)
    second = statistics.dataset_statistics(row, folder)
    assert second.to_json() != first.to_json() and len(measured) == 3
    # The same size and description, other numbers in the middle of a shard.
    shard = sorted(folder.glob("*.tfrecord*"))[0]
    records = [open_records(shard, "tfrecord")(number) for number in range(2)]
    reached = EpisodeSource(folder, "all", ["observation/state"])[0][0]["observation/state"][3, :1]
    changed = [record.replace(reached.tobytes(), (reached + 1).tobytes()) for record in records]
    assert changed != records
    writer = open_shard(shard, "tfrecord")
    for record in changed:
        writer.write(record)
    writer.close()
    assert statistics.dataset_statistics(row, folder).to_json() != second.to_json() and len(measured) == 4


# ---- mixtures -------------------------------------------------------------------------------------------------


def test_shares_follow_weights_sizes_and_schedule():
    mixture = Mixture("m", {"bridge_orig": 1.0, "kuka": 0.5, "droid": 2.0}, until={"droid": 0.5})
    sizes = {"bridge_orig": 100, "kuka": 200, "droid": 100}
    assert mixture.shares(sizes) == {"bridge_orig": 0.25, "kuka": 0.25, "droid": 0.5}
    assert mixture.shares(sizes, 0.5) == {"bridge_orig": 0.5, "kuka": 0.5, "droid": 0.0}
    assert mixture.epoch_samples(sizes) == 400
    assert mixture.shares({"kuka": 7}) == {"kuka": 1.0}
    shares = Mixture("m", {"bridge_orig": 30, "kuka": 10}, by="share").shares(sizes)
    assert shares == {"bridge_orig": 0.75, "kuka": 0.25}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": {}}, "lab.yaml: unknown key 'dataset'; choose from datasets, by"),
        ({"datasets": {}}, "names no dataset"),
        ({"datasets": ["kuka"]}, "lab.yaml: datasets is .'kuka'.; it must be a mapping"),
        ({"datasets": {"kuca": 1}}, "'kuca' is not in the registry; did you mean kuka"),
        ({"datasets": {"kuka": -1}}, "kuka has the weight -1"),
        ({"by": "size"}, "by is 'size'; it must be 'weight' or 'share'"),
        ({"until": {"droid": 0.5}}, "until names 'droid', which is none of its datasets"),
        ({"until": {"kuka": 1.5}}, "until.kuka is 1.5; it must be a part of training"),
        ({"until": {"kuka": 0.5}}, "until drops every dataset"),
        ({"datasets": {"dobbe": 1}}, "dobbe breaks the curation rules: it has no third-person camera"),
    ],
)
def test_a_wrong_mixture_is_explained(change, message):
    with pytest.raises(ValueError, match=message):
        from_yaml({"datasets": {"kuka": 1.0}, **change}, "lab", "lab.yaml")


def test_shipped_mixtures_and_single_datasets_load():
    names = {path.stem for path in mixtures_folder().glob("*.yaml")}
    assert {"openvla", "openvla_shares", "octo", "bridge", "oxe_magic_soup_plus"} <= names
    for name in names:
        assert load_mixture(name).name == name
    droid = load_mixture("openvla")
    sizes = {name: droid.row(name).transitions for name in droid.datasets}
    assert droid.shares(sizes, 0.66)["droid"] > 0.1 and droid.shares(sizes, 0.67)["droid"] == 0
    assert abs(sum(droid.shares(sizes, 0.9).values()) - 1) < 1e-12
    assert load_mixture("taco_play").shares({"taco_play": 5}) == {"taco_play": 1.0}
    with pytest.raises(ValueError, match="'ocdo' is not in the registry.*mixtures: .*octo"):
        load_mixture("ocdo")


def test_command_prints_published_and_measured_shares(tmp_path, capsys):
    for name in ("bridge_orig", "viola"):
        write_synthetic(tmp_path, name, episodes=2)
    assert main(["openvla", "--data-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    bridge = next(line for line in out.splitlines() if "bridge_orig" in line)
    assert "13.3" in bridge and "13.9" in bridge and "2 episodes" not in bridge
    assert "25 of 27 datasets are not in" in out
    assert main(["bridge", "--synthetic", str(tmp_path / "made")]) == 0
    assert "100.0" in capsys.readouterr().out
    assert main(["nothing"]) == 2
    assert "is not in the registry" in capsys.readouterr().err
