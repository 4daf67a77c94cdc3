"""One way to ask a classifier for its logits, to know them, and to differentiate their loss."""

import keras
import numpy as np
import tensorflow as tf


def logits_function(classifier):
    """Wraps a classifier as a function from images to float32 logits.

    The classifier is always run in inference mode, so that Dropout is off and
    BatchNormalization uses, and keeps, its moving statistics.

    Args:
        classifier: A Keras model or layer, or any callable from images of shape
            `(batch, height, width, channels)` to logits of shape
            `(batch, num_classes)`.

    Returns:
        A function of one tensor of images.

    Example:
        ```python
        import keras
        from keras_trn.logits import logits_function

        classifier = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
        )
        logits = logits_function(classifier)(keras.random.uniform((2, 8, 8, 1)))
        assert logits.shape == (2, 10)
        ```
    """
    arguments = {"training": False} if isinstance(classifier, keras.layers.Layer) else {}

    # CleverHans would have AutoGraph rewrite the whole classifier, which takes seconds.
    @tf.autograph.experimental.do_not_convert
    def logits(images):
        return tf.cast(classifier(images, **arguments), tf.float32)

    return logits


def differentiable_logits_function(classifier):
    """As `logits_function`, with a gradient of zero where a classifier has none.

    Through a rounding, for instance, no gradient passes, and TensorFlow says so by
    `None`, which attacks cannot add to an image.

    Args:
        classifier: A Keras model or layer, or any callable from images to logits.

    Returns:
        A function of one tensor of images.

    Example:
        ```python
        import tensorflow as tf
        from keras_trn.logits import differentiable_logits_function

        logits = differentiable_logits_function(lambda images: tf.round(images[:, 0, :, 0]))
        images = tf.ones((2, 1, 3, 1))
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(logits(images))
        assert tf.reduce_all(tape.gradient(loss, images) == 0)
        ```
    """
    logits = logits_function(classifier)

    @tf.autograph.experimental.do_not_convert
    def connected_logits(images):
        return logits(images) + 0.0 * tf.reduce_sum(images, axis=[1, 2, 3])[:, None]

    return connected_logits


def predicted_labels(classifier, images):
    """Asks a classifier for the classes of images.

    Args:
        classifier: A Keras model, or a callable, from images to logits.
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].

    Returns:
        An int64 tensor of class indices, of shape `(batch,)`.

    Example:
        ```python
        import tensorflow as tf
        from keras_trn.logits import predicted_labels

        brightest_row = lambda images: tf.reduce_sum(images, axis=[2, 3])
        images = tf.constant([[[[0.1]], [[0.9]]]])
        assert predicted_labels(brightest_row, images).numpy().tolist() == [1]
        ```
    """
    return tf.argmax(logits_function(classifier)(images), axis=-1)


def cross_entropy_direction(logits, label_distribution):
    """The direction in which the logits raise the cross-entropy for soft labels.

    For one label `c` the gradient of the cross-entropy in the logits is
    `softmax(z) - onehot(c)`. When the classifier is sure of `c` this underflows
    to zero. As maps are normalized, only its direction counts, and that is the
    softmax over the *other* classes minus `onehot(c)`, which never vanishes
    however sure the classifier is. For soft labels, the mean of these
    directions over the label distribution.

    Args:
        logits: Tensor of shape `(batch, num_classes)`.
        label_distribution: Tensor of the same shape; each row sums to 1.

    Returns:
        A tensor of the same shape; each row sums to 0.

    Example:
        ```python
        from keras_trn.logits import cross_entropy_direction

        # Sure beyond what float32 can tell from certainty, and still not zero.
        direction = cross_entropy_direction([[300.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]])
        assert direction.numpy().tolist() == [[-1.0, 0.5, 0.5]]
        ```
    """
    logits, label_distribution = (
        tf.convert_to_tensor(logits),
        tf.convert_to_tensor(label_distribution),
    )
    top = tf.one_hot(tf.argmax(logits, axis=-1), logits.shape[-1], dtype=logits.dtype)
    logits = logits - tf.stop_gradient(tf.reduce_max(logits, axis=-1, keepdims=True))
    exponentials = tf.exp(logits)
    # The softmax without class c has the sum of the other exponentials below it.
    # Only for the top class can that sum underflow, so this one is done apart.
    without_top = tf.nn.softmax(tf.where(top > 0, -1e9, logits))
    sums_without = tf.reduce_sum(exponentials, axis=-1, keepdims=True) - exponentials
    shares = (1 - top) * label_distribution / tf.where(top > 0, 1.0, sums_without)
    others = tf.reduce_sum(shares, axis=-1, keepdims=True) - shares
    weight_of_top = tf.reduce_sum(top * label_distribution, axis=-1, keepdims=True)
    return weight_of_top * without_top + exponentials * others - label_distribution


def looks_like_probabilities(scores):
    """Tells whether class scores are probabilities rather than logits.

    Source: the range check of AutoAttack (Croce and Hein, arXiv 2003.01690).

    Args:
        scores: NumPy array of shape `(batch, num_classes)`.

    Returns:
        Whether every score lies in [0, 1] and every row sums to 1.

    Example:
        ```python
        import numpy as np
        from keras_trn.logits import looks_like_probabilities

        assert looks_like_probabilities(np.array([[0.9, 0.1], [0.2, 0.8]]))
        assert not looks_like_probabilities(np.array([[4.0, -3.0], [0.2, 0.8]]))
        ```
    """
    in_range = scores.min() >= -1e-5 and scores.max() <= 1 + 1e-5
    return bool(in_range and np.allclose(scores.sum(axis=-1), 1.0, atol=1e-3))
