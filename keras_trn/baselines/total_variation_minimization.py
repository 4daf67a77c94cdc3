"""Total variation minimization, which flattens everything except edges."""

import math
from typing import Any

import keras
import numpy as np

from keras_trn.baselines.image_filter import ImageFilter
from keras_trn.input_validation import check_range

_SMALLEST_WEIGHT = 1e-6


@keras.saving.register_keras_serializable(package="keras_trn")
class TotalVariationMinimization(ImageFilter):
    """Minimizes the total variation of images before a frozen classifier classifies them.

    scikit-image's `denoise_tv_bregman` replaces each channel of an image with a similar one with
    little variation between neighbouring pixels. It is deterministic, unlike the method of Guo et
    al., which first drops random pixels and fills them in. The gradient is zero: attack it with
    `keras_trn.threat_models.BPDA`, or without gradients. Call it like any
    `keras_trn.RestoredClassifier`.

    Source: Guo et al., "Countering Adversarial Images using Input Transformations",
    arXiv 1711.00117; Rudin, Osher and Fatemi, "Nonlinear Total Variation based Noise Removal
    Algorithms", Physica D 60, 1992.

    Args:
        classifier: A built Keras model from images in [0, 1] to logits. It is frozen.
        weight: Weight of the squared distance from the image relative to the total variation, at
            least 1e-6. A smaller weight gives smoother images.
        **kwargs: The usual arguments of a Keras model (`name`).

    Raises:
        ValueError: If `weight` is less than 1e-6.

    Example:
        ```python
        smoothed = keras_trn.baselines.TotalVariationMinimization(classifier, weight=2.0)
        images = np.random.default_rng(0).random((4, 8, 8, 1), dtype="float32")
        assert smoothed.restore(images).std() < images.std()
        ```
    """

    def __init__(self, classifier: keras.Model, weight: float = 5.0, **kwargs: Any) -> None:
        super().__init__(classifier, **kwargs)
        self.weight = check_range("weight", weight, _SMALLEST_WEIGHT, math.inf)

    def filter_array(self, images: np.ndarray) -> np.ndarray:
        # This import takes more than half a second, and few users need it.
        from skimage.restoration import denoise_tv_bregman

        height, width = images.shape[1:3]
        # One channel at a time, because scikit-image lets channels affect each other.
        planes = np.moveaxis(images, -1, 1).reshape(-1, height, width)
        smoothed = np.stack([denoise_tv_bregman(plane, weight=self.weight) for plane in planes])
        return np.moveaxis(smoothed.reshape(len(images), -1, height, width), 1, -1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight": self.weight}
