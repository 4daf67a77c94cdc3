"""Random numbers that follow from a seed alone, inside of graphs and outside."""

import tensorflow as tf
from tensorflow import Tensor

# By default XLA uses another one, and a seed then gives another result.
ALGORITHM = "philox"


def random_signs(images: Tensor, seed: Tensor) -> Tensor:
    """Draws -1 or 1 for each pixel."""
    bits = tf.random.stateless_uniform(
        tf.shape(images), seed, minval=0, maxval=2, dtype=tf.int32, alg=ALGORITHM
    )
    return tf.cast(2 * bits - 1, images.dtype)


def random_direction(images: Tensor, seed: Tensor) -> Tensor:
    """Draws, for each image, a direction uniformly: a tensor of Euclidean length 1."""
    normal = tf.random.stateless_normal(tf.shape(images), seed, alg=ALGORITHM)
    return tf.math.l2_normalize(normal, axis=[1, 2, 3])


def random_laplace(images: Tensor, seed: Tensor) -> Tensor:
    """Draws a number of the Laplace distribution for each pixel."""
    shape = tf.shape(images)
    # Above 0, where the logarithm is finite.
    uniform = 1.0 - tf.random.stateless_uniform(shape, seed, alg=ALGORITHM)
    return -tf.math.log(uniform) * random_signs(images, seed + 2)


def split_seed(seed: Tensor, number: int) -> Tensor:
    """Derives several seeds from one, in a tensor of shape `(number, 2)`."""
    return tf.random.split(seed, number, alg=ALGORITHM)
