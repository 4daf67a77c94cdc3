"""The files of cached adversarial examples: TFRecords whose names hold digests of their content."""

from collections import defaultdict

import numpy as np
import tensorflow as tf

from keras_trn.digests import digest_of_file
from keras_trn.files import unfinished_file
from keras_trn.types import ImageShape

# Perturbations are small: this type keeps them to a thousandth of their size.
_PERTURBATION_TYPE = np.float16
FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "perturbation": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
    "epsilon": tf.io.FixedLenFeature([], tf.float32),
    "attack": tf.io.FixedLenFeature([], tf.int64),
    "predicted": tf.io.FixedLenFeature([], tf.int64),
}
_ENDING = ".tfrecord"
_DIGITS = 12


class ShardFolder:
    """Finds shards that an earlier run wrote.

    A shard is known by its place, such as `round-0-shard-00003`, and by a digest of all that it
    was crafted from, its origin.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._names = defaultdict[str, list[str]](list)
        self._damaged: dict[str, list[str]] = {}
        for name in sorted(tf.io.gfile.listdir(folder)):
            if name.endswith(_ENDING) and not name.startswith("."):
                place, _, _ = name.rpartition("-")[0].rpartition("-")
                self._names[place].append(name)

    def find(self, place: str, origin: str) -> str | None:
        """Returns the path of an undamaged shard; `None` if there is none.

        Raises:
            ValueError: If there is a shard of another origin at this place.
        """
        for name in self._names[place]:
            if not name.startswith(f"{place}-{origin}-"):
                raise ValueError(
                    f"{self.folder!r} holds adversarial examples of other images or settings: "
                    f"{name}. Take another folder, or delete this one."
                )
        self._damaged[place] = [
            name for name in self._names[place] if not is_intact(self._path(name))
        ]
        intact = [name for name in self._names[place] if name not in self._damaged[place]]
        return self._path(intact[0]) if intact else None

    def remove_damaged(self, place: str) -> list[str]:
        """Removes what was damaged at a place, which was crafted again; returns the names."""
        for name in self._damaged[place]:
            # The new shard has the name of the damaged one if their contents were the same.
            if not is_intact(self._path(name)):
                tf.io.gfile.remove(self._path(name))
        return self._damaged[place]

    def _path(self, name: str) -> str:
        return tf.io.gfile.join(self.folder, name)


def is_intact(path: str) -> bool:
    """Tells whether a shard holds what was written into it."""
    return path.endswith(f"-{_short_digest(path)}{_ENDING}")


def _short_digest(path: str) -> str:
    return digest_of_file(path)[:_DIGITS]


def write_shard(
    folder: str, place: str, origin: str, adversarial: np.ndarray, columns: dict[str, np.ndarray]
) -> str:
    """Writes a shard, an example for each row of the columns; returns its path."""
    start = tf.io.gfile.join(folder, f"{place}-{origin}")
    perturbations = (adversarial - columns["image"]).astype(_PERTURBATION_TYPE)
    with unfinished_file(start + _ENDING) as temporary:
        _write_examples(temporary, {"perturbation": perturbations, **columns})
        path = f"{start}-{_short_digest(temporary)}{_ENDING}"
        tf.io.gfile.rename(temporary, path, overwrite=True)
    return path


def _write_examples(path: str, columns: dict[str, np.ndarray]) -> None:
    with tf.io.TFRecordWriter(path) as writer:
        for row in range(len(columns["label"])):
            example = tf.train.Example()
            for name, column in columns.items():
                feature, value = example.features.feature[name], column[row]
                if column.ndim > 1:
                    feature.bytes_list.value.append(value.tobytes())
                elif column.dtype == np.float32:
                    feature.float_list.value.append(value)
                else:
                    feature.int64_list.value.append(int(value))
            writer.write(example.SerializeToString(deterministic=True))


def parse_examples(
    examples: tf.Tensor, image_shape: ImageShape
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Parses a batch of examples to the elements of `cache_adversarial_examples`."""
    parsed = tf.io.parse_example(examples, FEATURES)
    images = _decode(parsed["image"], tf.float32, image_shape)
    perturbation = _decode(parsed["perturbation"], _PERTURBATION_TYPE, image_shape)
    adversarial = tf.clip_by_value(images + tf.cast(perturbation, tf.float32), 0.0, 1.0)
    crafting = {name: parsed[name] for name in ("epsilon", "attack", "predicted")}
    return {"images": images, "adversarial": adversarial, **crafting}, parsed["label"]


def _decode(values: tf.Tensor, dtype: tf.DType, image_shape: ImageShape) -> tf.Tensor:
    # Without this, a batch of small images could pass as fewer large ones.
    size = tf.TensorShape(image_shape).num_elements()
    pixels = tf.ensure_shape(tf.io.decode_raw(values, dtype), [None, size])
    return tf.reshape(pixels, [-1, *image_shape])
