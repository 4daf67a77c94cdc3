"""Estimators that take the map for labels they do not have to learn."""

import keras
import tensorflow as tf

from keras_trn.gradient_maps.gradient_map import GradientMap
from keras_trn.logits import cross_entropy_direction


def _label_direction(logits, labels):
    one_hot = tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return cross_entropy_direction(logits, one_hot)


@keras.saving.register_keras_serializable(package="keras_trn")
class PredictedLabel(GradientMap):
    """The map for the label that the classifier predicts.

    On a benign image this is the direction an attack would take. On an adversarial
    image the prediction is wrong, and the map leads away from the wrong label.

    Channels: as many as the image. Cost: 1 backward pass.

    Args:
        **kwargs: The usual arguments of a Keras layer (`name`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
        classifier: A Keras model, or a callable, from images to logits.

    Returns:
        A float32 tensor of shape `(batch, height, width, channels)`.

    Raises:
        ValueError: If the images are not floating point, or not of rank 4.

    Example:
        ```python
        maps = keras_trn.gradient_maps.PredictedLabel()(images, classifier=classifier)
        assert maps.shape == (8, 8, 8, 1)
        ```
    """

    def directions(self, logits, labels=None):
        return [_label_direction(logits, tf.argmax(logits, axis=-1))]


@keras.saving.register_keras_serializable(package="keras_trn")
class UniformLabel(GradientMap):
    """The map for the uniform distribution over all classes.

    The gradient of the cross-entropy against the uniform distribution: the
    direction in which the classifier becomes surer. It needs no label at all,
    and does not vanish for a confident classifier.

    Channels: as many as the image. Cost: 1 backward pass.

    Args:
        **kwargs: The usual arguments of a Keras layer (`name`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
        classifier: A Keras model, or a callable, from images to logits.

    Returns:
        A float32 tensor of shape `(batch, height, width, channels)`.

    Raises:
        ValueError: If the images are not floating point, or not of rank 4.

    Example:
        ```python
        maps = keras_trn.gradient_maps.UniformLabel()(images, classifier=classifier)
        assert maps.shape == (8, 8, 8, 1)
        ```
    """

    def directions(self, logits, labels=None):
        return [tf.nn.softmax(logits) - 1.0 / logits.shape[-1]]


@keras.saving.register_keras_serializable(package="keras_trn")
class TrueLabel(GradientMap):
    """The map for the true label: the upper bound, for studies only.

    This is the map along which an untargeted attack has moved the image. It
    needs the label that classification is to find, so it can't be had at test
    time: `ProtectedClassifier.predict` refuses it. Training, and
    `keras_trn.evaluate`, tell it the label that the attack led away from, which
    is the true one only if the attack was told.

    Channels: as many as the image. Cost: 1 backward pass.

    Args:
        **kwargs: The usual arguments of a Keras layer (`name`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
        classifier: A Keras model, or a callable, from images to logits.
        labels: Class indices of shape `(batch,)`.

    Returns:
        A float32 tensor of shape `(batch, height, width, channels)`.

    Raises:
        ValueError: If labels are missing, or the images are malformed.

    Example:
        ```python
        labels = keras.ops.convert_to_tensor([3, 7])
        maps = keras_trn.gradient_maps.TrueLabel()(images, classifier=classifier, labels=labels)
        assert maps.shape == (2, 8, 8, 1)
        ```
    """

    needs_labels = True

    def directions(self, logits, labels=None):
        return [_label_direction(logits, labels)]
