"""The work of bench_loader.py as a plain tf.data pipeline, for any Python with TensorFlow.

python tf_pipeline.py DATA_DIR SECONDS BATCH
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def run(root: Path, seconds: float, size: int) -> dict:
    """Interleave shards, flatten episodes, shuffle, decode, resize, augment and batch; return the time taken."""
    import tensorflow as tf

    def steps(record, camera, action):
        parsed = tf.io.parse_single_example(
            record,
            {
                f"steps/observation/{camera}": tf.io.RaggedFeature(tf.string),
                f"steps/{action}": tf.io.RaggedFeature(tf.float32),
            },
        )
        images = parsed[f"steps/observation/{camera}"]
        return tf.data.Dataset.from_tensor_slices(images)

    def prepare(data):
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        image = tf.image.resize(image, (224, 224), method="lanczos3", antialias=True)
        image = tf.clip_by_value(image, 0, 255) / 255
        seed = tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
        offset = tf.random.uniform([2], 0, 1 - 0.9**0.5)
        box = tf.concat([offset, offset + 0.9**0.5], 0)
        image = tf.image.crop_and_resize(image[None], box[None], [0], (224, 224))[0]
        image = tf.clip_by_value(tf.image.stateless_random_brightness(image, 0.2, seed), 0, 1)
        image = tf.clip_by_value(tf.image.stateless_random_contrast(image, 0.8, 1.2, seed), 0, 1)
        image = tf.clip_by_value(tf.image.stateless_random_saturation(image, 0.8, 1.2, seed), 0, 1)
        image = tf.clip_by_value(tf.image.stateless_random_hue(image, 0.05, seed), 0, 1)
        return tf.cast(image * 255, tf.uint8)

    parts = []
    for name, camera, action in (
        ("bridge_orig", "image_0", "action"),
        ("viola", "agentview_rgb", "action/world_vector"),
        ("droid", "exterior_image_1_left", "action"),
    ):
        files = sorted(str(path) for path in (root / name).glob("*/*tfrecord*"))
        records = tf.data.TFRecordDataset(files).shuffle(100).repeat()
        parts.append(records.flat_map(lambda r, c=camera, a=action: steps(r, c, a)))
    mixed = tf.data.Dataset.sample_from_datasets(parts, [0.4, 0.4, 0.2]).shuffle(1000)
    batches = mixed.map(prepare, num_parallel_calls=2).batch(size).prefetch(2).as_numpy_iterator()
    for _ in range(8):
        next(batches)
    count, begin, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < seconds:
        next(batches)
        count += size
    return {"images": count, "wall": time.perf_counter() - begin, "cpu": time.process_time() - cpu, "memory": []}


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))))
