"""Median smoothing, which removes pixels that differ from their neighbours."""

from typing import Any

import keras
import numpy as np
from scipy import ndimage

from keras_trn.baselines.image_filter import ImageFilter
from keras_trn.input_validation import check_count


@keras.saving.register_keras_serializable(package="keras_trn")
class MedianSmoothing(ImageFilter):
    """Smooths images with a median filter before a frozen classifier classifies them.

    Each pixel becomes the median of a square window around it, for each channel separately; the
    image is reflected at its edges. The gradient is set to zero: attack it with
    `keras_trn.threat_models.BPDA`, or without gradients. Call it like any
    `keras_trn.RestoredClassifier`.

    Source: Xu et al., "Feature Squeezing: Detecting Adversarial Examples in Deep Neural
    Networks", arXiv 1704.01155, who use it to detect attacks. Here the classifier sees the
    smoothed images.

    Args:
        classifier: A built Keras model from images in [0, 1] to logits. It is frozen.
        size: Side of the window in pixels: an odd number of at least 3.
        **kwargs: The usual arguments of a Keras model (`name`).

    Raises:
        ValueError: If `size` is not an odd whole number of at least 3.

    Example:
        ```python
        smoothed = keras_trn.baselines.MedianSmoothing(classifier)
        images = np.zeros((1, 8, 8, 1), "float32")
        images[0, 4, 4] = 1.0
        assert smoothed.restore(images).max() == 0.0
        ```
    """

    def __init__(self, classifier: keras.Model, size: int = 3, **kwargs: Any) -> None:
        super().__init__(classifier, **kwargs)
        self.size = check_count("size", size)
        if self.size == 1 or self.size % 2 == 0:
            raise ValueError(
                "size must be 3 or another odd number, so that the window has a centre, received "
                f"{size!r}."
            )

    def filter_array(self, images: np.ndarray) -> np.ndarray:
        return ndimage.median_filter(images, size=(1, self.size, self.size, 1))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size}
