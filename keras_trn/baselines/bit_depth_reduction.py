"""Bit-depth reduction, which rounds off small perturbations."""

from typing import Any

import keras
import tensorflow as tf

from keras_trn.baselines.image_filter import ImageFilter
from keras_trn.input_validation import check_whole_number


@keras.saving.register_keras_serializable(package="keras_trn")
class BitDepthReduction(ImageFilter):
    """Rounds pixels to a few levels before a frozen classifier classifies them.

    With `bits` bits, each channel of a pixel keeps `2 ** bits` evenly spaced values from 0 to 1.
    The gradient is zero: attack it with `keras_trn.threat_models.BPDA`, or without gradients.
    Call it like any `keras_trn.RestoredClassifier`.

    Source: Xu et al., "Feature Squeezing: Detecting Adversarial Examples in Deep Neural
    Networks", arXiv 1704.01155, who use it to detect attacks. Here the classifier sees the
    rounded images, as in arXiv 1711.00117.

    Args:
        classifier: A built Keras model from images in [0, 1] to logits. It is frozen.
        bits: Number of bits per channel, from 1 to 8.
        **kwargs: The usual arguments of a Keras model (`name`).

    Raises:
        ValueError: If `bits` is not a whole number from 1 to 8.

    Example:
        ```python
        rounded = keras_trn.baselines.BitDepthReduction(classifier, bits=1)
        assert set(np.unique(rounded.restore(images))) == {0.0, 1.0}
        ```
    """

    is_exportable = True

    def __init__(self, classifier: keras.Model, bits: int = 3, **kwargs: Any) -> None:
        super().__init__(classifier, **kwargs)
        self.bits = check_whole_number("bits", bits, 1, 8)

    def filtered(self, images: tf.Tensor) -> tf.Tensor:
        highest_level = 2.0**self.bits - 1
        return tf.round(images * highest_level) / highest_level

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bits": self.bits}
