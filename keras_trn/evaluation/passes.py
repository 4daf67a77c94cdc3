"""Counts the passes of an attack through a defence."""

import weakref
from collections.abc import Callable

import tensorflow as tf

from keras_trn.logits import logits_function
from keras_trn.types import Classifier

# By the id of the target, which a counted target keeps alive.
_COUNTED: weakref.WeakValueDictionary[int, "CountedTarget"] = weakref.WeakValueDictionary()


class CountedTarget:
    """Computes the logits of a target, and counts the images that pass forward and backward."""

    def __init__(self, target: Classifier) -> None:
        self._logits = logits_function(target)
        self._forward = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._backward = tf.Variable(0, dtype=tf.int64, trainable=False)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        # Outside its graph, an attack only asks for the number of classes.
        if not tf.executing_eagerly():
            self._forward.assign_add(tf.shape(images, tf.int64)[0])
        return self._count_backward(self._logits(images))

    def _count_backward(self, logits: tf.Tensor) -> tf.Tensor:
        @tf.custom_gradient
        def counted(logits: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                self._backward.assign_add(tf.shape(upstream, tf.int64)[0])
                return upstream

            return tf.identity(logits), gradient

        return counted(logits)

    @property
    def passes(self) -> tuple[int, int]:
        """Returns the forward and the backward passes so far, counted per image."""
        return int(self._forward.numpy()), int(self._backward.numpy())


def counted(target: Classifier) -> CountedTarget:
    """Wraps a target; returns the same wrapper each time, so TensorFlow traces it only once."""
    known = _COUNTED.get(id(target))
    if known is None:
        known = _COUNTED[id(target)] = CountedTarget(target)
    return known
