"""Bit-depth reduction, which rounds small perturbations away."""

import keras
import tensorflow as tf

from keras_trn.baselines.image_filter import ImageFilter
from keras_trn.input_validation import check_whole_number


@keras.saving.register_keras_serializable(package="keras_trn")
class BitDepthReduction(ImageFilter):
    """Rounds pixels to a few levels before an unchanged classifier sees them.

    One of the two filters of feature squeezing: with `bits` bits, each channel of
    a pixel keeps `2 ** bits` evenly spaced values from 0 to 1. The gradient counts
    as zero: attack it with `keras_trn.threat_models.BPDA`, or without gradients.

    Source: Xu et al., "Feature Squeezing: Detecting Adversarial Examples in Deep
    Neural Networks", arXiv 1704.01155. They detect attacks by it; here, as in
    arXiv 1711.00117, the classifier sees the rounded images.

    Args:
        classifier: A built Keras model from images of shape `(batch, height,
            width, channels)` in [0, 1] to logits of shape `(batch, num_classes)`.
            It is frozen.
        bits: Number of bits left of each channel of a pixel, from 1 to 8.
        **kwargs: The usual arguments of a Keras model (`name`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].

    Returns:
        The classifier's logits for the rounded images: a float32 tensor of shape
        `(batch, num_classes)`.

    Raises:
        ValueError: If `bits` is no whole number from 1 to 8.

    Example:
        ```python
        rounded = keras_trn.baselines.BitDepthReduction(classifier, bits=1)
        assert set(np.unique(rounded.restore(images))) == {0.0, 1.0}
        ```
    """

    is_exportable = True

    def __init__(self, classifier, bits=3, **kwargs):
        super().__init__(classifier, **kwargs)
        self.bits = check_whole_number("bits", bits, 1, 8)

    def filtered(self, images):
        highest_level = 2.0**self.bits - 1
        return tf.round(images * highest_level) / highest_level

    def get_config(self):
        return {**super().get_config(), "bits": self.bits}
