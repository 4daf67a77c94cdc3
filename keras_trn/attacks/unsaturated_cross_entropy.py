"""The cross-entropy that attacks maximize, with a gradient that does not vanish."""

import tensorflow as tf
from tensorflow import Tensor

from keras_trn.logits import cross_entropy_direction


# Stops CleverHans' AutoGraph from rewriting it.
@tf.autograph.experimental.do_not_convert
def unsaturated_cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """Returns losses with the gradient direction of the cross-entropy, but a length near 1.

    The cross-entropy's own gradient underflows when the classifier is certain, and CleverHans
    drops gradients shorter than 1e-6. Attacks normalize the gradient anyway.
    """
    one_hot = tf.one_hot(labels, tf.shape(logits)[-1], dtype=logits.dtype)
    direction = tf.stop_gradient(cross_entropy_direction(logits, one_hot))
    return tf.reduce_sum(direction * logits, axis=-1)
