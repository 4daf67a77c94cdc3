"""Counts the forward and backward passes of an attack in TensorFlow."""

import tensorflow as tf

from keras_trn.logits import logits_function
from keras_trn.types import Classifier


class CountedClassifier:
    """A function from images to logits that counts the images, also inside graphs.

    Args:
        classifier: A Keras model, or any function from images to logits.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._logits = logits_function(classifier)
        self._forward = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._backward = tf.Variable(0, dtype=tf.int64, trainable=False)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        return self._logits(self._counted(images))

    @property
    def forward_passes(self) -> int:
        """Number of images that were classified."""
        return int(self._forward.numpy())

    @property
    def backward_passes(self) -> int:
        """Number of images whose gradient was computed."""
        return int(self._backward.numpy())

    def _counted(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the images themselves, and counts whenever these, or their gradient, pass."""

        @tf.custom_gradient
        def identity(images: tf.Tensor) -> tuple:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                self._backward.assign_add(tf.shape(upstream, tf.int64)[0])
                return tf.identity(upstream)

            self._forward.assign_add(tf.shape(images, tf.int64)[0])
            return tf.identity(images), gradient

        return identity(images)
