"""Random numbers that depend on a seed alone, inside and outside of graphs."""

import tensorflow as tf
from tensorflow import Tensor

# XLA's default is another algorithm, with other results for the same seed.
ALGORITHM = "philox"


def random_signs(images: Tensor, seed: Tensor) -> Tensor:
    """Draws -1 or 1 for each pixel."""
    bits = tf.random.stateless_uniform(
        tf.shape(images), seed, minval=0, maxval=2, dtype=tf.int32, alg=ALGORITHM
    )
    return tf.cast(2 * bits - 1, images.dtype)


def random_direction(images: Tensor, seed: Tensor) -> Tensor:
    """Draws a uniformly random direction of Euclidean length 1 for each image."""
    normal = tf.random.stateless_normal(tf.shape(images), seed, alg=ALGORITHM)
    return tf.math.l2_normalize(normal, axis=[1, 2, 3])


def random_laplace(images: Tensor, seed: Tensor) -> Tensor:
    """Draws a number from the Laplace distribution for each pixel."""
    shape = tf.shape(images)
    # Above 0, to keep the logarithm finite.
    uniform = 1.0 - tf.random.stateless_uniform(shape, seed, alg=ALGORITHM)
    return -tf.math.log(uniform) * random_signs(images, seed + 2)


def split_seed(seed: Tensor, number: int) -> Tensor:
    """Derives several seeds from one, in a tensor of shape `(number, 2)`."""
    return tf.random.split(seed, number, alg=ALGORITHM)
