"""The sizes of the measurements, and the models and images that they share."""

import dataclasses

import tensorflow as tf

import keras_trn
from experiments.recipes.fashion_mnist import EPSILON
from experiments.recipes.fashion_mnist import IMAGE_SHAPE

CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Settings:
    """Holds the sizes of all measurements; the documentation shows the defaults.

    Args:
        batch_size: Images of a batch that is attacked, restored or trained on.
        steps: Steps of PGD.
        repeats: Repetitions of what takes seconds.
        quick_repeats: Repetitions of what takes milliseconds.
        fitted_batches: Batches of one call of `fit`.
        data_batch_size: Images of a batch of an evaluation or a shard.
        evaluated_images: Images of an evaluation in one process.
        worker_images: Images that workers share.
        worker_repeats: Repetitions with each number of workers.
        memory_images: A small and a large number of images, to compare the memory of.
        photographs: Images of 224 x 224 pixels that are attacked.
    """

    batch_size: int = 128
    steps: int = 20
    repeats: int = 7
    quick_repeats: int = 50
    fitted_batches: int = 4
    data_batch_size: int = 100
    evaluated_images: int = 500
    worker_images: int = 4000
    worker_repeats: int = 2
    memory_images: tuple[int, int] = (1000, 10_000)
    photographs: int = 2


def load_preset() -> keras_trn.ProtectedClassifier:
    """Loads the protected classifier of Fashion-MNIST that comes with the package."""
    return keras_trn.ProtectedClassifier.from_preset("trn_fashion_mnist")


def make_attack(steps: int) -> keras_trn.attacks.ProjectedGradientDescent:
    """Makes the attack of all measurements."""
    return keras_trn.attacks.ProjectedGradientDescent(EPSILON, steps=steps, seed=0)


def random_batch(size: int, seed: int = 0) -> tuple[tf.Tensor, tf.Tensor]:
    """Makes random images and labels: times depend on neither."""
    images = tf.random.stateless_uniform((size, *IMAGE_SHAPE), (seed, 0))
    labels = tf.random.stateless_uniform((size,), (seed, 1), 0, CLASSES, tf.int64)
    return images, labels


def random_dataset(images: int, batch_size: int) -> tf.data.Dataset:
    """Makes whole batches of random images when they are asked for, the same ones each time."""
    batches = tf.data.Dataset.range(images // batch_size)
    return batches.map(lambda number: random_batch(batch_size, number))
