"""The cross-entropy as attacks climb it: with a gradient that does not fade."""

import tensorflow as tf

from keras_trn.logits import cross_entropy_direction


# CleverHans would have AutoGraph rewrite it.
@tf.autograph.experimental.do_not_convert
def unsaturated_cross_entropy(labels, logits):
    """A loss with the direction of the cross-entropy's gradient, but not its length.

    Where a classifier is sure of a label, the gradient of the cross-entropy is
    next to nothing or has underflowed to zero. CleverHans loses it where its length
    falls below 1e-6, and an attack then stands still, not because the image is safe
    but because the classifier is sure. Here the gradient in the logits is of length
    1 or so however sure the classifier is. Attacks normalize it anyway.

    Args:
        labels: Class indices of shape `(batch,)`.
        logits: Tensor of shape `(batch, num_classes)`.

    Returns:
        A tensor of shape `(batch,)`, whose gradient counts and not its value.

    Example:
        ```python
        from keras_trn.attacks.unsaturated_cross_entropy import unsaturated_cross_entropy

        logits = tf.constant([[300.0, 0.0, 0.0]])
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = unsaturated_cross_entropy([0], logits)
        assert tape.gradient(loss, logits).numpy().tolist() == [[-1.0, 0.5, 0.5]]
        ```
    """
    one_hot = tf.one_hot(labels, tf.shape(logits)[-1], dtype=logits.dtype)
    direction = tf.stop_gradient(cross_entropy_direction(logits, one_hot))
    return tf.reduce_sum(direction * logits, axis=-1)
