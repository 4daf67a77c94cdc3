"""Adversarial examples of a frozen classifier, crafted once and kept on disk."""

import dataclasses
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_trn.attacks import Attack
from keras_trn.classifier_interface import describe_classifier
from keras_trn.digests import digest_of_arrays
from keras_trn.digests import to_json
from keras_trn.evaluation.data import CheckedData
from keras_trn.evaluation.randomness import ROUNDING_OF_LOGITS
from keras_trn.evaluation.randomness import largest_distance
from keras_trn.evaluation.randomness import repeated_logits
from keras_trn.files import atomic_write
from keras_trn.files import write_text
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_whole_number
from keras_trn.logits import predicted_labels
from keras_trn.training import as_attack
from keras_trn.types import LabelledImages

_PERTURBATION_TYPE = np.float16
_CRAFTED_TOGETHER = 128
_FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "perturbation": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
    "epsilon": tf.io.FixedLenFeature([], tf.float32),
    "attack": tf.io.FixedLenFeature([], tf.int64),
    "predicted": tf.io.FixedLenFeature([], tf.int64),
}


def cache_adversarial_examples(
    classifier: keras.Model,
    dataset: LabelledImages,
    attack: Attack | Iterable[Attack],
    folder: str | Path,
    batch_size: int = 64,
    drop_remainder: bool = False,
    rounds: int = 1,
    shard_size: int = 1024,
    seed: int = 0,
    verbose: int = 1,
) -> tf.data.Dataset:
    """Crafts adversarial examples of a frozen classifier once, and trains from disk.

    The classifier does not change while a restorer is trained, and neither do its
    adversarial examples. They can be crafted before, and used in every epoch. They are kept
    in the folder in shards, of which few are in memory at a time. An interrupted run
    continues with the first missing shard, and ends with the same examples.

    In each round, the images are given to the attacks in turn. An attack whose epsilon is a
    range draws one for each image. All attacks start from the predicted labels.

    Args:
        classifier: A Keras model from images in [0, 1] to logits.
        dataset: Images and labels as in `keras_trn.evaluate`, in the same order each time.
        attack: One or several attacks.
        folder: Folder of the examples; it is made if it does not exist.
        batch_size: Number of images in a batch of the returned pipeline.
        drop_remainder: Whether to leave out a smaller last batch.
        rounds: Number of adversarial examples of each image. They differ in attack, epsilon
            and random start.
        shard_size: Number of images in a file.
        seed: Seed of the attacks and of the order of the pipeline.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        A `tf.data.Dataset` for `ProtectedClassifier.fit`, shuffled anew in every epoch. Its
        elements are pairs of a dictionary and int64 labels of shape `(batch,)`. The
        dictionary holds

        - `"images"`: the clean images, float32 of shape `(batch, height, width, channels)`;
        - `"adversarial"`: their adversarial examples, of the same shape;
        - `"epsilon"`: the epsilon of each, float32 of shape `(batch,)`;
        - `"attack"`: the index of the attack, int64 of shape `(batch,)`;
        - `"predicted"`: the class that the classifier predicts for the clean image, and that
          was attacked, int64 of shape `(batch,)`.

    Raises:
        ValueError: If the folder holds examples of another classifier, of other data or
            other settings; if the data are malformed or do not keep their order; or if an
            argument is malformed.
        TypeError: If the config of an attack lacks some of its settings.

    Example:
        ```python
        attack = keras_trn.attacks.FastGradientMethod(epsilon=(0.0, 0.2))
        examples = keras_trn.cache_adversarial_examples(
            classifier, (images, labels), attack, "folder", verbose=0
        )
        inputs, labels = next(iter(examples))
        assert inputs["adversarial"].shape == (8, 8, 8, 1)
        ```
    """
    batch_size = check_count("batch_size", batch_size)
    rounds = check_count("rounds", rounds)
    shard_size = check_count("shard_size", shard_size)
    seed = check_whole_number("seed", seed, 0, np.iinfo(np.int32).max)
    attacks = _single_attacks(as_attack(attack))
    for single in attacks:
        # Raises `TypeError` if `get_config` lacks settings that the examples depend on.
        single.with_seed(single.seed)
    cache = _Cache(classifier, attacks, Path(folder), rounds, shard_size, seed)
    cache.craft_missing(dataset, verbose)
    if cache.is_random:
        warnings.warn(
            "The classifier answers one image at random. The folder identifies it by its weights "
            "alone, and keeps the examples of its first run.",
            UserWarning,
            stacklevel=2,
        )
    return cache.make_pipeline(batch_size, drop_remainder)


def _single_attacks(attack: Attack) -> list[Attack]:
    """Returns the attacks of a mixture, which may hold mixtures; or the single attack."""
    parts = getattr(attack, "attacks", None)
    return [attack] if parts is None else [one for part in parts for one in _single_attacks(part)]


@dataclasses.dataclass
class _Cache:
    """Crafts the files of a folder, and reads them."""

    classifier: keras.Model
    attacks: list[Attack]
    folder: Path
    rounds: int
    shard_size: int
    seed: int
    is_random: bool = False
    examples: int = 0
    paths: list[str] = dataclasses.field(default_factory=list)

    # --- Crafting --------------------------------------------------------------

    def craft_missing(self, dataset: LabelledImages, verbose: int) -> None:
        """Crafts the shards that the folder does not hold yet."""
        data = CheckedData(dataset, *describe_classifier(self.classifier))
        # All images of a file have one size, even if the classifier takes any.
        self.image_shape = data.image_shape
        self.folder.mkdir(parents=True, exist_ok=True)
        with tqdm(unit="example", disable=not verbose) as progress:
            for shard, (images, labels) in enumerate(data.in_groups(self.shard_size)):
                if shard == 0:
                    # Data that do not keep their order have been refused by now.
                    self._check_settings()
                for round_ in range(self.rounds):
                    self._craft_if_missing(shard, round_, images, labels)
                    progress.update(len(images))

    def _check_settings(self) -> None:
        """Compares the settings with those in the folder, or writes them into a new folder."""
        settings = self._settings()
        path = self.folder / "settings.json"
        if not path.exists():
            write_text(path, json.dumps(settings, indent=1))
        before = json.loads(path.read_text(encoding="utf-8"))
        if any(isinstance(attack, str) for attack in before.get("attacks", [])):
            raise ValueError(
                f"{str(self.folder)!r} holds adversarial examples of an older version of "
                "keras_trn, whose settings cannot be compared with these. Take another folder, "
                "or delete this one."
            )
        for name, value in settings.items():
            if not _is_same(name, was := before.get(name), value):
                raise ValueError(
                    f"{str(self.folder)!r} holds adversarial examples of other settings: "
                    f"{name} was {was!r} and is now {value!r}. Take another folder, or delete "
                    "this one."
                )

    def _settings(self) -> dict[str, Any]:
        """Returns all that the examples depend on, except for the data, as JSON holds it."""
        settings = {
            "classifier": _short_digest(*self.classifier.get_weights()),
            "answers": self._logits_of_grey(),
            "attacks": [keras.saving.serialize_keras_object(attack) for attack in self.attacks],
            "rounds": self.rounds,
            "shard_size": self.shard_size,
            "seed": self.seed,
            "features": sorted(_FEATURES),
        }
        return json.loads(to_json(settings))

    def _logits_of_grey(self) -> list[float] | None:
        """Returns logits by which classifiers of the same weights differ; `None` if random."""
        grey = tf.fill([1, *self.image_shape], 0.5)
        first, second = repeated_logits(self.classifier, grey, runs=2)
        self.is_random = largest_distance([first, second]) > ROUNDING_OF_LOGITS
        return None if self.is_random else first.ravel().tolist()

    def _craft_if_missing(
        self, shard: int, round_: int, images: np.ndarray, labels: np.ndarray
    ) -> None:
        name = f"round-{round_}-shard-{shard:05d}"
        path = self.folder / f"{name}-{_short_digest(images, labels)}.tfrecord"
        others = set(self.folder.glob(f"{name}-*.tfrecord")) - {path}
        if others:
            raise ValueError(
                f"{str(self.folder)!r} holds adversarial examples of other images: "
                f"{min(others).name} is not of the images {shard * self.shard_size} to "
                f"{shard * self.shard_size + len(images) - 1} of this dataset. Take another "
                "folder, or delete this one."
            )
        if not path.exists():
            crafted = self._craft(shard, round_, images)
            with atomic_write(path) as temporary:
                _write_examples(temporary, {"image": images, "label": labels, **crafted})
        self.paths.append(str(path))
        self.examples += len(images)

    def _craft(self, shard: int, round_: int, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the adversarial examples of a shard, and how they were crafted."""
        # Each shard has a seed, so an interrupted run gives the same examples.
        generator = np.random.default_rng([self.seed, round_, shard])
        turns = (np.arange(len(images)) + round_) % len(self.attacks)
        adversarial, epsilons = np.copy(images), np.zeros(len(images), "float32")
        predicted = np.zeros(len(images), "int64")
        for turn, attack in enumerate(self.attacks):
            (rows,) = np.nonzero(turns == turn)
            for start in range(0, len(rows), _CRAFTED_TOGETHER):
                part = rows[start : start + _CRAFTED_TOGETHER]
                seed = int(generator.integers(np.iinfo(np.int32).max))
                epsilons[part] = attack.draw_epsilon(len(part), [seed, 1])
                predicted[part] = predicted_labels(self.classifier, images[part])
                adversarial[part] = attack(
                    self.classifier,
                    images[part],
                    predicted[part],
                    epsilon=epsilons[part],
                    seed=seed,
                )
        # Perturbations are small: float16 keeps them to a thousandth of their size.
        perturbations = (adversarial - images).astype(_PERTURBATION_TYPE)
        crafted = {"perturbation": perturbations, "epsilon": epsilons}
        return {**crafted, "attack": turns, "predicted": predicted}

    # --- Reading ---------------------------------------------------------------

    def make_pipeline(self, batch_size: int, drop_remainder: bool) -> tf.data.Dataset:
        """Returns the pipeline of all examples, shuffled anew whenever it is run through."""
        files = tf.data.Dataset.from_tensor_slices(self.paths)
        files = files.shuffle(len(self.paths), seed=self.seed)
        examples = files.interleave(
            tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=tf.data.AUTOTUNE
        )
        shuffled = examples.shuffle(2 * self.shard_size, seed=self.seed)
        batches = shuffled.batch(batch_size, drop_remainder)
        number = self.examples // batch_size
        number += self.examples % batch_size > 0 and not drop_remainder
        known = tf.data.experimental.assert_cardinality(number)
        return batches.map(self._parse, tf.data.AUTOTUNE).apply(known).prefetch(2)

    def _parse(self, examples: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        parsed = tf.io.parse_example(examples, _FEATURES)
        shape = [-1, *self.image_shape]
        images = tf.reshape(tf.io.decode_raw(parsed["image"], tf.float32), shape)
        perturbation = tf.reshape(
            tf.io.decode_raw(parsed["perturbation"], _PERTURBATION_TYPE), shape
        )
        adversarial = tf.clip_by_value(images + tf.cast(perturbation, tf.float32), 0.0, 1.0)
        crafting = {name: parsed[name] for name in ("epsilon", "attack", "predicted")}
        return {"images": images, "adversarial": adversarial, **crafting}, parsed["label"]


def _write_examples(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Writes a file of TFRecords, an example for each row of the columns."""
    with tf.io.TFRecordWriter(str(path)) as writer:
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


def _is_same(name: str, before: Any, now: Any) -> bool:
    if name == "answers":
        # A random classifier is only known by its weights, and other machines round otherwise.
        return None in (before, now) or (
            len(before) == len(now) and np.allclose(before, now, rtol=1e-3, atol=1e-3)
        )
    return before == now


def _short_digest(*arrays: np.ndarray) -> str:
    return digest_of_arrays(*arrays)[:12]
