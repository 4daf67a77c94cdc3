"""Steps along few pixels, which suit the L1 norm."""

import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.unsaturated_cross_entropy import unsaturated_cross_entropy
from keras_trn.types import Logits

# The share of the pixels that SLIDE moves in one step.
_SLIDE_SHARE = 0.01


def sparse_ascent_direction(logits: Logits, points: Tensor, labels: Tensor) -> Tensor:
    """Returns SLIDE's step of length 1 along the pixels with the largest slopes.

    Source: Tramèr and Boneh, "Adversarial Training and Robustness for Multiple Perturbations",
    arXiv 1904.13000.
    """
    with tf.GradientTape() as tape:
        tape.watch(points)
        losses = unsaturated_cross_entropy(labels, logits(points))
    gradient = tape.gradient(losses, points)
    # The step must not push pixels out of [0, 1].
    leaves = ((points <= 0) & (gradient < 0)) | ((points >= 1) & (gradient > 0))
    return sparse_direction(tf.where(leaves, 0.0, gradient), _SLIDE_SHARE)


def sparse_direction(gradient: Tensor, share: Tensor | float) -> Tensor:
    """Returns the signs of a gradient's largest entries, scaled to an L1 length of 1.

    Args:
        gradient: Tensor of shape `(batch, height, width, channels)`.
        share: The share of the entries: a number, or one per image, of shape `(batch,)`.
    """
    shape = tf.shape(gradient)
    entries = tf.abs(tf.reshape(gradient, [shape[0], -1]))
    number = tf.cast(tf.shape(entries)[1], tf.float32)
    # The index of the smallest entry to keep.
    last = tf.cast(tf.maximum(share * number, 1.0), tf.int32) - 1
    falling = tf.sort(entries, direction="DESCENDING")
    threshold = tf.gather(falling, tf.broadcast_to(last, shape[:1]), batch_dims=1)
    is_large = tf.abs(gradient) >= threshold[:, None, None, None]
    signs = tf.where(is_large, tf.sign(gradient), 0.0)
    return tf.math.divide_no_nan(signs, tf.reduce_sum(tf.abs(signs), axis=[1, 2, 3], keepdims=True))
