"""The margin by which a classifier prefers a label to all others."""

import tensorflow as tf
from tensorflow import Tensor


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Subtracts the largest logit of the other classes from that of the label, per image."""
    is_label = tf.one_hot(labels, tf.shape(logits)[-1], on_value=True, off_value=False)
    of_label = tf.reduce_max(tf.where(is_label, logits, logits.dtype.min), axis=-1)
    of_others = tf.reduce_max(tf.where(is_label, logits.dtype.min, logits), axis=-1)
    return of_label - of_others
