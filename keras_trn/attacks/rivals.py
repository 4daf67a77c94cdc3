"""The classes that an image is driven to."""

import tensorflow as tf
from tensorflow import Tensor


def most_likely_rivals(logits: Tensor, labels: Tensor, number: int) -> Tensor:
    """Lists the most likely classes other than the label, fewer if there are no more.

    Args:
        logits: Tensor of shape `(batch, num_classes)`.
        labels: Int64 tensor of shape `(batch,)`.
        number: Largest number of classes.

    Returns:
        An int64 tensor of shape `(batch, classes)`, the most likely class first.
    """
    num_classes = tf.shape(logits)[-1]
    is_label = tf.one_hot(labels, num_classes, on_value=True, off_value=False)
    others = tf.where(is_label, logits.dtype.min, logits)
    ranked = tf.math.top_k(others, tf.minimum(number, num_classes - 1)).indices
    return tf.cast(ranked, tf.int64)
