"""Gradient maps that need no training."""

import keras
import tensorflow as tf

from keras_trn.gradient_maps.gradient_map import GradientMap
from keras_trn.logits import cross_entropy_direction


def _label_direction(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return cross_entropy_direction(logits, tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype))


@keras.saving.register_keras_serializable(package="keras_trn")
class PredictedLabel(GradientMap):
    """Computes the map for the label that the classifier predicts.

    On a benign image this is the direction of an attack. On an adversarial image the prediction
    is wrong, and the map points away from the wrong label. It has as many channels as the image,
    and costs 1 backward pass. Call it like any `GradientMap`.

    Args:
        **kwargs: The usual arguments of a Keras layer (`name`).

    Example:
        ```python
        maps = keras_trn.gradient_maps.PredictedLabel()(images, classifier=classifier)
        assert maps.shape == (8, 8, 8, 1)
        ```
    """

    def directions(self, logits: tf.Tensor, labels: tf.Tensor | None = None) -> list[tf.Tensor]:
        return [_label_direction(logits, tf.argmax(logits, axis=-1))]


@keras.saving.register_keras_serializable(package="keras_trn")
class UniformLabel(GradientMap):
    """Computes the map for the uniform distribution over all classes.

    This is the direction in which the classifier becomes more confident. It needs no label, and
    does not vanish for a confident classifier. It has as many channels as the image, and costs 1
    backward pass. Call it like any `GradientMap`.

    Args:
        **kwargs: The usual arguments of a Keras layer (`name`).

    Example:
        ```python
        maps = keras_trn.gradient_maps.UniformLabel()(images, classifier=classifier)
        assert maps.shape == (8, 8, 8, 1)
        ```
    """

    def directions(self, logits: tf.Tensor, labels: tf.Tensor | None = None) -> list[tf.Tensor]:
        return [tf.nn.softmax(logits) - 1.0 / logits.shape[-1]]


@keras.saving.register_keras_serializable(package="keras_trn")
class TrueLabel(GradientMap):
    """Computes the map for the true label, an upper bound for studies only.

    An untargeted attack moves the image along this map. It needs the label that the classifier
    has to find, so `ProtectedClassifier.predict` refuses it. Training and `keras_trn.evaluate`
    pass the label that the attack started from, which is not always the true one. It has as many
    channels as the image, and costs 1 backward pass. Call it like any `GradientMap`, with
    `labels`.

    Args:
        **kwargs: The usual arguments of a Keras layer (`name`).

    Example:
        ```python
        maps = keras_trn.gradient_maps.TrueLabel()(images, classifier=classifier, labels=labels)
        assert maps.shape == (8, 8, 8, 1)
        ```
    """

    needs_labels = True

    def directions(self, logits: tf.Tensor, labels: tf.Tensor | None = None) -> list[tf.Tensor]:
        return [_label_direction(logits, labels)]
