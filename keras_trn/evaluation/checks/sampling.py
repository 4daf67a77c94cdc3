"""Random images near a clean one, as an attacker without any knowledge would try them."""

import tensorflow as tf

from keras_trn.attacks.norms import random_in_ball
from keras_trn.graphs import compile_function

# Searches draw hundreds of times: compiled, that costs a fraction.


@compile_function
def random_inside(images, epsilon, norm, seed):
    """Draws images uniformly from the balls around clean ones.

    Args:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
        epsilon: The radius: a scalar tensor.
        norm: `"linf"` or `"l2"`.
        seed: Int32 tensor of shape `(2,)`.

    Returns:
        A tensor of the shape of `images`, in [0, 1].
    """
    return tf.clip_by_value(images + random_in_ball(images, epsilon, norm, seed), 0.0, 1.0)


@compile_function
def random_on_surface(images, epsilon, norm, seed):
    """Draws images whose perturbation is as long as it may be.

    Args:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
        epsilon: The length of the perturbation, before it is clipped to [0, 1]: a scalar
            tensor.
        norm: `"linf"` or `"l2"`.
        seed: Int32 tensor of shape `(2,)`.

    Returns:
        A tensor of the shape of `images`, in [0, 1].
    """
    perturbation = random_in_ball(images, 1.0, norm, seed)
    if norm == "linf":
        length = tf.reduce_max(tf.abs(perturbation), axis=[1, 2, 3], keepdims=True)
    else:
        square = tf.reduce_sum(tf.square(perturbation), axis=[1, 2, 3], keepdims=True)
        length = tf.sqrt(square)
    return tf.clip_by_value(images + epsilon * perturbation / length, 0.0, 1.0)


@compile_function
def random_corners(images, epsilon, norm, seed):
    """Draws images that lie as far off as any in the ball, in every pixel where it can.

    For L-infinity these are corners of the cube, where most of its volume lies; for
    L2 points of the sphere.

    Args:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
        epsilon: The radius: a scalar tensor.
        norm: `"linf"` or `"l2"`.
        seed: Int32 tensor of shape `(2,)`.

    Returns:
        A tensor of the shape of `images`, in [0, 1].
    """
    if norm == "l2":
        return random_on_surface(images, epsilon, norm, seed)
    signs = tf.sign(random_in_ball(images, 1.0, norm, seed))
    return tf.clip_by_value(images + epsilon * signs, 0.0, 1.0)
