"""Attacks those images of a batch that are still classified correctly."""

from collections.abc import Callable

import tensorflow as tf
from tensorflow import Tensor

from keras_trn.types import Logits


def is_correct(logits: Logits, images: Tensor, labels: Tensor) -> Tensor:
    """Tells which images are given their label; an answer that is not finite is wrong."""
    scores = logits(images)
    is_finite = tf.reduce_all(tf.math.is_finite(scores), axis=-1)
    return is_finite & (tf.argmax(scores, axis=-1) == labels)


def update_survivors(
    survives: Tensor, current: Tensor, update: Callable[..., Tensor], *per_image: Tensor
) -> Tensor:
    """Replaces the entries of the survivors, and computes nothing for the others.

    Args:
        survives: Booleans of shape `(batch,)`.
        current: A tensor with one entry for each image.
        update: Function from the survivors' entries of `per_image` to their new entries.
        *per_image: Tensors with one entry for each image.

    Returns:
        A tensor of the shape of `current`.
    """
    places = tf.where(survives)

    def updated() -> Tensor:
        chosen = [tf.gather(tensor, places[:, 0]) for tensor in per_image]
        return tf.tensor_scatter_nd_update(current, places, update(*chosen))

    # Convolutions need at least one image.
    changed = tf.cond(tf.reduce_any(survives), updated, lambda: current)
    return tf.ensure_shape(changed, current.shape)
