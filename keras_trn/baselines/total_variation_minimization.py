"""Total variation minimization, which flattens what is not an edge."""

import math

import keras
import numpy as np

from keras_trn.baselines.image_filter import ImageFilter
from keras_trn.baselines.image_filter import in_numpy
from keras_trn.input_validation import check_range

_SMALLEST_WEIGHT = 1e-6


@keras.saving.register_keras_serializable(package="keras_trn")
class TotalVariationMinimization(ImageFilter):
    """Minimizes the total variation of images before an unchanged classifier sees them.

    Each image is replaced by one that is close to it and varies little from pixel
    to pixel, found by scikit-image's `denoise_tv_bregman` for each channel by
    itself. Unlike Guo et al., who first drop pixels at random and fill them in, it
    drops none, and so is deterministic. The gradient counts as zero: attack it with
    `keras_trn.threat_models.BPDA`, or without gradients.

    Source: Guo et al., "Countering Adversarial Images using Input
    Transformations", arXiv 1711.00117; Rudin, Osher and Fatemi, "Nonlinear Total
    Variation based Noise Removal Algorithms", Physica D 60, 1992.

    Args:
        classifier: A built Keras model from images of shape `(batch, height,
            width, channels)` in [0, 1] to logits of shape `(batch, num_classes)`.
            It is frozen.
        weight: Weight of the squared distance from the image against the total
            variation, at least 1e-6. The smaller it is, the smoother the result. The default
            is that of scikit-image.
        **kwargs: The usual arguments of a Keras model (`name`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].

    Returns:
        The classifier's logits for the smoothed images: a float32 tensor of shape
        `(batch, num_classes)`.

    Raises:
        ValueError: If the weight is below 1e-6.

    Example:
        ```python
        smoothed = keras_trn.baselines.TotalVariationMinimization(classifier, weight=2.0)
        images = np.random.default_rng(0).random((4, 8, 8, 1), dtype="float32")
        assert smoothed.restore(images).std() < images.std()
        ```
    """

    def __init__(self, classifier, weight=5.0, **kwargs):
        super().__init__(classifier, **kwargs)
        self.weight = check_range("weight", weight, _SMALLEST_WEIGHT, math.inf)

    def filtered(self, images):
        return in_numpy(self._smoothed, images)

    def _smoothed(self, images):
        # It takes more than half a second to import, and few need it.
        from skimage.restoration import denoise_tv_bregman

        height, width = images.shape[1:3]
        # Of several channels given at once, scikit-image lets one disturb the next.
        planes = np.moveaxis(images, -1, 1).reshape(-1, height, width)
        smoothed = [denoise_tv_bregman(plane, weight=self.weight) for plane in planes]
        smoothed = np.reshape(smoothed, (len(images), -1, height, width))
        return np.moveaxis(smoothed, 1, -1)

    def get_config(self):
        return {**super().get_config(), "weight": self.weight}
