"""Computes the logits of a classifier and their gradients with respect to the images."""

import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_trn.graphs import GraphCache
from keras_trn.second_derivatives import register_second_derivatives
from keras_trn.types import Classifier
from keras_trn.types import Logits

register_second_derivatives()


class LogitsFunction:
    """Maps images to the float32 logits of a frozen classifier in inference mode.

    It differentiates only the images. In a graph, TensorFlow prunes the unused gradients of the
    weights. Eager TensorFlow would compute them slowly. With TensorFlow 2.21 and oneDNN, it would
    even corrupt the memory for a 1 x 1 convolution of stride 2. So eager gradients run in
    compiled functions.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self._is_layer = isinstance(classifier, keras.layers.Layer)
        self._graphs = GraphCache()

    # Otherwise CleverHans' AutoGraph rewrites the whole classifier, which takes seconds.
    @tf.autograph.experimental.do_not_convert
    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        if self._is_layer and tf.executing_eagerly():
            return self._eager_logits(images)
        return self._forward(images)

    def with_vjp(self, images: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        """Returns the logits and their vector-Jacobian product.

        The product maps a direction of the shape of the logits to the gradient of
        `sum(logits * direction)` with respect to the images.
        """
        if self._is_layer and tf.executing_eagerly():
            return self._eager_logits(images), functools.partial(self._eager_vjp, images)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            logits = self._forward(images)
        zero = tf.UnconnectedGradients.ZERO
        return logits, lambda direction: tape.gradient(logits, images, direction, zero)

    def _forward(self, images: tf.Tensor) -> tf.Tensor:
        arguments = {"training": False} if self._is_layer else {}
        return tf.cast(single_output(self.classifier(images, **arguments)), tf.float32)

    def _eager_logits(self, images: tf.Tensor) -> tf.Tensor:
        @tf.custom_gradient
        def logits(images: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
            def gradient(upstream: tf.Tensor, variables: Sequence[tf.Variable] = ()) -> Any:
                return _without_weights([self._eager_vjp(images, upstream)], variables)

            return self._forward(images), gradient

        return logits(images)

    def _eager_vjp(self, images: tf.Tensor, direction: tf.Tensor) -> tf.Tensor:
        @tf.custom_gradient
        def vjp(images: tf.Tensor, direction: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
            def gradient(upstream: tf.Tensor, variables: Sequence[tf.Variable] = ()) -> Any:
                second = self._compiled(self._second_order)(images, direction, upstream)
                return _without_weights(second, variables)

            return self._compiled(self._first_order)(images, direction), gradient

        return vjp(images, direction)

    def _first_order(self, images: tf.Tensor, direction: tf.Tensor) -> tf.Tensor:
        _, vjp = self.with_vjp(images)
        return vjp(direction)

    def _second_order(
        self, images: tf.Tensor, direction: tf.Tensor, upstream: tf.Tensor
    ) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([images, direction])
            product = self._first_order(images, direction)
        zero = tf.UnconnectedGradients.ZERO
        return tape.gradient(product, [images, direction], upstream, zero)

    def _compiled(self, method: Callable[..., Any]) -> Callable[..., Any]:
        return self._graphs.get(method.__name__, self.classifier, lambda: method)


def _without_weights(gradients: list[tf.Tensor], variables: Sequence[tf.Variable]) -> Any:
    """Adds missing gradients for the variables of a custom gradient, if it has any."""
    return (gradients, [None] * len(variables)) if variables else gradients


def logits_function(classifier: Classifier) -> LogitsFunction:
    """Wraps a Keras model, or any function from images to logits, as a `LogitsFunction`."""
    return LogitsFunction(classifier)


def differentiable_logits_function(classifier: Classifier) -> Logits:
    """Works like `logits_function`, but has a gradient of zero if TensorFlow returns `None`.

    For example, gradients do not pass through rounding, and an attack cannot add `None`.
    """
    logits = logits_function(classifier)

    @tf.autograph.experimental.do_not_convert
    def connected_logits(images: tf.Tensor) -> tf.Tensor:
        return logits(images) + 0.0 * tf.reduce_sum(images, axis=[1, 2, 3])[:, None]

    return connected_logits


def predicted_labels(classifier: Classifier, images: tf.Tensor) -> tf.Tensor:
    """Predicts the class of each image, as an int64 tensor of shape `(batch,)`."""
    return tf.argmax(logits_function(classifier)(images), axis=-1)


def single_output(outputs: Any) -> tf.Tensor:
    """Unpacks the only output of a model from its list or dictionary; refuses several."""
    if not isinstance(outputs, (list, tuple, dict)):
        return outputs
    flat = keras.tree.flatten(outputs)
    if len(flat) != 1:
        names = f", named {', '.join(map(repr, outputs))}" if isinstance(outputs, dict) else ""
        raise ValueError(
            f"The classifier must return one output, the logits; it returns {len(flat)}{names}. "
            "Select the output that holds the logits, for example the first: "
            "`keras.Model(classifier.inputs, classifier.outputs[0])`."
        )
    return flat[0]


def cross_entropy_direction(logits: tf.Tensor, label_distribution: tf.Tensor) -> tf.Tensor:
    """Computes the direction in which the logits increase the cross-entropy for soft labels.

    The gradient of the cross-entropy for a label `c` is `softmax(z) - onehot(c)`, which
    underflows to zero for a confident classifier. This direction is the softmax over the *other*
    classes minus `onehot(c)`: parallel to the gradient, but never zero. For soft labels it is the
    mean over the label distribution.

    Args:
        logits: Tensor of shape `(batch, num_classes)`.
        label_distribution: Tensor of the same shape; each row sums to 1.

    Returns:
        A tensor of the same shape; each row sums to 0.

    Example:
        ```python
        from keras_trn.logits import cross_entropy_direction

        # The softmax is 1.0 here, so the gradient of the cross-entropy underflows to zero.
        direction = cross_entropy_direction([[300.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]])
        assert direction.numpy().tolist() == [[-1.0, 0.5, 0.5]]
        ```
    """
    logits = tf.convert_to_tensor(logits)
    label_distribution = tf.convert_to_tensor(label_distribution)
    top = tf.one_hot(tf.argmax(logits, axis=-1), logits.shape[-1], dtype=logits.dtype)
    logits = logits - tf.stop_gradient(tf.reduce_max(logits, axis=-1, keepdims=True))
    exponentials = tf.exp(logits)
    # The softmax without class c divides by the sum of the other exponentials. That sum can
    # underflow only for the top class, so the top class is computed separately.
    without_top = tf.nn.softmax(tf.where(top > 0, -1e9, logits))
    sums_without = tf.reduce_sum(exponentials, axis=-1, keepdims=True) - exponentials
    shares = (1 - top) * label_distribution / tf.where(top > 0, 1.0, sums_without)
    others = tf.reduce_sum(shares, axis=-1, keepdims=True) - shares
    weight_of_top = tf.reduce_sum(top * label_distribution, axis=-1, keepdims=True)
    return weight_of_top * without_top + exponentials * others - label_distribution


def looks_like_probabilities(scores: np.ndarray) -> bool:
    """Tells whether scores look like probabilities; the check of AutoAttack, arXiv 2003.01690."""
    in_range = scores.min() >= -1e-5 and scores.max() <= 1 + 1e-5
    return bool(in_range and np.allclose(scores.sum(axis=-1), 1.0, atol=1e-3))
