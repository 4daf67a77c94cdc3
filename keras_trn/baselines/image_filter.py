"""The base class of baselines that filter images without learning."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_trn.input_validation import check_image_type
from keras_trn.restored_classifier import RestoredClassifier


class ImageFilter(RestoredClassifier):
    """Filters images before a frozen classifier classifies them.

    A filter has a gradient of zero, so gradient attacks through it find nothing and make it look
    robust. Attack it with `keras_trn.threat_models.BPDA`, or without gradients. A subclass
    defines `filter_array`, which filters NumPy arrays, or overrides `filtered`, which filters
    tensors.

    Args:
        classifier: A built Keras model from images of shape `(batch, height, width, channels)` in
            [0, 1] to logits of shape `(batch, num_classes)`.
        **kwargs: The usual arguments of a Keras model (`name`).
    """

    is_differentiable = False
    # A SavedModel cannot contain NumPy functions.
    is_exportable = False

    def __init__(self, classifier: keras.Model, **kwargs: Any) -> None:
        super().__init__(classifier, **kwargs)
        # XLA cannot compile NumPy functions.
        self.supports_jit = False
        self.build((None, *self.image_shape))

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Exports the model for serving, unless its filter runs in NumPy."""
        if not self.is_exportable:
            raise ValueError(
                f"{type(self).__name__} filters images with NumPy, which a SavedModel cannot hold. "
                "Export `classifier` alone, and filter the images before you pass them to it."
            )
        super().export(*args, **kwargs)

    def restore_batch(self, images: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        check_image_type(images, self.image_shape)

        # TensorFlow's own gradient would be `None`, not zero.
        @tf.custom_gradient
        def filtered(images: tf.Tensor) -> tuple[tf.Tensor, Any]:
            return self.filtered(images), tf.zeros_like

        return filtered(tf.cast(images, tf.float32))

    def filtered(self, images: tf.Tensor) -> tf.Tensor:
        """Filters a float32 batch in [0, 1], each image separately, eagerly or in a graph."""

        def compute(pixels: np.ndarray) -> np.ndarray:
            return np.clip(self.filter_array(pixels), 0.0, 1.0).astype("float32")

        result = tf.numpy_function(compute, [images], tf.float32, stateful=False)
        return tf.ensure_shape(result, images.shape)

    def filter_array(self, images: np.ndarray) -> np.ndarray:
        """Filters an array of images, each image separately; a subclass must define this."""
        raise NotImplementedError(f"{type(self).__name__} does not define `filter_array`.")
