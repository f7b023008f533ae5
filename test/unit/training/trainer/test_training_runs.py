"""Whole runs: a streamed mixture, 8-bit optimizer states, what is kept, what is reported, how failures read."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from toy_dataset import write_toy_dataset

from openvla_policy.checkpoint.folder import load_folder, save_folder
from openvla_policy.checkpoint.prismatic import shape_of
from openvla_policy.model.config import siglip_7b
from openvla_training.openx.synthetic import write_synthetic
from openvla_training.trainer.config import load_config
from openvla_training.trainer.errors import explain
from openvla_training.trainer.parallel import World
from openvla_training.trainer.state import states
from openvla_training.trainer.trainer import Interruption, Trainer

SHAPE = "{image_size: 28, vision_width: 16, vision_depth: 2, vision_heads: 2, hidden_size: 64, layers: 2}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_dataset(tmp_path_factory.mktemp("rlds"))


def configure(**values: object):
    settings = {
        "steps": 8, "batch_size": 8, "learning_rate": 3e-3, "validate_every": 50, "save_every": 50,
        "precision": "fp32", "threads": 1, "device": "cpu",
    } | values  # fmt: skip
    return load_config(None, [f"{key}={value}" for key, value in settings.items()])


def toy(data: Path, output: Path, **more: object) -> Trainer:
    trainer = Trainer(configure(data=f"[{data}]", dataset_name="toy", output=output, **({"model": SHAPE} | more)))
    trainer.run()
    return trainer


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("base")
    toy(data, place, steps=1)
    return place / "checkpoint"


def test_a_streamed_mixture_is_gone_on_with_at_the_exact_sample(base: Path, tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text("datasets: {bridge_orig: 1.0, viola: 2.0}\n")
    for name in ("bridge_orig", "viola"):
        write_synthetic(tmp_path / "openx", name, episodes=12, val_episodes=2)
    more = {
        "mixture": tmp_path / "two.yaml", "data_dir": tmp_path / "openx", "checkpoint": base, "lanes": 2,
        "shuffle_mib": 1, "augment": "null",
    }  # fmt: skip
    whole = Trainer(configure(output=tmp_path / "whole", **more))
    whole.run()
    parts = Trainer(configure(output=tmp_path / "parts", **more))
    for _ in range(3):
        parts.train_step()
    parts.save_state()
    parts.train_step()  # lost
    parts.source.close()
    resumed = Trainer(configure(output=tmp_path / "parts", **more))
    folder = resumed.run()
    assert len(whole.losses) == 8 and resumed.losses == whole.losses
    assert {"bridge_orig", "viola"} <= set(load_folder(folder).statistics)
    with pytest.raises(ValueError, match="had batch_size 8, this one has 4"):
        Trainer(configure(output=tmp_path / "parts", **more, batch_size=4))
    epoch = Trainer(configure(output=tmp_path / "epochs", **more, epochs=0.5))
    assert epoch.config.steps == round(0.5 * epoch.source.length) > 1
    epoch.source.close()


def test_ctrl_c_finishes_the_step_and_saves_it(data: Path, tmp_path: Path, caplog) -> None:
    """The signal comes in the middle of the fifth step: a state of half a step would not go on as the whole run."""
    caplog.set_level("INFO", logger="openvla_training")
    whole = toy(data, tmp_path / "whole")
    before = signal.getsignal(signal.SIGINT)
    stopped = Trainer(configure(data=f"[{data}]", dataset_name="toy", output=tmp_path / "parts", model=SHAPE))
    forward = stopped.learner.forward

    def interrupted(batch):
        if stopped.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(batch)

    stopped.learner.forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert signal.getsignal(signal.SIGINT) is before and "stopped at step 5; the same command goes on" in caplog.text
    assert [state.facts["step"] for state in states(tmp_path / "parts" / "states")] == [5]
    resumed = toy(data, tmp_path / "parts")
    assert resumed.losses == whole.losses and resumed.accuracies == whole.accuracies


def test_the_second_ctrl_c_ends_at_once_where_nobody_waits() -> None:
    with pytest.raises(KeyboardInterrupt), Interruption(several=False) as one:
        os.kill(os.getpid(), signal.SIGINT)
        assert one.asked
        os.kill(os.getpid(), signal.SIGINT)
    with Interruption(several=True) as many:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
    assert many.asked


def test_training_ends_above_the_accuracy_asked_for(data: Path, tmp_path: Path) -> None:
    whole = toy(data, tmp_path / "whole", validate_every=2)
    means = [sum(whole.accuracies[end - 2 : end]) / 2 for end in (2, 4, 6)]
    first = means.index(max(means))
    assert max(means) > 0
    below = max(means[:first], default=0.0)
    asked = (below + max(means)) / 2
    stopped = toy(data, tmp_path / "stopped", validate_every=2, stop_at_accuracy=asked)
    assert stopped.step == 2 * (first + 1)


def test_a_state_saved_again_replaces_the_one_of_the_same_step(data: Path, tmp_path: Path) -> None:
    trainer = toy(data, tmp_path, steps=2, keep_last=1)
    (tmp_path / "states" / "step-2" / "__0_0.distcp").write_bytes(b"damaged")
    trainer.save_state(trainer.validate())
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["step-2"]
    assert toy(data, tmp_path, steps=2).losses == trainer.losses


def test_8_bit_states_are_resumed(data: Path, tmp_path: Path) -> None:
    plain = toy(data, tmp_path / "plain", steps=6)
    whole = toy(data, tmp_path / "whole", optimizer="adamw8bit", steps=6)
    assert whole.losses[-1] == pytest.approx(plain.losses[-1], rel=0.1) and whole.losses != plain.losses
    toy(data, tmp_path / "parts", optimizer="adamw8bit", steps=3)
    assert toy(data, tmp_path / "parts", optimizer="adamw8bit", steps=6).losses == whole.losses


@pytest.mark.slow
def test_compiled_layers_learn_the_same(data: Path, tmp_path: Path) -> None:
    plain, compiled = (
        toy(data, tmp_path / flag, steps=3, compile=flag, activation_checkpointing="true") for flag in ("false", "true")
    )
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-4)


def test_the_last_states_and_the_best_are_kept(data: Path, tmp_path: Path) -> None:
    """A rate far too high after a good start: the best state is an early one, and `best` is made of it."""
    rates = {"learning_rate": 3e-3, "final_learning_rate": 3.0, "steps": 16, "save_every": 2, "validate_every": 4}
    trainer = toy(data, tmp_path, **rates, keep_last=1, clip_norm=100)
    found = states(tmp_path / "states")
    best = max(found, key=lambda state: state.score)
    assert len(found) == 2 and found[-1].facts["step"] == 16 and best.facts["step"] < 16
    assert best.score[0] > found[-1].score[0]
    early, late = (load_folder(tmp_path / name).model.state_dict() for name in ("best", "checkpoint"))
    live = trainer.model.state_dict()
    name = "language_model.lm_head.weight"
    torch.testing.assert_close(late[name], live[name], atol=0.02, rtol=0.02)
    assert not torch.allclose(early[name], live[name], atol=0.02, rtol=0.02)
    assert json.loads((tmp_path / "best" / "training.json").read_text())["steps"] == 16


def test_a_damaged_state_is_named_with_the_remedy(data: Path, tmp_path: Path) -> None:
    toy(data, tmp_path, steps=2)
    (shard,) = (tmp_path / "states" / "step-2").glob("*.distcp")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match="step-2: not a readable resume state.*remove it to go on from an earlier"):
        toy(data, tmp_path, steps=4)


def test_curves_and_pictures_are_left(data: Path, tmp_path: Path, caplog) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    caplog.set_level("INFO", logger="openvla_training")
    toy(data, tmp_path, steps=4, report_every=2, validate_every=2)
    curves = EventAccumulator(str(tmp_path / "curves"))
    curves.Reload()
    tags = set(curves.Tags()["scalars"])
    for name in ("loss", "action_token_accuracy", "samples_per_s", "mfu", "learning_rate", "gradient_norm", "l1/x"):
        assert [event.step for event in curves.Scalars(f"train/{name}")] == [2, 4], name
    assert {"val/loss", "val/action_token_accuracy", "val/l1/gripper"} <= tags
    assert 0 < curves.Scalars("train/mfu")[-1].value < 1 and "a measured fp32 product" in caplog.text
    assert [event.step for event in curves.Images("val/actions")] == [2, 4]
    picture = cv2.imread(str(tmp_path / "validation" / "step-4.png"))
    assert picture.shape == (480, 1440, 3) and picture.std() > 20
    line = (
        r"step 2/4  loss [\d.]+  accuracy [\d.]+  L1 [\d.]+ mm [\d.]+ rad grip [\d.]+  \S+ samples/s  MFU .*%  ETA \d"
    )
    assert re.search(line, caplog.text), caplog.text


def test_weights_and_biases_is_asked_for_only_where_it_is(data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("openvla_training.trainer.reporting.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="wandb: 'robots' needs the package wandb: pip install wandb"):
        toy(data, tmp_path, wandb="robots", steps=2)


def test_only_the_demonstrations_asked_for_are_trained_on(data: Path, tmp_path: Path) -> None:
    every = toy(data, tmp_path / "all", steps=1).source.frames
    some = Trainer(
        configure(
            data=f"[{data}]",
            dataset_name="toy",
            output=tmp_path / "some",
            model=SHAPE,
            sentences="pull",
            demonstrations=4,
        )  # fmt: skip
    )
    chosen = some.source.frames
    assert {chosen.instructions[number] for number in chosen.instruction} == {"pull the box"}
    assert len(chosen.trajectories()) == 4 and len(chosen) == 32 and len(chosen.images) == 32
    pulls = [n for n in range(len(every)) if every.instructions[every.instruction[n]] == "pull the box"][:32]
    assert (chosen.images[5] == every.images[pulls[5]]).all()
    assert (chosen.actions == every.actions[pulls]).all() and some.train_step().loss > 0
    for held_out in some.source.held_out():
        assert (held_out.actions[:, 0] <= 0).all()
    with pytest.raises(ValueError, match="sentences: 'fly' is in none of the sentences there are, such as: pull"):
        toy(data, tmp_path / "none", sentences="fly")


# ---- failures ---------------------------------------------------------------------------------------------------


def test_out_of_memory_says_what_to_lower() -> None:
    config = configure(data="[d]", dataset_name="n", output="o", checkpoint="c", batch_size=64, precision="bf16")
    found = explain(torch.OutOfMemoryError("CUDA out of memory."), config, siglip_7b(), torch.device("cpu"), World(), 3)
    assert found is not None
    said = str(found)
    assert said.startswith("out of memory at step 3. By the estimate a pass of 64 samples needs ")
    assert "activations" in said and "lower micro_batch_size, or set activation_checkpointing=true" in said
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)  # as a CPU says it
    assert explain(caught.value, config, siglip_7b(), torch.device("cpu"), World(), 3) is not None


def test_a_lost_process_is_told_from_other_errors() -> None:
    config = configure(data="[d]", dataset_name="n", output="o")
    lost = RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4242")
    found = explain(lost, config, siglip_7b(), torch.device("cpu"), World(0, 2), 7)
    assert "process 0 of 2 lost another one at step 7" in str(found) and "any number of processes" in str(found)
    other = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert explain(other, config, siglip_7b(), torch.device("cpu"), World(0, 2), 7) is None


def test_a_loss_that_is_no_number_leaves_the_batch(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(configure(data=f"[{data}]", dataset_name="toy", output=tmp_path, model=SHAPE))
    with torch.no_grad():
        trainer.model.projector.fc1.weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="loss is nan at step 0; the batch is in .*bad_batch_0_0.pt"):
        trainer.train_step()
    saved = torch.load(tmp_path / "bad_batch_0_0.pt", weights_only=False)
    assert saved.images.shape == (8, 28, 28, 3)


def test_a_gradient_that_is_no_number_changes_nothing(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(configure(data=f"[{data}]", dataset_name="toy", output=tmp_path, model=SHAPE))
    weight = trainer.model.projector.fc1.weight
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    with pytest.raises(
        FloatingPointError, match="norm of the gradient is (nan|inf) at step 0, loss .*bad_batch_0_0.pt"
    ):
        trainer.train_step()
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


def test_actions_that_are_no_numbers_have_no_statistics(data: Path, tmp_path: Path) -> None:
    done = toy(data, tmp_path, steps=1)
    (cached,) = [path.parent for path in (tmp_path / "frames").glob("*/actions.npy") if "val" not in _split(path)]
    actions = done.source.frames.actions.copy()
    actions[9, 2] = float("inf")
    with (cached / "actions.npy").open("wb") as file:
        import numpy as np

        np.save(file, actions)
    with pytest.raises(ValueError, match="no statistics can be made, since episode 1 of `train` has an action that is"):
        toy(data, tmp_path, steps=2)


def _split(path: Path) -> str:
    return json.loads((path.parent / "done.json").read_text())["split"]


def test_another_models_tokenizer_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    checkpoint = load_folder(base)
    smaller = replace(checkpoint.config, text=replace(checkpoint.config.text, vocab_size=600), pad_token_id=536)
    checkpoint.config = smaller
    model = type(checkpoint.model)(smaller)
    checkpoint.model = model
    save_folder(tmp_path / "mixed", checkpoint)
    with pytest.raises(ValueError, match="its tokenizer has .* tokens, its model 600 .*they do not belong together"):
        toy(data, tmp_path / "run", checkpoint=tmp_path / "mixed", model="{}")


def test_a_run_begins_with_a_base_in_prismatics_layout(base: Path, data: Path, tmp_path: Path, monkeypatch) -> None:
    """As config/training/full.yaml does; the small network takes the place of the one its config.json names."""
    start = load_folder(base)
    folder, towers = tmp_path / "prism-dinosiglip-224px+7b", ("dino_featurizer", "siglip_featurizer")
    parts: dict[str, dict[str, torch.Tensor]] = {"vision_backbone": {}, "projector": {}, "llm_backbone": {}}
    for name, tensor in start.model.state_dict().items():
        first, rest = name.split(".", 1)
        if first == "projector":
            parts[first][f"projector.{2 * int(rest[2]) - 2}{rest[3:]}"] = tensor
        elif first == "language_model":
            parts["llm_backbone"][f"llm.{rest}"] = tensor
        else:
            tower, leaf = rest.split(".", 1)
            native = towers[tower.startswith("fused")]
            parts[first][f"{native}.{leaf.replace('scale_factor', 'gamma')}"] = tensor
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"model": parts}, folder / "checkpoints" / "latest-checkpoint.pt")
    named = {
        "model_id": folder.name, "vision_backbone_id": "dinosiglip-vit-so-224px", "llm_backbone_id": "llama2-7b-pure",
        "arch_specifier": "no-align+fused-gelu-mlp", "image_resize_strategy": "resize-naive",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"model": named}))
    start.tokenizer.save(folder)
    seven = shape_of(folder)
    assert (seven.text.hidden_size, len(seven.vision)) == (4096, 2)
    monkeypatch.setattr("openvla_policy.checkpoint.prismatic.network_of", lambda base: start.config)
    trainer = toy(data, tmp_path / "run", checkpoint=folder, steps=2, model="{}")
    again = toy(data, tmp_path / "folder", checkpoint=base, steps=2, model="{}")
    assert trainer.losses == pytest.approx(again.losses, rel=1e-3)  # a folder's image means are rounded to bf16
    assert load_folder(tmp_path / "run" / "checkpoint").statistics["toy"].num_transitions > 0
    with pytest.raises(ValueError, match="is a run directory of Prismatic's, into which no adapter can be merged"):
        toy(data, tmp_path / "lora", checkpoint=folder, strategy="lora", model="{}")
