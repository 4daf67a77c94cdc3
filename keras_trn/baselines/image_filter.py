"""A classifier behind a filter of images that nothing can be differentiated through."""

import numpy as np
import tensorflow as tf

from keras_trn.input_validation import check_image_type
from keras_trn.restored_classifier import RestoredClassifier


class ImageFilter(RestoredClassifier):
    """A frozen classifier behind a fixed filter of its images.

    The base of the filters: a subclass writes `filtered`. The gradient of a
    filter counts as zero everywhere, so that gradient attacks on filter and
    classifier together run, and find nothing. Such a gradient hides how easily
    a filter is broken; `keras_trn.threat_models.BPDA` shows it, and a report leaves
    `whitebox_full` out.

    Args:
        classifier: A built Keras model from images of shape `(batch, height,
            width, channels)` in [0, 1] to logits of shape `(batch, num_classes)`.
        **kwargs: The usual arguments of a Keras model (`name`).
    """

    is_differentiable = False
    # What NumPy computes stays in the process that computes it.
    is_exportable = False

    def __init__(self, classifier, **kwargs):
        super().__init__(classifier, **kwargs)
        # XLA cannot run what NumPy computes.
        self.supports_jit = False
        self.build((None, *self.image_shape))

    def export(self, *args, **kwargs):
        """Exports the model for serving, unless its filter runs in NumPy."""
        if not self.is_exportable:
            raise ValueError(
                f"{type(self).__name__} filters images with NumPy, which a SavedModel cannot hold. "
                "Filter the images before, and export `classifier` alone."
            )
        super().export(*args, **kwargs)

    def restore_batch(self, images, labels=None):
        check_image_type(images, self.image_shape)
        return _without_gradient(self.filtered, tf.cast(images, tf.float32))

    def filtered(self, images):
        """Filters a batch, each image alone: what a subclass must write.

        Args:
            images: Float32 tensor of shape `(batch, height, width, channels)` in
                [0, 1].

        Returns:
            A float32 tensor of the shape of `images`, in [0, 1].
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `filtered`.")


def in_numpy(image_filter, images):
    """Filters images by a function of NumPy arrays, eagerly or in a graph.

    Args:
        image_filter: Function from a float32 array of images to one of its shape.
        images: Float32 tensor of shape `(batch, height, width, channels)`.

    Returns:
        A float32 tensor of the shape of `images`, in [0, 1].
    """

    def compute(pixels):
        return np.clip(image_filter(pixels), 0.0, 1.0).astype("float32")

    filtered = tf.numpy_function(compute, [images], tf.float32, stateful=False)
    return tf.ensure_shape(filtered, images.shape)


def _without_gradient(function, images):
    """Applies a function whose gradient is zero, where TensorFlow itself would give `None`."""

    @tf.custom_gradient
    def apply(images):
        return function(images), tf.zeros_like

    return apply(images)
