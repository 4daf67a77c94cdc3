"""Random numbers that follow from a seed alone, inside of graphs and outside."""

import tensorflow as tf

# By default XLA has another one, and a seed another result.
ALGORITHM = "philox"


def random_signs(images, seed):
    """Draws -1 or 1 for each pixel."""
    bits = tf.random.stateless_uniform(
        tf.shape(images), seed, minval=0, maxval=2, dtype=tf.int32, alg=ALGORITHM
    )
    return tf.cast(2 * bits - 1, images.dtype)


def split_seed(seed, number):
    """Derives several seeds from one."""
    return tf.unstack(tf.random.split(seed, number, alg=ALGORITHM))
