"""The network: pixel values, features, logits, loss, gradients, merged adapters."""

from __future__ import annotations

import json

import numpy as np
import torch

from openvla_policy.checkpoint.folder import load_folder
from openvla_policy.runtime.load import load_policy


def pixels(policy, images, name):
    return policy.preparation(images[name])[None]


def test_pixel_values(policy, images, reference):
    expected = np.load(reference / "fused_tiny/expected/pixel_values.npz")
    assert expected.files
    for name in expected.files:
        np.testing.assert_allclose(policy.preparation(images[name]).numpy(), expected[name], rtol=0, atol=1e-6)


@torch.inference_mode()
def test_features_and_all_logits_of_one_run(policy, images, runs, reference):
    expected = np.load(reference / "fused_tiny/expected/full_run00.npz")
    model, run = policy.checkpoint.model, runs[0]
    image = pixels(policy, images, run["image"])
    features = model.vision_backbone(image)
    np.testing.assert_allclose(features[0].numpy(), expected["patch_features"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(model.projector(features)[0].numpy(), expected["projected"], rtol=0, atol=1e-4)
    logits = model(torch.tensor([run["input_ids_used"]]), image).logits[0]
    assert len(logits) == run["sequence_length_with_patches"]
    assert (logits.argmax(-1).numpy() == expected["argmax_all_positions"]).all()
    close = dict(rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits.logsumexp(-1).numpy(), expected["logsumexp_all_positions"], **close)
    columns = logits[:, expected["columns"]].numpy()
    np.testing.assert_allclose(columns, expected["logits_columns_all_positions"], **close)
    text = torch.cat([logits[:1], logits[1 + 256 :]])[:, expected["text_columns"]].numpy()
    np.testing.assert_allclose(text, expected["logits_text_positions"], **close)


@torch.inference_mode()
def test_last_logits_of_every_run(policy, images, runs, reference):
    expected = np.load(reference / "fused_tiny/expected/last_logits.npz")
    for run, wanted in zip(runs, expected["runs"], strict=True):
        ids = torch.tensor([run["input_ids_used"]])
        logits = policy.checkpoint.model(ids, pixels(policy, images, run["image"])).logits[0, -1]
        np.testing.assert_allclose(logits[expected["columns"]].numpy(), wanted, rtol=0, atol=1e-4)


def test_training_batch_loss_and_gradients(reference, images):
    model = load_folder(reference / "fused_tiny/checkpoint")
    batch = np.load(reference / "fused_tiny/expected/train_batch.npz")
    expected = json.loads((reference / "fused_tiny/expected/train_batch.json").read_text())
    image = torch.stack([model.preparation(images[name]) for name in expected["images"]])
    names = ("input_ids", "attention_mask", "labels")
    ids, mask, labels = (torch.from_numpy(batch[name]) for name in names)
    network = model.model.train()
    output = network(ids, image, mask, labels)
    assert abs(output.loss.item() - expected["loss"]) < 1e-4
    tokens = model.action_tokenizer
    is_action = tokens.is_action(output.label_targets.numpy())
    assert is_action.sum() == 4 * 7
    guesses = output.label_logits.argmax(-1).numpy()[is_action]
    truth = output.label_targets.numpy()[is_action]
    assert (guesses == truth).mean() == expected["action_accuracy"]
    l1 = np.abs(tokens.decode(guesses) - tokens.decode(truth)).mean()
    assert abs(l1 - expected["l1_loss"]) < 1e-6

    output.loss.backward()
    norms = {name: None if p.grad is None else p.grad.norm().item() for name, p in network.named_parameters()}
    assert norms.keys() == expected["grad_norms"].keys()
    for name, wanted in expected["grad_norms"].items():
        if wanted is None:
            assert norms[name] is None, name
        else:
            assert abs(norms[name] - wanted) <= 1e-4 * max(wanted, 1e-3), name
    rows = batch["fc1_grad"]
    np.testing.assert_allclose(network.projector.fc1.weight.grad[: len(rows)].numpy(), rows, rtol=0, atol=1e-4)


def test_labels_do_not_need_all_logits(policy, images, reference):
    batch = np.load(reference / "fused_tiny/expected/train_batch.npz")
    ids, labels = torch.from_numpy(batch["input_ids"][:1]), torch.from_numpy(batch["labels"][:1])
    image = pixels(policy, images, "scene_640x480")
    with torch.inference_mode():
        lean = policy.checkpoint.model(ids, image, labels=labels)
        whole = policy.checkpoint.model(ids, image, labels=labels, all_logits=True)
    assert lean.logits is None and lean.label_logits.shape[0] == 8
    at = (labels[0, 1:] != -100).nonzero()[:, 0] + 256
    torch.testing.assert_close(whole.logits[0, at], lean.label_logits, rtol=0, atol=1e-5)


def test_unmerged_adapter_is_merged_on_load(reference, images, runs):
    policy = load_policy(
        reference / "fused_tiny/lora_adapter",
        base=reference / "fused_tiny/checkpoint",
        unnorm_key="fake_bridge",
        device="cpu",
    )
    expected = json.loads((reference / "fused_tiny/expected/lora.json").read_text())
    logits_of = np.load(reference / "fused_tiny/expected/last_logits.npz")
    for case, wanted in zip(expected["runs"], logits_of["lora"], strict=True):
        run = runs[case["run"]]
        image = pixels(policy, images, run["image"])
        with torch.inference_mode():
            logits = policy.checkpoint.model(torch.tensor([run["input_ids_used"]]), image).logits[0, -1]
        np.testing.assert_allclose(logits[logits_of["columns"]].numpy(), wanted, rtol=0, atol=1e-4)
        generated = policy.runtime.generate([run["input_ids_used"]], image).ids[0].tolist()
        assert generated == case["generated_ids_merged"] != case["generated_ids_base"]
