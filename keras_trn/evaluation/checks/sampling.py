"""Draws random images near clean ones; compiled, because searches draw hundreds of times."""

import tensorflow as tf

from keras_trn.attacks.norms import random_in_ball
from keras_trn.attacks.norms import random_on_sphere
from keras_trn.graphs import compile_function


@compile_function
def random_inside(images: tf.Tensor, epsilon: tf.Tensor, norm: str, seed: tf.Tensor) -> tf.Tensor:
    """Draws images in [0, 1] uniformly from the balls around clean ones."""
    return tf.clip_by_value(images + random_in_ball(images, epsilon, norm, seed), 0.0, 1.0)


random_on_surface = compile_function(random_on_sphere)


@compile_function
def random_corners(images: tf.Tensor, epsilon: tf.Tensor, norm: str, seed: tf.Tensor) -> tf.Tensor:
    """Draws images in [0, 1] as far away as epsilon allows: cube corners for L-infinity."""
    if norm != "linf":
        return random_on_sphere(images, epsilon, norm, seed)
    signs = tf.sign(random_in_ball(images, 1.0, norm, seed))
    return tf.clip_by_value(images + epsilon * signs, 0.0, 1.0)
