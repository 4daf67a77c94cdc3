"""Adversarial examples of a frozen classifier, crafted once and kept on disk."""

import contextlib
import hashlib
import json
import os
import re
import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_trn.classifier_interface import describe_classifier
from keras_trn.evaluation.data import CheckedData
from keras_trn.evaluation.randomness import ROUNDING_OF_LOGITS
from keras_trn.evaluation.randomness import largest_distance
from keras_trn.evaluation.randomness import repeated_logits
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_whole_number
from keras_trn.logits import predicted_labels
from keras_trn.training import as_attack

_SETTINGS = "settings.json"
# Perturbations are small: float16 keeps them to a thousandth of their size.
_PERTURBATION_TYPE = np.float16
_CRAFTED_TOGETHER = 128
# How NumPy writes a number of its own, of which Python's equal is meant.
_NUMPY_NUMBER = re.compile(r"np\.(?:float|u?int)\d+\(([^()]*)\)")
_FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "perturbation": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
    "epsilon": tf.io.FixedLenFeature([], tf.float32),
    "attack": tf.io.FixedLenFeature([], tf.int64),
    "predicted": tf.io.FixedLenFeature([], tf.int64),
}


def cache_adversarial_examples(
    classifier,
    dataset,
    attack,
    folder,
    batch_size=64,
    drop_remainder=False,
    rounds=1,
    shard_size=1024,
    seed=0,
    verbose=1,
):
    """Crafts adversarial examples of a frozen classifier once, and trains from disk.

    While a restorer is trained its classifier stays as it is, and so do the
    classifier's adversarial examples: they can be crafted before, and used in every
    epoch. They are kept in the folder in shards. A run that was interrupted continues
    with the first shard that is missing, and ends with the same examples as one that
    was not. A few shards are in memory at a time, however many there are.

    Each image meets one attack in each round, in turns, and an attack whose epsilon is
    a range draws one for each image. All attacks lead away from what the classifier
    predicts.

    Args:
        classifier: A Keras model from images in [0, 1] to logits.
        dataset: A `tf.data.Dataset` of batches of images and labels, the same in the
            same order whenever it is run through; a `keras.utils.PyDataset` of them; or a
            pair of arrays. Sample weights are left out.
        attack: An attack of `keras_trn.attacks`, or a list of them.
        folder: Where the examples are kept; made if it is not there.
        batch_size: Number of images in a batch of the pipeline that is returned.
        drop_remainder: Whether to leave out a last batch that has fewer.
        rounds: How many adversarial examples are crafted of each image. They
            differ in attack, epsilon and random start.
        shard_size: Number of images in a file.
        seed: Whole number that fixes what is random in the attacks, and the order of
            the pipeline.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        A `tf.data.Dataset` for `ProtectedClassifier.fit`, shuffled anew in every epoch.
        Its elements are pairs of a dictionary and labels, an int64 tensor of shape
        `(batch,)`. The dictionary holds

        - `"images"`: the clean images, float32 of shape `(batch, height, width, channels)`;
        - `"adversarial"`: their adversarial examples, of the same shape;
        - `"epsilon"`: the largest distance that each was allowed, float32 of shape
          `(batch,)`;
        - `"attack"`: which of the attacks it was, int64 of shape `(batch,)`;
        - `"predicted"`: the class that the classifier predicts for the clean image, and that
          the attack led away from, int64 of shape `(batch,)`.

    Raises:
        ValueError: If the folder holds examples of another classifier, of other data or
            other settings; if the data are malformed or do not keep their order; or if an
            argument is malformed.
        TypeError: If an attack does not tell all of its settings.

    Example:
        ```python
        import tempfile

        train, validation, test = keras_trn.datasets.load("digits", shuffle=False)
        attacks = [
            keras_trn.attacks.FastGradientMethod(epsilon=(0.0, 0.2)),
            keras_trn.attacks.ProjectedGradientDescent(epsilon=(0.0, 0.2), steps=3),
        ]
        with tempfile.TemporaryDirectory() as folder:
            examples = keras_trn.cache_adversarial_examples(
                classifier, train.take(2), attacks, folder, verbose=0
            )
            inputs, labels = next(iter(examples))
        assert inputs["adversarial"].shape == (64, 8, 8, 1)
        ```
    """
    batch_size = check_count("batch_size", batch_size)
    rounds = check_count("rounds", rounds)
    shard_size = check_count("shard_size", shard_size)
    seed = check_whole_number("seed", seed, 0, np.iinfo(np.int32).max)
    attacks = _single_attacks(as_attack(attack))
    for single in attacks:
        # Fails where `get_config` does not tell all that the examples depend on.
        single.with_seed(single.seed)
    cache = _Cache(classifier, attacks, Path(folder), rounds, shard_size, seed)
    cache.craft_missing(dataset, verbose)
    if cache.is_random:
        warnings.warn(
            "The classifier answers one image at random, now this way and now that. The folder "
            "knows it by its weights alone, and keeps the examples that one run of it gave.",
            UserWarning,
            stacklevel=2,
        )
    return cache.pipeline(batch_size, drop_remainder)


def _single_attacks(attack):
    """The attacks of a mixture, which may hold mixtures itself; or a single one."""
    parts = getattr(attack, "attacks", None)
    return [attack] if parts is None else [one for part in parts for one in _single_attacks(part)]


class _Cache:
    """The files of a folder, and how they come to be."""

    def __init__(self, classifier, attacks, folder, rounds, shard_size, seed):
        self.classifier = classifier
        self.attacks = attacks
        self.folder = folder
        self.rounds = rounds
        self.shard_size = shard_size
        self.seed = seed
        self.image_shape, self.num_classes = describe_classifier(classifier)
        self.is_random = False
        self.paths = []
        self.examples = 0

    # --- Crafting --------------------------------------------------------------

    def craft_missing(self, dataset, verbose):
        """Crafts what the folder does not hold yet."""
        data = CheckedData(dataset, self.image_shape, self.num_classes)
        # All images of a file have one size, even if the classifier takes any.
        self.image_shape = data.image_shape
        self.folder.mkdir(parents=True, exist_ok=True)
        with tqdm(unit="example", disable=not verbose) as progress:
            for shard, (images, labels) in enumerate(data.in_groups(self.shard_size)):
                if shard == 0:
                    self._settle()
                for round_ in range(self.rounds):
                    self._craft_unless_there(shard, round_, images, labels)
                    progress.update(len(images))

    def _settle(self):
        """Writes down what the examples depend on, or checks that it is what it was."""
        settings = {
            "classifier": _digest(*self.classifier.get_weights()),
            "answers": self._answers(),
            "attacks": [_NUMPY_NUMBER.sub(r"\1", repr(attack)) for attack in self.attacks],
            "rounds": self.rounds,
            "shard_size": self.shard_size,
            "seed": self.seed,
            "features": sorted(_FEATURES),
        }
        path = self.folder / _SETTINGS
        if not path.exists():
            with _written_whole(path) as unfinished:
                unfinished.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        before = json.loads(path.read_text(encoding="utf-8"))
        for name, value in settings.items():
            if not _is_same(name, was := before.get(name), value):
                raise ValueError(
                    f"{str(self.folder)!r} holds adversarial examples of other settings: "
                    f"{name} was {was!r} and is now {value!r}. Take another folder, or delete "
                    "this one."
                )

    def _answers(self):
        """The logits for a grey image: they tell classifiers apart that have the same weights.

        `None` for a classifier that answers at random, of which they tell nothing.
        """
        grey = tf.fill([1, *self.image_shape], 0.5)
        first, second = repeated_logits(self.classifier, grey, runs=2)
        self.is_random = largest_distance([first, second]) > ROUNDING_OF_LOGITS
        return None if self.is_random else first.ravel().tolist()

    def _craft_unless_there(self, shard, round_, images, labels):
        name = f"round-{round_}-shard-{shard:05d}"
        path = self.folder / f"{name}-{_digest(images, labels)}.tfrecord"
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
            with _written_whole(path) as unfinished:
                _write_examples(unfinished, images, labels, **crafted)
        self.paths.append(str(path))
        self.examples += len(images)

    def _craft(self, shard, round_, images):
        """Crafts the examples of a shard: what is kept of them with images and labels."""
        # Seeded for each shard, so that it does not matter where an interrupted run goes on.
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
        return {
            "adversarial": adversarial,
            "epsilon": epsilons,
            "attack": turns,
            "predicted": predicted,
        }

    # --- Reading ---------------------------------------------------------------

    def pipeline(self, batch_size, drop_remainder):
        """Makes the pipeline of all examples, shuffled anew whenever it is run through."""
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

    def _parse(self, examples):
        parsed = tf.io.parse_example(examples, _FEATURES)
        shape = [-1, *self.image_shape]
        images = tf.reshape(tf.io.decode_raw(parsed["image"], tf.float32), shape)
        perturbation = tf.reshape(
            tf.io.decode_raw(parsed["perturbation"], _PERTURBATION_TYPE), shape
        )
        adversarial = tf.clip_by_value(images + tf.cast(perturbation, tf.float32), 0.0, 1.0)
        inputs = {
            "images": images,
            "adversarial": adversarial,
            **{name: parsed[name] for name in ("epsilon", "attack", "predicted")},
        }
        return inputs, parsed["label"]


def _write_examples(path, images, labels, adversarial, epsilon, attack, predicted):
    """Writes examples into a file of TFRecords."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row, image in enumerate(images):
            perturbation = (adversarial[row] - image).astype(_PERTURBATION_TYPE)
            example = tf.train.Example()
            feature = example.features.feature
            feature["image"].bytes_list.value.append(image.tobytes())
            feature["perturbation"].bytes_list.value.append(perturbation.tobytes())
            feature["label"].int64_list.value.append(int(labels[row]))
            feature["epsilon"].float_list.value.append(epsilon[row])
            feature["attack"].int64_list.value.append(int(attack[row]))
            feature["predicted"].int64_list.value.append(int(predicted[row]))
            writer.write(example.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _written_whole(path):
    """Lets a file be written under another name, so that it is there whole or not at all."""
    # Two processes may be at work in one folder.
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
    yield unfinished
    os.replace(unfinished, path)


def _is_same(name, before, now):
    if name == "answers" and None in (before, now):
        # Of a random classifier the weights have to do.
        return True
    if isinstance(now, list) and isinstance(now[0], float):
        # Another machine may round otherwise.
        return len(before) == len(now) and np.allclose(before, now, rtol=1e-3, atol=1e-3)
    return before == now


def _digest(*arrays):
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]
