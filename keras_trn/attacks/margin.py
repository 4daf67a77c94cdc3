"""The margin by which a classifier prefers a label to all others."""

import tensorflow as tf
from tensorflow import Tensor


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the label's logit minus the largest other logit, for each image."""
    return logit_of(logits, labels) - tf.reduce_max(without(logits, labels), axis=-1)


def logit_of(logits: Tensor, classes: Tensor) -> Tensor:
    """Returns the logit of one class for each image."""
    # XLA cannot differentiate a gather from a batch of unknown size.
    return tf.reduce_max(tf.where(_is_class(logits, classes), logits, logits.dtype.min), axis=-1)


def without(logits: Tensor, classes: Tensor) -> Tensor:
    """Replaces the logit of one class for each image with the smallest possible number."""
    return tf.where(_is_class(logits, classes), logits.dtype.min, logits)


def _is_class(logits: Tensor, classes: Tensor) -> Tensor:
    return tf.one_hot(classes, tf.shape(logits)[-1], on_value=True, off_value=False)
