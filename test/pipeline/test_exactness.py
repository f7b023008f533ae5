"""Demonstration -> bag -> RLDS -> training sample equals the policy's input on the robot, bit by bit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from bag_factory import BagMaker, fill, random_demo

from openvla_policy.contract.camera import to_rgb
from openvla_policy.contract.image import ImagePreparation
from openvla_training.bags.cli import main as convert
from openvla_training.rlds.reader import read_episodes
from openvla_training.rlds.statistics import read_statistics
from openvla_training.trainer.data.frames import load_frames

# The paper's policy (DINOv2 and SigLIP at 224 px), and one that pads instead of stretching.
OPENVLA = ImagePreparation.standard(224, ["imagenet", "half"])
LETTERBOX = ImagePreparation(size=(96, 96), means=OPENVLA.means, stds=OPENVLA.stds, strategy="letterbox")


def record(folder: Path, compressed: bool) -> list:
    """Two demonstrations through a camera of 160 x 120; returns the camera's messages in order."""
    messages = []
    for seed in range(2):
        maker = BagMaker(folder / f"bag_{seed}")
        demo = random_demo(
            np.random.default_rng(seed), 5, start=10**18 + seed * 10**11, skip_topics=("camera/image_raw",)
        )
        fill(maker, demo)
        rng = np.random.default_rng(seed + 10)
        for stamp in demo.stamps:
            picture = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
            common = {"header": maker.header(stamp, "camera")}
            if compressed:
                data = np.frombuffer(cv2.imencode(".jpg", picture)[1].tobytes(), np.uint8)
                message = maker.make("sensor_msgs/msg/CompressedImage", format="jpeg", data=data, **common)
            else:
                rows = np.pad(picture.reshape(120, -1), ((0, 0), (0, 32)))  # drivers pad rows
                size = {"height": 120, "width": 160, "step": rows.shape[1]}
                kind = "sensor_msgs/msg/Image"
                message = maker.make(kind, encoding="bgr8", data=rows.reshape(-1), **size, **common)
            maker.put("camera/image_raw/compressed" if compressed else "camera/image_raw", stamp + 5, message)
            messages.append(message)
        maker.writer.close()
        folder.joinpath(f"actions_{seed}.npy").write_bytes(demo.actions.astype(np.float32).tobytes())
    return messages


@pytest.mark.parametrize(
    ("compressed", "preparation", "options"),
    [
        (False, OPENVLA, []),  # the defaults: PNG at the policy's size
        (True, OPENVLA, []),
        (False, LETTERBOX, ["--image-size", "camera"]),  # any other preparation: PNG at the camera's size
        (True, LETTERBOX, ["--image-size", "camera"]),
    ],
)
def test_training_sample_equals_policy_node_input(
    tmp_path: Path, compressed: bool, preparation: ImagePreparation, options: list[str]
) -> None:
    messages = record(tmp_path / "bags", compressed)
    command = [str(tmp_path / "bags"), "--output", str(tmp_path / "rlds"), "--dataset-name", "lab", "--rate", "5"]
    assert convert([*command, "--val-fraction", "0", "--workers", "1", "--no-report", *options]) == 0

    # As the node does: decode the message, then apply the policy's preparation.
    fed = [preparation.prepare([to_rgb(as_received(message))], "cpu")[0] for message in messages]
    frames = load_frames([str(tmp_path / "rlds")], "train", preparation, tmp_path / "cache")
    assert len(frames) == len(fed) == 10
    for index, pixels in enumerate(fed):
        np.testing.assert_array_equal(preparation.normalise(np.array(frames.images[index])).numpy(), pixels.numpy())
    actions = np.concatenate(
        [
            np.frombuffer((tmp_path / "bags" / f"actions_{n}.npy").read_bytes(), np.float32).reshape(-1, 7)
            for n in range(2)
        ]
    )
    np.testing.assert_array_equal(frames.actions, actions)
    assert {frames.instructions[index] for index in frames.instruction} == {"lift the red cube"}
    # The inverse: the target of training is, un-normalised, the action of the demonstration.
    statistics = read_statistics(tmp_path / "rlds").with_mask([True] * 6 + [False])
    wanted = np.clip(actions, statistics.action.q01, statistics.action.q99)
    wanted[:, 6] = actions[:, 6]
    np.testing.assert_allclose(statistics.unnormalise(statistics.normalise(actions)), wanted, atol=1e-6)


def test_jpeg_is_close_but_not_exact(tmp_path: Path) -> None:
    """Why JPEG is not the default."""
    record(tmp_path / "bags", False)
    made = {}
    for encoding in ("png", "jpeg"):
        command = [
            str(tmp_path / "bags"),
            "--output",
            str(tmp_path / "rlds"),
            "--dataset-name",
            encoding,
            "--no-report",
        ]
        assert convert([*command, "--image-encoding", encoding, "--val-fraction", "0", "--workers", "1"]) == 0
        made[encoding] = np.stack([image for e in read_episodes(tmp_path / "rlds", encoding) for image in e.images])
    difference = np.abs(made["png"].astype(int) - made["jpeg"])
    assert difference.max() > 0 and difference.mean() < 32


def as_received(message: object) -> SimpleNamespace:
    """A bag's message with the field types of rclpy: bytes-like data, Python numbers."""
    fields = {name: getattr(message, name) for name in message.__dataclass_fields__}  # type: ignore[attr-defined]
    return SimpleNamespace(**(fields | {"data": fields["data"].tobytes()}))
