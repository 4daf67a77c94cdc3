"""Median smoothing, which removes what stands out among its neighbours."""

import keras
from scipy import ndimage

from keras_trn.baselines.image_filter import ImageFilter
from keras_trn.baselines.image_filter import in_numpy
from keras_trn.input_validation import check_count


@keras.saving.register_keras_serializable(package="keras_trn")
class MedianSmoothing(ImageFilter):
    """Smooths images by a median before an unchanged classifier sees them.

    One of the two filters of feature squeezing: each pixel becomes the median of a
    square window around it, each channel by itself; beyond its edges an image is
    reflected. The gradient counts as zero, although a median has one nearly
    everywhere: attack it with `keras_trn.threat_models.BPDA`, or without gradients.

    Source: Xu et al., "Feature Squeezing: Detecting Adversarial Examples in Deep
    Neural Networks", arXiv 1704.01155. They detect attacks by it; here the
    classifier sees the smoothed images.

    Args:
        classifier: A built Keras model from images of shape `(batch, height,
            width, channels)` in [0, 1] to logits of shape `(batch, num_classes)`.
            It is frozen.
        size: Side of the window in pixels: 3 or another odd number, so that the
            window has a centre.
        **kwargs: The usual arguments of a Keras model (`name`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].

    Returns:
        The classifier's logits for the smoothed images: a float32 tensor of shape
        `(batch, num_classes)`.

    Raises:
        ValueError: If the size is no odd whole number of at least 3.

    Example:
        ```python
        smoothed = keras_trn.baselines.MedianSmoothing(classifier)
        images = np.zeros((1, 8, 8, 1), "float32")
        images[0, 4, 4] = 1.0
        assert smoothed.restore(images).max() == 0.0
        ```
    """

    def __init__(self, classifier, size=3, **kwargs):
        super().__init__(classifier, **kwargs)
        self.size = check_count("size", size)
        if self.size == 1 or self.size % 2 == 0:
            raise ValueError(
                "size must be 3 or another odd number, so that the window has a centre, received "
                f"{size!r}."
            )

    def filtered(self, images):
        return in_numpy(self._smoothed, images)

    def _smoothed(self, images):
        return ndimage.median_filter(images, size=(1, self.size, self.size, 1))

    def get_config(self):
        return {**super().get_config(), "size": self.size}
