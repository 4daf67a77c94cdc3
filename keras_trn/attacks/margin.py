"""The margin by which a classifier prefers a label to all others."""

import tensorflow as tf
from tensorflow import Tensor


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Subtracts the largest logit of the other classes from that of the label, per image."""
    return logit_of(logits, labels) - tf.reduce_max(without(logits, labels), axis=-1)


def logit_of(logits: Tensor, classes: Tensor) -> Tensor:
    """Returns the logit of one class for each image."""
    # XLA cannot differentiate a gather from a batch whose size it does not know.
    return tf.reduce_max(tf.where(_is_class(logits, classes), logits, logits.dtype.min), axis=-1)


def without(logits: Tensor, classes: Tensor) -> Tensor:
    """Replaces the logit of one class for each image by the smallest number there is."""
    return tf.where(_is_class(logits, classes), logits.dtype.min, logits)


def _is_class(logits: Tensor, classes: Tensor) -> Tensor:
    return tf.one_hot(classes, tf.shape(logits)[-1], on_value=True, off_value=False)
