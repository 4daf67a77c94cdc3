"""The most likely classes other than the label."""

import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.margin import without


def most_likely_rivals(logits: Tensor, labels: Tensor, number: int) -> Tensor:
    """Lists the `number` most likely classes other than the label, or all if there are fewer.

    Returns an int64 tensor of shape `(batch, classes)`, the most likely class first.
    """
    ranked = tf.math.top_k(without(logits, labels), min(number, logits.shape[-1] - 1)).indices
    return tf.cast(ranked, tf.int64)
