"""Updates only the images of a batch that are still classified correctly."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from keras_trn.types import Logits


def is_correct(logits: Logits, images: Tensor, labels: Tensor) -> Tensor:
    """Tells which images are classified as their label; logits that are not finite are wrong."""
    return are_correct(logits(images), labels)


def are_correct(scores: Tensor, labels: Tensor) -> Tensor:
    """Tells which rows of logits are finite and highest at their label."""
    is_finite = tf.reduce_all(tf.math.is_finite(scores), axis=-1)
    return is_finite & (tf.argmax(scores, axis=-1) == labels)


def update_survivors(
    survives: Tensor, current: Any, update: Callable[..., Any], *per_image: Tensor
) -> Any:
    """Replaces the survivors' entries without computing anything for the other images.

    Args:
        survives: Booleans of shape `(batch,)`.
        current: A tensor with one entry for each image, or a tuple of such tensors.
        update: Function from the survivors' entries of `per_image` to their new entries, in
            the structure of `current`.
        *per_image: Tensors with one entry for each image.

    Returns:
        `current` with the new entries.
    """
    places = tf.where(survives)

    def replaced(old: Tensor, new: Tensor) -> Tensor:
        return tf.tensor_scatter_nd_update(old, places, new)

    def updated() -> Any:
        chosen = [tf.gather(tensor, places[:, 0]) for tensor in per_image]
        return tf.nest.map_structure(replaced, current, update(*chosen))

    # Convolutions need at least one image.
    changed = tf.cond(tf.reduce_any(survives), updated, lambda: current)
    return tf.nest.map_structure(lambda new, old: tf.ensure_shape(new, old.shape), changed, current)
