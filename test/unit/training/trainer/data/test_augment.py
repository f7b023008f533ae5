"""Image augmentation against the reference's (TensorFlow's operations, in test/fixtures/augment)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from openvla_training.trainer.config import AugmentConfig
from openvla_training.trainer.data.augment import (
    Augment,
    Augmentation,
    adjust_contrast,
    adjust_hue_saturation,
    augment_image,
)


def test_colour_operations_equal_the_reference(fixtures: Path) -> None:
    image = np.asarray(Image.open(fixtures / "parity" / "images" / "small_128x96.png").convert("RGB"))
    x = image.astype(np.float32) / 255
    with np.load(fixtures / "augment" / "colour.npz") as expected:
        for key in expected.files:
            name, value = key.split("|")
            amount = float(value)
            ours = {
                "brightness": lambda v=amount: x + v,
                "contrast": lambda v=amount: adjust_contrast(x.copy(), v),
                "saturation": lambda v=amount: adjust_hue_saturation(x, 0.0, v),
                "hue": lambda v=amount: adjust_hue_saturation(x, v, 1.0),
            }[name]()
            # The fixture is kept in half precision, clipped.
            difference = np.abs(ours.clip(0, 1) - expected[key].astype(np.float32))
            assert difference.max() < 3e-4, key


def test_whole_augmentation_equals_the_reference(fixtures: Path) -> None:
    with np.load(fixtures / "augment" / "chain.npz") as file:
        given = dict(file)
    for index, (image, wanted) in enumerate(zip(given["images"], given["out"], strict=True)):
        names = ("area", "brightness", "contrast", "saturation", "hue")
        values = {name: float(given[name][index]) for name in names}
        ours = augment_image(image, Augmentation(place=tuple(given["offset"][index].tolist()), **values))
        difference = np.abs(ours.astype(int) - wanted)
        assert difference.max() <= 1 and (difference > 0).mean() < 2e-3, index


def test_default_augmentation_is_the_identity() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert (augment_image(image, Augmentation()) == image).all()


def test_augmentation_depends_only_on_its_generator() -> None:
    images = torch.randint(0, 256, (3, 20, 20, 3), dtype=torch.uint8)

    def augmented(seed: int) -> torch.Tensor:
        return Augment(AugmentConfig(), torch.Generator().manual_seed(seed))(images)

    assert torch.equal(augmented(1), augmented(1))
    assert not torch.equal(augmented(1), augmented(2))


def test_operations_can_be_switched_off() -> None:
    images = torch.randint(0, 256, (3, 20, 20, 3), dtype=torch.uint8)
    nothing = AugmentConfig(crop_area=None, brightness=0.0, contrast=None, saturation=None, hue=0.0)
    assert torch.equal(Augment(nothing, torch.Generator())(images), images)


def test_augmentation_is_drawn_from_the_references_ranges() -> None:
    drawn = Augment(AugmentConfig(), torch.Generator().manual_seed(0)).draw(4000)
    assert {round(one.area, 6) for one in drawn} == {0.9}
    for values, low, high in (
        ([one.place[0] for one in drawn], 0, 1), ([one.place[1] for one in drawn], 0, 1),
        ([one.brightness for one in drawn], -0.2, 0.2), ([one.contrast for one in drawn], 0.8, 1.2),
        ([one.saturation for one in drawn], 0.8, 1.2), ([one.hue for one in drawn], -0.05, 0.05),
    ):  # fmt: skip
        assert low <= min(values) < low + 0.01 * (high - low) and high - 0.01 * (high - low) < max(values) <= high
        assert abs(np.mean(values) - (low + high) / 2) < 0.02 * (high - low)
