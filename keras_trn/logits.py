"""One way to ask a classifier for its logits, and to know that they are logits."""

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
    if isinstance(classifier, keras.layers.Layer):
        return lambda images: tf.cast(classifier(images, training=False), tf.float32)
    return lambda images: tf.cast(classifier(images), tf.float32)


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
