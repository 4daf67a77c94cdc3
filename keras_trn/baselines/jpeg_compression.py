"""JPEG compression, which discards details that people do not see."""

import io
from typing import Any

import keras
import numpy as np
from PIL import Image

from keras_trn.baselines.image_filter import ImageFilter
from keras_trn.input_validation import check_whole_number

_BLOCK = 8
_LARGEST_PICTURE = 65_500


@keras.saving.register_keras_serializable(package="keras_trn")
class JpegCompression(ImageFilter):
    """Compresses images as JPEG before a frozen classifier classifies them.

    Compression discards fine detail, and with it a part of an adversarial perturbation. Pillow
    compresses 8-bit images with its default settings, which halve the resolution of the colours.
    It compresses images of 3 channels in colour, and otherwise each channel as a grey image.
    The gradient is zero: attack it with `keras_trn.threat_models.BPDA`, or without gradients.
    Call it like any `keras_trn.RestoredClassifier`.

    Source: Guo et al., "Countering Adversarial Images using Input Transformations",
    arXiv 1711.00117, whose quality of 75 is the default.

    Args:
        classifier: A built Keras model from images in [0, 1] to logits. It is frozen.
        quality: Quality of the compression, from 1 (coarsest) to 95.
        **kwargs: The usual arguments of a Keras model (`name`).

    Raises:
        ValueError: If `quality` is not a whole number from 1 to 95.

    Example:
        ```python
        compressed = keras_trn.baselines.JpegCompression(classifier, quality=50)
        assert compressed(images).shape == (8, 10)
        assert compressed.restore(images).shape == (8, 8, 8, 1)
        ```
    """

    def __init__(self, classifier: keras.Model, quality: int = 75, **kwargs: Any) -> None:
        super().__init__(classifier, **kwargs)
        self.quality = check_whole_number("quality", quality, 1, 95)

    def filter_array(self, images: np.ndarray) -> np.ndarray:
        pixels = np.round(255 * np.clip(images, 0.0, 1.0)).astype("uint8")
        if pixels.shape[-1] == 3:
            compressed = np.stack([_compress(image, self.quality) for image in pixels])
        else:
            channels = [_compress_grey(grey, self.quality) for grey in np.moveaxis(pixels, -1, 0)]
            compressed = np.stack(channels, axis=-1)
        return compressed / np.float32(255)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "quality": self.quality}


def _compress_grey(images: np.ndarray, quality: int) -> np.ndarray:
    """Compresses many grey images stacked into one picture, which is much faster.

    JPEG compresses each block of a grey picture separately, and repeats the last row to fill a
    block. So the result is identical to compressing the images one by one.
    """
    padded = np.pad(images, ((0, 0), (0, -images.shape[1] % _BLOCK), (0, 0)), "edge")
    _, height, width = padded.shape
    step = _LARGEST_PICTURE // height
    pictures = [
        _compress(padded[start : start + step].reshape(-1, width), quality)
        for start in range(0, len(padded), step)
    ]
    return np.concatenate(pictures).reshape(padded.shape)[:, : images.shape[1]]


def _compress(picture: np.ndarray, quality: int) -> np.ndarray:
    """Compresses and decompresses an 8-bit picture."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file, formats=["JPEG"]))
