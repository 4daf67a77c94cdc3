"""Measures the quality of restored images and the accuracy of classifiers."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_trn.types import ArrayLike
from keras_trn.types import Config

# The ratio of two equal images is infinite, which would make every mean infinite.
_LARGEST_RATIO = 100.0


def peak_signal_to_noise_ratio(images: ArrayLike, restored: ArrayLike) -> tf.Tensor:
    """Computes the peak signal-to-noise ratio (PSNR) of each image.

    Args:
        images: Clean images of shape `(batch, height, width, channels)` in [0, 1].
        restored: Images of the same shape to compare with them.

    Returns:
        A tensor of shape `(batch,)`, in decibels, at most 100.

    Example:
        ```python
        ratio = keras_trn.metrics.peak_signal_to_noise_ratio(images, images)
        assert ratio.shape == (8,) and np.all(ratio == 100.0)
        ```
    """
    images, restored = ops.convert_to_tensor(images), ops.convert_to_tensor(restored)
    return tf.minimum(tf.image.psnr(images, restored, max_val=1.0), _LARGEST_RATIO)


def structural_similarity(images: ArrayLike, restored: ArrayLike) -> tf.Tensor:
    """Computes the structural similarity (SSIM) of each image.

    Source: Wang et al., "Image Quality Assessment: From Error Visibility to
    Structural Similarity", 2004; TensorFlow's `tf.image.ssim`. The window has 11
    pixels, as in the paper, or fewer if the image is smaller.

    Args:
        images: Clean images of shape `(batch, height, width, channels)` in [0, 1].
        restored: Images of the same shape to compare with them.

    Returns:
        A tensor of shape `(batch,)`, at most 1; only an exact copy reaches 1.

    Example:
        ```python
        similarity = keras_trn.metrics.structural_similarity(images, images)
        assert np.allclose(similarity, 1.0, atol=1e-3)
        ```
    """
    images, restored = ops.convert_to_tensor(images), ops.convert_to_tensor(restored)
    smallest_side = min(side for side in images.shape[1:3] if side is not None)
    odd_side = smallest_side - 1 + smallest_side % 2
    return tf.image.ssim(images, restored, max_val=1.0, filter_size=min(11, odd_side))


class _NaNWithoutImages(keras.metrics.Mean):
    """Returns NaN without images, because Keras' 0 would look like a result."""

    def result(self) -> Any:
        return ops.where(self.count > 0, super().result(), float("nan"))


@keras.saving.register_keras_serializable(package="keras_trn")
class Accuracy(_NaNWithoutImages, keras.metrics.SparseCategoricalAccuracy):
    """Computes the share of correctly classified images; NaN without images.

    Args:
        name: Name of the metric.
        dtype: Type of the result.

    Call arguments:
        y_true: Class indices of shape `(batch,)`.
        y_pred: Logits of shape `(batch, num_classes)`.

    Returns:
        A number from 0 to 1.

    Example:
        ```python
        metric = keras_trn.metrics.Accuracy()
        assert np.isnan(metric.result())
        metric.update_state([1, 0], [[0.0, 3.0], [0.0, 3.0]])
        assert metric.result() == 0.5
        ```
    """

    def __init__(
        self, name: str = "sparse_categorical_accuracy", dtype: str | None = "float32"
    ) -> None:
        # With a `floatx` of float16, it could only count up to 2,048 images.
        super().__init__(name=name, dtype=dtype)


@keras.saving.register_keras_serializable(package="keras_trn")
class PeakSignalToNoiseRatio(_NaNWithoutImages, keras.metrics.MeanMetricWrapper):
    """Computes the mean peak signal-to-noise ratio (PSNR) of restored images, in decibels.

    Args:
        name: Name of the metric.
        dtype: Type of the result.

    Call arguments:
        y_true: Clean images of shape `(batch, height, width, channels)` in [0, 1].
        y_pred: Images of the same shape to compare with them.

    Returns:
        The mean over images, in decibels; an exact copy counts 100. NaN without images.

    Example:
        ```python
        metric = keras_trn.metrics.PeakSignalToNoiseRatio()
        metric.update_state(images, images)
        assert metric.result() == 100.0
        ```
    """

    def __init__(self, name: str = "psnr", dtype: str | None = "float32") -> None:
        super().__init__(peak_signal_to_noise_ratio, name=name, dtype=dtype)

    def get_config(self) -> Config:
        return {"name": self.name, "dtype": self.dtype}
