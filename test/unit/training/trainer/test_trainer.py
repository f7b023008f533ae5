"""Whole runs: learning, exact resume, what is kept and reported, and how failures are explained."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from toy_training import SHAPE, toy_config, train_toy

from openvla_policy.checkpoint.folder import load_folder, save_folder
from openvla_policy.checkpoint.prismatic import shape_of
from openvla_policy.contract.observation import Observation
from openvla_policy.runtime.load import load_policy
from openvla_training.openx.synthetic import write_synthetic
from openvla_training.trainer.state import states
from openvla_training.trainer.trainer import Interruption, Trainer

LARGE = {"model.shape": SHAPE | {"hidden_size": 64}}  # bitsandbytes keeps small matrices in 32 bits


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_training_learns_a_policy_that_acts(data: Path, tmp_path: Path) -> None:
    options = {"steps": 300, "batch_size": 32, "augment": "null", "label_sigma": 3.0, "ordinal_tokens": "true"}
    options |= {"optimizer": "muon", "final_learning_rate": 2e-5, "model.shape": SHAPE | {"layers": 1}}
    trainer = train_toy(tmp_path, data, **options)
    metrics = trainer.validate()
    assert metrics.l1[0] < 0.005 and metrics.l1[6] < 0.1, metrics
    policy = load_policy(tmp_path / "checkpoint", vocabulary="actions")
    bright = Observation(image=np.full((28, 28, 3), 230, np.uint8), stamp=0.0)
    push, pull = (policy.predict(bright, f"{verb} the box").actions[0] for verb in ("push", "pull"))
    assert push[0] == pytest.approx(0.045, abs=0.012) and pull[0] == pytest.approx(-0.045, abs=0.012)
    assert load_folder(tmp_path / "checkpoint").statistics["toy"].num_transitions == len(trainer.source.frames)


def test_stopped_run_resumes_exactly(data: Path, tmp_path: Path) -> None:
    options = {"steps": 12, "optimizer": "muon", "final_learning_rate": 2e-5, "save_every": 4}
    whole = train_toy(tmp_path / "whole", data, **options)
    halves = Trainer(toy_config(tmp_path / "halves", data, **options))
    for _ in range(7):  # two steps beyond the state saved at step 5, which are lost
        if halves.step == 5:
            halves.save_state()
        halves.next_step()
    resumed = train_toy(tmp_path / "halves", data, **options)
    assert resumed.step == 12
    assert_same_weights(whole.model, resumed.model)


def test_run_does_not_resume_with_other_batches(data: Path, tmp_path: Path) -> None:
    train_toy(tmp_path, data, steps=2)
    with pytest.raises(ValueError, match="belongs to a run on other samples .*batch_size 8.*batch_size 4"):
        train_toy(tmp_path, data, steps=4, batch_size=4)


def test_batch_larger_than_the_dataset_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data.batch_size: 5000 is more than the"):
        train_toy(tmp_path, data, batch_size=5000)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory, base: Path) -> dict[str, object]:
    """Options of a run on two streamed datasets."""
    folder = tmp_path_factory.mktemp("mixture")
    (folder / "two.yaml").write_text("datasets: {bridge_orig: 1.0, viola: 2.0}\n")
    for name in ("bridge_orig", "viola"):
        write_synthetic(folder / "openx", name, episodes=12, val_episodes=2)
    return {
        "mixture": folder / "two.yaml", "data_dir": folder / "openx", "checkpoint": base, "lanes": 2,
        "shuffle_mib": 1, "augment": "null",
    }  # fmt: skip


def test_streamed_run_resumes_at_the_exact_sample(mixture: dict[str, object], tmp_path: Path) -> None:
    whole = Trainer(toy_config(tmp_path / "whole", **mixture))
    whole.run()
    parts = Trainer(toy_config(tmp_path / "parts", **mixture))
    for _ in range(3):
        parts.next_step()
    parts.save_state()
    parts.next_step()  # lost
    parts.source.close()
    resumed = Trainer(toy_config(tmp_path / "parts", **mixture))
    folder = resumed.run()
    assert len(whole.losses) == 8 and resumed.losses == whole.losses
    assert {"bridge_orig", "viola"} <= set(load_folder(folder).statistics)
    with pytest.raises(ValueError, match="has batch_size 8, this one 4"):
        Trainer(toy_config(tmp_path / "parts", **mixture, batch_size=4))


def test_epochs_are_counted_in_steps_of_the_data(mixture: dict[str, object], tmp_path: Path) -> None:
    trainer = Trainer(toy_config(tmp_path, **mixture, epochs=0.5))
    assert trainer.config.schedule.steps == round(0.5 * trainer.source.steps_per_epoch) > 1
    trainer.source.close()


def test_ctrl_c_completes_the_step_and_saves_it(data: Path, tmp_path: Path, caplog) -> None:
    # The signal arrives within the fifth step: a state of half a step would not resume like the whole run.
    caplog.set_level("INFO", logger="openvla_training")
    whole = train_toy(tmp_path / "whole", data)
    before = signal.getsignal(signal.SIGINT)
    stopped = Trainer(toy_config(tmp_path / "parts", data))
    forward = stopped.train_step.forward

    def interrupted(batch):
        if stopped.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(batch)

    stopped.train_step.forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert signal.getsignal(signal.SIGINT) is before and "stopped at step 5; the same command resumes it" in caplog.text
    assert [state.facts["step"] for state in states(tmp_path / "parts" / "states")] == [5]
    resumed = train_toy(tmp_path / "parts", data)
    assert resumed.losses == whole.losses and resumed.accuracies == whole.accuracies


def test_second_ctrl_c_ends_a_single_process() -> None:
    with Interruption(several=False) as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_second_ctrl_c_is_ignored_in_one_of_several_processes() -> None:
    with Interruption(several=True) as interruption:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
    assert interruption.requested


def test_training_ends_above_the_configured_accuracy(data: Path, tmp_path: Path) -> None:
    whole = train_toy(tmp_path / "whole", data, validate_every=2)
    means = [sum(whole.accuracies[end - 2 : end]) / 2 for end in (2, 4, 6)]
    first = means.index(max(means))
    assert max(means) > 0
    below = max(means[:first], default=0.0)
    asked = (below + max(means)) / 2
    stopped = train_toy(tmp_path / "stopped", data, validate_every=2, stop_at_accuracy=asked)
    assert stopped.step == 2 * (first + 1)


def test_state_saved_again_replaces_that_of_the_same_step(data: Path, tmp_path: Path) -> None:
    trainer = train_toy(tmp_path, data, steps=2, keep_last=1)
    (tmp_path / "states" / "step-2" / "__0_0.distcp").write_bytes(b"damaged")
    trainer.save_state(trainer.validate())
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["step-2"]
    assert train_toy(tmp_path, data, steps=2).losses == trainer.losses


def test_8_bit_optimizer_states_are_resumed(data: Path, tmp_path: Path) -> None:
    plain = train_toy(tmp_path / "plain", data, steps=6, **LARGE)
    whole = train_toy(tmp_path / "whole", data, optimizer="adamw8bit", steps=6, **LARGE)
    assert whole.losses[-1] == pytest.approx(plain.losses[-1], rel=0.1) and whole.losses != plain.losses
    train_toy(tmp_path / "parts", data, optimizer="adamw8bit", steps=3, **LARGE)
    assert train_toy(tmp_path / "parts", data, optimizer="adamw8bit", steps=6, **LARGE).losses == whole.losses


@pytest.mark.slow
def test_compiled_layers_learn_the_same(data: Path, tmp_path: Path) -> None:
    plain, compiled = (
        train_toy(tmp_path / flag, data, steps=3, compile=flag, activation_checkpointing="true")
        for flag in ("false", "true")
    )
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-4)


def test_last_states_and_the_best_are_kept(data: Path, tmp_path: Path) -> None:
    # A learning rate that grows far too high: the best state is an early one, and `best` is exported from it.
    rates = {"learning_rate": 3e-3, "final_learning_rate": 3.0, "steps": 16, "save_every": 2, "validate_every": 4}
    trainer = train_toy(tmp_path, data, **rates, keep_last=1, clip_norm=100)
    found = states(tmp_path / "states")
    best = max(found, key=lambda state: state.score)
    assert len(found) == 2 and found[-1].facts["step"] == 16 and best.facts["step"] < 16
    assert best.score[0] > found[-1].score[0]
    early, late = (load_folder(tmp_path / name).model.state_dict() for name in ("best", "checkpoint"))
    live = trainer.model.state_dict()
    name = "language_model.lm_head.weight"
    torch.testing.assert_close(late[name], live[name], atol=0.02, rtol=0.02)
    assert not torch.allclose(early[name], live[name], atol=0.02, rtol=0.02)
    assert json.loads((tmp_path / "best" / "training.json").read_text())["schedule"]["steps"] == 16


def test_damaged_state_is_named_with_the_remedy(data: Path, tmp_path: Path) -> None:
    train_toy(tmp_path, data, steps=2)
    (shard,) = (tmp_path / "states" / "step-2").glob("*.distcp")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match="step-2: not a readable resume state.*remove it to resume from an earlier"):
        train_toy(tmp_path, data, steps=4)


def test_curves_and_plots_are_written(data: Path, tmp_path: Path, caplog) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    caplog.set_level("INFO", logger="openvla_training")
    train_toy(tmp_path, data, steps=4, report_every=2, validate_every=2)
    curves = EventAccumulator(str(tmp_path / "curves"))
    curves.Reload()
    tags = set(curves.Tags()["scalars"])
    for name in ("loss", "action_token_accuracy", "samples_per_s", "mfu", "learning_rate", "gradient_norm", "l1/x"):
        assert [event.step for event in curves.Scalars(f"train/{name}")] == [2, 4], name
    assert {"val/loss", "val/action_token_accuracy", "val/l1/gripper"} <= tags
    assert 0 < curves.Scalars("train/mfu")[-1].value < 1 and "a measured fp32 product" in caplog.text
    assert [event.step for event in curves.Images("val/actions")] == [2, 4]
    plot = cv2.imread(str(tmp_path / "validation" / "step-4.png"))
    assert plot.shape == (480, 1440, 3) and plot.std() > 20
    line = (
        r"step 2/4  loss [\d.]+  accuracy [\d.]+  L1 [\d.]+ mm [\d.]+ rad grip [\d.]+  \S+ samples/s  MFU .*%  ETA \d"
    )
    assert re.search(line, caplog.text), caplog.text


def test_missing_weights_and_biases_is_named(data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("openvla_training.trainer.progress.reporting.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="output.wandb: 'robots' needs the package wandb: pip install wandb"):
        train_toy(tmp_path, data, wandb="robots", steps=2)


def test_only_the_configured_demonstrations_are_used(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(toy_config(tmp_path, data, sentences="pull", demonstrations=4))
    frames = trainer.source.frames
    assert len(frames.trajectories()) == 4 and len(frames) == 32
    assert {frames.instructions[number] for number in frames.instruction} == {"pull the box"}
    assert trainer.next_step().loss > 0
    for batch in trainer.source.validation():
        assert (batch.actions[:, 0] <= 0).all()


def test_batch_with_a_loss_that_is_not_finite_is_saved(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(toy_config(tmp_path, data))
    with torch.no_grad():
        trainer.model.projector.fc1.weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="loss is nan at step 0; the batch is in .*bad_batch_0_0.pt"):
        trainer.next_step()
    saved = torch.load(tmp_path / "bad_batch_0_0.pt", weights_only=False)
    assert saved.images.shape == (8, 28, 28, 3)


def test_gradient_that_is_not_finite_changes_nothing(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(toy_config(tmp_path, data))
    weight = trainer.model.projector.fc1.weight
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    with pytest.raises(
        FloatingPointError, match="norm of the gradient is (nan|inf) at step 0, loss .*bad_batch_0_0.pt"
    ):
        trainer.next_step()
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


def test_actions_that_are_not_finite_have_no_statistics(data: Path, tmp_path: Path) -> None:
    done = train_toy(tmp_path, data, steps=1)
    (cached,) = [path for path in (tmp_path / "frames").iterdir() if split_of(path) == "train"]
    actions = done.source.frames.actions.copy()
    actions[9, 2] = float("inf")
    with (cached / "actions.npy").open("wb") as file:
        np.save(file, actions)
    with pytest.raises(
        ValueError, match="cannot compute statistics, since episode 1 of `train` has an action that is not"
    ):
        train_toy(tmp_path, data, steps=2)


def split_of(cache: Path) -> str:
    return json.loads((cache / "done.json").read_text())["split"]


def test_tokenizer_of_another_model_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    checkpoint = load_folder(base)
    smaller = replace(checkpoint.config, text=replace(checkpoint.config.text, vocab_size=600), pad_token_id=536)
    checkpoint.config = smaller
    model = type(checkpoint.model)(smaller)
    checkpoint.model = model
    save_folder(tmp_path / "mixed", checkpoint)
    with pytest.raises(ValueError, match="the tokenizer has .* tokens; the model has 600.*They do not belong together"):
        train_toy(tmp_path / "run", data, checkpoint=tmp_path / "mixed")


def test_run_starts_from_a_checkpoint_in_prismatics_layout(data: Path, tmp_path: Path, monkeypatch) -> None:
    # As config/training/full.yaml does; a small network replaces the one that config.json names.
    train_toy(tmp_path / "base", data, steps=1, **LARGE)
    base = tmp_path / "base" / "checkpoint"
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
    trainer = train_toy(tmp_path / "run", data, checkpoint=folder, steps=2)
    again = train_toy(tmp_path / "folder", data, checkpoint=base, steps=2)
    assert trainer.losses == pytest.approx(again.losses, rel=1e-3)  # a folder's image means are rounded to bf16
    assert load_folder(tmp_path / "run" / "checkpoint").statistics["toy"].num_transitions > 0
    with pytest.raises(ValueError, match="is a Prismatic run directory, into which no adapter can be merged"):
        train_toy(tmp_path / "lora", data, checkpoint=folder, strategy="lora")
