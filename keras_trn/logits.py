"""One way to ask a classifier for its logits, to know them, and to differentiate their loss."""

import functools

import keras
import numpy as np
import tensorflow as tf

from keras_trn.graphs import GraphCache
from keras_trn.second_derivatives import register_second_derivatives

register_second_derivatives()


def logits_function(classifier):
    """Wraps a classifier as a function from images to float32 logits.

    The classifier is always run in inference mode, so that Dropout is off and
    BatchNormalization uses, and keeps, its moving statistics. Only the images are
    differentiated: nothing computes a gradient of the classifier's weights.

    Args:
        classifier: A Keras model or layer, or any callable from images of shape
            `(batch, height, width, channels)` to logits of shape
            `(batch, num_classes)`.

    Returns:
        A `LogitsFunction`, to be called with a tensor of images.

    Example:
        ```python
        from keras_trn.logits import logits_function

        logits = logits_function(classifier)(keras.random.uniform((2, 8, 8, 1)))
        assert logits.shape == (2, 10)
        ```
    """
    return LogitsFunction(classifier)


class LogitsFunction:
    """The logits of a frozen classifier, and their gradients in the images.

    In a graph TensorFlow leaves out what nobody asks for, so gradients are taken there as
    usual. Eagerly it would compute the gradients of the classifier's weights too, which is
    slow, and with TensorFlow 2.21 and oneDNN it corrupts the memory for a 1 x 1 convolution
    of stride 2. So eager gradients are taken in compiled functions.

    Args:
        classifier: A Keras model or layer, or any callable from images to logits.
    """

    def __init__(self, classifier):
        self.classifier = classifier
        self._is_layer = isinstance(classifier, keras.layers.Layer)
        self._graphs = GraphCache()

    # CleverHans would have AutoGraph rewrite the whole classifier, which takes seconds.
    @tf.autograph.experimental.do_not_convert
    def __call__(self, images):
        if self._is_layer and tf.executing_eagerly():
            return self._eager_logits(images)
        return self._forward(images)

    def with_vjp(self, images):
        """Returns the logits, and a function that takes their gradients.

        Args:
            images: Tensor of shape `(batch, height, width, channels)`.

        Returns:
            The logits, and a function from a direction, a tensor of their shape, to the
            gradient of `sum(logits * direction)` in the images.
        """
        if self._is_layer and tf.executing_eagerly():
            return self._eager_logits(images), functools.partial(self._eager_vjp, images)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            logits = self._forward(images)

        def vjp(direction):
            return tape.gradient(
                logits, images, direction, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )

        return logits, vjp

    def _forward(self, images):
        arguments = {"training": False} if self._is_layer else {}
        return tf.cast(single_output(self.classifier(images, **arguments)), tf.float32)

    def _eager_logits(self, images):
        @tf.custom_gradient
        def logits(images):
            def gradient(upstream, variables=()):
                return _without_weights([self._eager_vjp(images, upstream)], variables)

            return self._forward(images), gradient

        return logits(images)

    def _eager_vjp(self, images, direction):
        @tf.custom_gradient
        def vjp(images, direction):
            def gradient(upstream, variables=()):
                second = self._compiled(self._second_order)(images, direction, upstream)
                return _without_weights(second, variables)

            return self._compiled(self._first_order)(images, direction), gradient

        return vjp(images, direction)

    def _first_order(self, images, direction):
        _, vjp = self.with_vjp(images)
        return vjp(direction)

    def _second_order(self, images, direction, upstream):
        with tf.GradientTape() as tape:
            tape.watch([images, direction])
            pulled = self._first_order(images, direction)
        zero = tf.UnconnectedGradients.ZERO
        return tape.gradient(pulled, [images, direction], upstream, zero)

    def _compiled(self, method):
        return self._graphs.get(method.__name__, self.classifier, lambda: method)


def _without_weights(gradients, variables):
    """What a custom gradient returns where the variables that it uses have none."""
    return (gradients, [None] * len(variables)) if variables else gradients


def single_output(outputs):
    """Takes the one output of a model out of the list or dictionary that may hold it.

    Args:
        outputs: What the model returned.

    Returns:
        The output.

    Raises:
        ValueError: If there are several.
    """
    if not isinstance(outputs, (list, tuple, dict)):
        return outputs
    flat = keras.tree.flatten(outputs)
    if len(flat) != 1:
        names = f", named {', '.join(map(repr, outputs))}" if isinstance(outputs, dict) else ""
        raise ValueError(
            f"The classifier must return one output, the logits; it returns {len(flat)}{names}. "
            "Take the one with the logits, such as the first: `keras.Model(classifier.inputs, "
            "classifier.outputs[0])`."
        )
    return flat[0]


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
        from keras_trn.logits import looks_like_probabilities

        assert looks_like_probabilities(np.array([[0.9, 0.1], [0.2, 0.8]]))
        assert not looks_like_probabilities(np.array([[4.0, -3.0], [0.2, 0.8]]))
        ```
    """
    in_range = scores.min() >= -1e-5 and scores.max() <= 1 + 1e-5
    return bool(in_range and np.allclose(scores.sum(axis=-1), 1.0, atol=1e-3))
