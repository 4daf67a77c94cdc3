"""The losses that Auto-PGD climbs, from logits, labels and target classes.

Auto-PGD only compares the losses of one image and follows the direction of their gradient. So any
increasing function of a loss serves as well.
"""

import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.margin import logit_of
from keras_trn.attacks.margin import margins
from keras_trn.attacks.margin import without

# Keeps a ratio finite when the highest logits are equal.
_TINY = 1e-12


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Returns the logarithm of the odds against the label.

    The cross-entropy is its softplus, which rounds to 0, like its gradient, when the classifier
    is certain of the label.
    """
    return tf.reduce_logsumexp(without(logits, labels), axis=-1) - logit_of(logits, labels)


def targeted_cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Returns the logarithm of the odds for the target."""
    return -cross_entropy(logits, targets, labels)


def difference_of_logits_ratio(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Returns how far the label is below the best other class, in units of the highest logits.

    With two classes, which have no third logit, it returns the difference itself.
    """
    difference = -margins(logits, labels)
    if logits.shape[-1] < 3:
        return difference
    first, _, third = _highest(logits, 3)
    return difference / (first - third + _TINY)


def targeted_difference_of_logits_ratio(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Returns how far the label is below the target, in units of the highest logits.

    With three classes, which have no fourth logit, it returns the difference itself.
    """
    difference = logit_of(logits, targets) - logit_of(logits, labels)
    if logits.shape[-1] < 4:
        return difference
    first, _, third, fourth = _highest(logits, 4)
    return difference / (first - (third + fourth) / 2.0 + _TINY)


def _highest(logits: Tensor, number: int) -> list[Tensor]:
    """Returns each image's highest logits, because XLA cannot differentiate `tf.math.top_k`."""
    found = []
    for _ in range(number):
        found.append(tf.reduce_max(logits, axis=-1))
        logits = without(logits, tf.argmax(logits, axis=-1))
    return found
