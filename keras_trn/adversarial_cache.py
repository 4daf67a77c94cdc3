"""Adversarial examples of a frozen classifier, crafted once and kept on disk."""

import dataclasses
import functools
import json
import os
import warnings
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_trn.attacks import Attack
from keras_trn.classifier_interface import describe_classifier
from keras_trn.cluster import Cluster
from keras_trn.cluster import Job
from keras_trn.cluster import as_cluster
from keras_trn.cluster import map_jobs
from keras_trn.digests import digest_of_arrays
from keras_trn.digests import digest_of_json
from keras_trn.digests import to_json
from keras_trn.evaluation.data import CheckedData
from keras_trn.evaluation.randomness import ROUNDING_OF_LOGITS
from keras_trn.evaluation.randomness import largest_distance
from keras_trn.evaluation.randomness import repeated_logits
from keras_trn.files import write_text
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_whole_number
from keras_trn.logits import predicted_labels
from keras_trn.shards import FEATURES
from keras_trn.shards import ShardFolder
from keras_trn.shards import parse_examples
from keras_trn.shards import write_shard
from keras_trn.training import as_attack
from keras_trn.types import LabelledImages

_CRAFTED_TOGETHER = 128
# Counts up when folders of before can no longer be continued.
_FORMAT = 2


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
    cluster: Cluster | str | None = None,
) -> tf.data.Dataset:
    """Crafts adversarial examples of a frozen classifier once, and trains from disk.

    The classifier does not change while a restorer is trained, and neither do its
    adversarial examples. They can be crafted before, and used in every epoch. They are kept
    in the folder in shards, of which few are in memory at a time. An interrupted run
    continues with the missing shards, and ends with the same examples. The name of each
    shard holds a digest of its content, and a damaged one is crafted again.

    In each round, the images are given to the attacks in turn. An attack whose epsilon is a
    range draws one for each image. All attacks start from the predicted labels.

    Args:
        classifier: A Keras model from images in [0, 1] to logits.
        dataset: Images and labels as in `keras_trn.evaluate`, in the same order each time.
        attack: One or several attacks.
        folder: Folder of the examples; it is made if it does not exist. It can be on any
            file system that TensorFlow can write to, such as `"gs://bucket/folder"`.
        batch_size: Number of images in a batch of the returned pipeline.
        drop_remainder: Whether to leave out a smaller last batch.
        rounds: Number of adversarial examples of each image. They differ in attack, epsilon
            and random start.
        shard_size: Number of images in a file.
        seed: Seed of the attacks and of the order of the pipeline.
        verbose: 1 for a progress bar, 0 for none.
        cluster: `None` to craft in this process. `"auto"`, or a `keras_trn.Cluster`, for the
            workers of a Ray cluster, which craft a shard at a time, with the same examples.
            All its machines must reach the folder.

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
        OSError: If the folder cannot be written to, or the workers write to another one.

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
    workers = as_cluster(cluster)
    attacks = as_attack(attack).parts()
    for single in attacks:
        # Raises `TypeError` if `get_config` lacks settings that the examples depend on.
        single.with_seed(single.seed)
    folder = os.fsdecode(folder)
    if not folder:
        raise ValueError("folder must be the path of a folder, received ''.")
    cache = _Cache(classifier, attacks, folder, rounds, shard_size, seed)
    cache.craft_missing(dataset, workers, verbose)
    if cache.is_random:
        warnings.warn(
            "The classifier answers one image at random. The folder identifies it by its weights "
            "alone, and keeps the examples of its first run.",
            UserWarning,
            stacklevel=2,
        )
    return cache.make_pipeline(batch_size, drop_remainder)


@dataclasses.dataclass
class _Cache:
    """Sees to it that a folder holds all shards, and reads them."""

    classifier: keras.Model
    attacks: list[Attack]
    folder: str
    rounds: int
    shard_size: int
    seed: int
    is_random: bool = False
    examples: int = 0
    # By the number of the shard and the round.
    paths: dict[tuple[int, int], str] = dataclasses.field(default_factory=dict)

    # --- Crafting --------------------------------------------------------------

    def craft_missing(self, dataset: LabelledImages, cluster: Cluster | None, verbose: int) -> None:
        """Crafts the shards that the folder does not hold yet."""
        data = CheckedData(dataset, *describe_classifier(self.classifier))
        # All images of a file have one size, even if the classifier takes any.
        self.image_shape = data.image_shape
        _make_folder(self.folder)
        craft = _Crafting(self.classifier, self.attacks, self.folder, self.seed)
        with tqdm(unit="example", disable=not verbose) as progress:
            jobs = self._missing(data, progress)
            for (shard, round_, number), path in map_jobs(craft, jobs, cluster):
                self._add_crafted(shard, round_, path)
                progress.update(number)

    def _missing(self, data: CheckedData, progress: tqdm) -> Iterator[Job]:
        """Yields the shards that are to be crafted, and takes the others from the folder."""
        for shard, (images, labels) in enumerate(data.in_groups(self.shard_size)):
            if shard == 0:
                # Data that do not keep their order have been refused by now.
                settings = self._check_settings()
                self.found = ShardFolder(self.folder)
            origin = _short(digest_of_json([settings, digest_of_arrays(images, labels)]))
            for round_ in range(self.rounds):
                self.examples += len(images)
                path = self.found.find(_place(shard, round_), origin)
                if path is None:
                    arguments = (shard, round_, origin, images, labels)
                    yield Job((shard, round_, len(images)), arguments)
                else:
                    self.paths[shard, round_] = path
                    progress.update(len(images))

    def _add_crafted(self, shard: int, round_: int, path: str) -> None:
        if not tf.io.gfile.exists(path):
            raise OSError(
                f"A worker of the cluster has written {path!r}, which is not there for this "
                "process. Take a folder that all machines share, on a network drive or as "
                "'gs://bucket/folder'."
            )
        if damaged := self.found.remove_damaged(_place(shard, round_)):
            warnings.warn(
                f"{', '.join(damaged)} did not hold what was written, and was crafted again.",
                UserWarning,
                stacklevel=4,
            )
        self.paths[shard, round_] = path

    def _check_settings(self) -> dict[str, Any]:
        """Compares the settings with those in the folder, or writes them into a new folder.

        Returns the settings that are the same on each machine.
        """
        settings = self._settings()
        path = tf.io.gfile.join(self.folder, "settings.json")
        if not tf.io.gfile.exists(path):
            write_text(path, json.dumps(settings, indent=1))
        before = _read_settings(path)
        if before.get("format") != _FORMAT:
            raise ValueError(
                f"{self.folder!r} holds adversarial examples of another version of keras_trn, "
                "which this one cannot continue. Take another folder, or delete this one."
            )
        for name, value in settings.items():
            if not _is_same(name, was := before.get(name), value):
                raise ValueError(
                    f"{self.folder!r} holds adversarial examples of other settings: "
                    f"{name} was {was!r} and is now {value!r}. Take another folder, or delete "
                    "this one."
                )
        return {name: value for name, value in settings.items() if name != "answers"}

    def _settings(self) -> dict[str, Any]:
        """Returns all that the examples depend on, except for the data, as JSON holds it."""
        settings = {
            "format": _FORMAT,
            "classifier": _short(digest_of_arrays(*self.classifier.get_weights())),
            "answers": self._logits_of_grey(),
            "attacks": [keras.saving.serialize_keras_object(attack) for attack in self.attacks],
            "rounds": self.rounds,
            "shard_size": self.shard_size,
            "seed": self.seed,
            "features": sorted(FEATURES),
        }
        return json.loads(to_json(settings))

    def _logits_of_grey(self) -> list[float] | None:
        """Returns logits by which classifiers of the same weights differ; `None` if random."""
        grey = tf.fill([1, *self.image_shape], 0.5)
        first, second = repeated_logits(self.classifier, grey, runs=2)
        self.is_random = largest_distance([first, second]) > ROUNDING_OF_LOGITS
        return None if self.is_random else first.ravel().tolist()

    # --- Reading ---------------------------------------------------------------

    def make_pipeline(self, batch_size: int, drop_remainder: bool) -> tf.data.Dataset:
        """Returns the pipeline of all examples, shuffled anew whenever it is run through."""
        # In one order, whichever shard was finished first.
        paths = [self.paths[place] for place in sorted(self.paths)]
        files = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths), seed=self.seed)
        examples = files.interleave(
            tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=tf.data.AUTOTUNE
        )
        shuffled = examples.shuffle(2 * self.shard_size, seed=self.seed)
        batches = shuffled.batch(batch_size, drop_remainder)
        number = self.examples // batch_size
        number += self.examples % batch_size > 0 and not drop_remainder
        known = tf.data.experimental.assert_cardinality(number)
        parse = functools.partial(parse_examples, image_shape=self.image_shape)
        return batches.map(parse, tf.data.AUTOTUNE).apply(known).prefetch(2)


@dataclasses.dataclass
class _Crafting:
    """Crafts a shard and writes it; on a cluster, each worker has a copy."""

    classifier: keras.Model
    attacks: list[Attack]
    folder: str
    seed: int

    def __call__(
        self, shard: int, round_: int, origin: str, images: np.ndarray, labels: np.ndarray
    ) -> str:
        """Returns the path of the shard."""
        # Each shard has a seed, so it holds the same examples whoever crafts it, and when.
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
        columns = {"image": images, "label": labels, "epsilon": epsilons}
        columns = {**columns, "attack": turns, "predicted": predicted}
        return write_shard(self.folder, _place(shard, round_), origin, adversarial, columns)


def _make_folder(folder: str) -> None:
    try:
        tf.io.gfile.makedirs(folder)
    except tf.errors.OpError as error:
        raise OSError(f"The folder {folder!r} cannot be made: {error.message}") from error


def _read_settings(path: str) -> dict[str, Any]:
    try:
        with tf.io.gfile.GFile(path) as file:
            return dict(json.load(file))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path!r} does not hold the settings of a cache: {error}. Take another folder, or "
            "delete this one."
        ) from error


def _place(shard: int, round_: int) -> str:
    return f"round-{round_}-shard-{shard:05d}"


def _is_same(name: str, before: Any, now: Any) -> bool:
    if name == "answers":
        # A random classifier is only known by its weights, and other machines round otherwise.
        return None in (before, now) or (
            len(before) == len(now) and np.allclose(before, now, rtol=1e-3, atol=1e-3)
        )
    return before == now


def _short(digest: str) -> str:
    return digest[:12]
