"""Attacks, models and data that several test files need."""

import contextlib
import dataclasses
import os
import resource
import signal
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_trn import attacks

# --- Attacks --------------------------------------------------------------------------


class NeverRun(attacks.FastGradientMethod):
    """Fails if it is run: everything must be refused before."""

    def craft(self, *arguments):
        raise AssertionError("an attack was run")


class WithHiddenSetting(NeverRun):
    """Has a setting that its config lacks."""

    def __init__(self, epsilon, sharpness=0.5, **kwargs):
        super().__init__(epsilon, **kwargs)
        self._sharpness = sharpness


class WithSetting(attacks.FastGradientMethod):
    """Has one more setting, which is in its config."""

    def __init__(self, epsilon, patience, **kwargs):
        super().__init__(epsilon, **kwargs)
        self.patience = patience

    def get_config(self):
        return {**super().get_config(), "patience": self.patience}


class InterruptionError(Exception):
    """Interrupts like Ctrl-C."""


def interrupted_after(calls, attack):
    """Returns an attack that is interrupted after some batches, and is otherwise the same."""

    class Interrupting(type(attack)):
        def __call__(self, *args, **kwargs):
            nonlocal calls
            calls -= 1
            if calls < 0:
                raise InterruptionError
            return super().__call__(*args, **kwargs)

        @property
        def name(self):
            return attack.name

    # A checkpoint tells attacks apart by their classes.
    Interrupting.__module__ = type(attack).__module__
    Interrupting.__qualname__ = type(attack).__qualname__
    return Interrupting.from_config(attack.get_config())


@dataclasses.dataclass
class KillsItsProcess:
    """Adds up the pixels of an image; kills its process when a certain number comes with it.

    It does so until the folder holds as many files as `times`: one for each process.
    """

    folder: Path
    number: int
    times: int

    def __call__(self, number, image):
        if number == self.number and len(list(self.folder.iterdir())) < self.times:
            (self.folder / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if number < 0:
            raise ValueError("This number is negative.")
        return image.sum()


# --- Models ---------------------------------------------------------------------------


class AlwaysDropout(keras.layers.Dropout):
    """Drops units at inference too."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


def random_classifier(rate=0.5):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), AlwaysDropout(rate), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def linear_classifier(image_shape=(8, 8, 1), num_classes=10):
    layers = [keras.layers.Flatten(), keras.layers.Dense(num_classes)]
    return keras.Sequential([keras.Input(image_shape), *layers])


def classifier_of_any_size():
    return keras.Sequential(
        [
            keras.Input((None, None, 1)),
            keras.layers.Conv2D(4, 3, padding="same", activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )


# --- Data -----------------------------------------------------------------------------


def in_batches(size, *arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(size)


class Batches(keras.utils.PyDataset):
    """Holds images and labels in batches of 50."""

    def __init__(self, images, labels):
        super().__init__()
        self.images, self.labels = images, labels

    def __len__(self):
        return -(-len(self.labels) // 50)

    def __getitem__(self, index):
        part = slice(50 * index, 50 * (index + 1))
        return self.images[part], self.labels[part]


def without_shape(images, labels):
    """A pipeline of which TensorFlow knows neither the rank nor the number of batches."""

    def batches():
        for start in range(0, len(labels), 50):
            yield images[start : start + 50], labels[start : start + 50]

    specs = (tf.TensorSpec(None, tf.float32), tf.TensorSpec(None, tf.int64))
    return tf.data.Dataset.from_generator(batches, output_signature=specs)


def with_nan(images, labels):
    """Batches of 50; the image at index 1 of the second batch is NaN."""
    images = images.copy()
    images[51] = np.nan
    return in_batches(50, images, labels)


def of_two_sizes(images, labels):
    def batches():
        yield images[:50], labels[:50]
        yield images[50:60, :6], labels[50:60]

    specs = (tf.TensorSpec((None, None, None, 1)), tf.TensorSpec((None,), tf.int64))
    return tf.data.Dataset.from_generator(batches, output_signature=specs)


# --- Files ----------------------------------------------------------------------------


@contextlib.contextmanager
def largest_file(size):
    """Lets no file grow beyond a number of bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- What attacks do ------------------------------------------------------------------


def predictions(classifier, images):
    """Returns the predicted classes."""
    return np.argmax(classifier(images), axis=-1)


def lengths(perturbation, norm="l2"):
    """Returns the length of each perturbation."""
    flat = np.reshape(perturbation, (len(perturbation), -1))
    return np.linalg.norm(flat, ord={"linf": np.inf, "l2": 2}[norm], axis=-1)


def boundary_distances(classifier, images, labels, norm="l2"):
    """Returns the distance of each image to the nearest boundary of a linear classifier."""
    kernel, _ = map(np.array, classifier.weights)
    scores, rows = np.array(classifier(images)), range(len(images))
    distances = []
    for other in range(scores.shape[-1]):
        slopes = (kernel[:, labels] - kernel[:, [other]]).T
        # A distance in one norm is measured by the slope in the dual norm.
        slope = np.linalg.norm(slopes, ord=1 if norm == "linf" else 2, axis=-1)
        lead = scores[rows, labels] - scores[:, other]
        distances.append(np.where(labels == other, np.inf, lead / np.maximum(slope, 1e-9)))
    return np.min(distances, axis=0)


class CountingClassifier:
    """Counts the images that it is given, and how often it is called."""

    def __init__(self, classifier):
        self.classifier = classifier
        self.seen, self.calls = (tf.Variable(0, dtype=tf.int64) for _ in range(2))

    def __call__(self, images):
        self.calls.assign_add(1)
        self.seen.assign_add(tf.shape(images, tf.int64)[0])
        return self.classifier(images, training=False)


# --- Networks -------------------------------------------------------------------------


def random_images(*shape):
    """Draws images of a shape `(number, height, width, channels)`."""
    return np.random.default_rng(0).random(shape, dtype="float32")


def randomize(network, scale=0.3):
    """Gives a built network weights with which it changes every image."""
    generator = np.random.default_rng(2)
    for variable in network.trainable_variables:
        variable.assign(generator.normal(scale=scale, size=variable.shape))
