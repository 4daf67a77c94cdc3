"""JPEG compression, which throws away what the eye does not see."""

import io

import keras
import numpy as np
from PIL import Image

from keras_trn.baselines.image_filter import ImageFilter
from keras_trn.baselines.image_filter import in_numpy
from keras_trn.input_validation import check_whole_number

_BLOCK = 8
_LARGEST_PICTURE = 65_500


@keras.saving.register_keras_serializable(package="keras_trn")
class JpegCompression(ImageFilter):
    """Compresses images as JPEG before an unchanged classifier sees them.

    Compression discards fine detail, and with it a part of an adversarial
    perturbation. Images are rounded to 8 bits and compressed by Pillow with its
    usual settings, which halve the resolution of the colours. Images of 3 channels are
    compressed in colour; of any other number, each channel by itself as a grey picture.
    The gradient counts as zero: attack it with `keras_trn.threat_models.BPDA`, or without
    gradients.

    Source: Guo et al., "Countering Adversarial Images using Input
    Transformations", arXiv 1711.00117, whose quality of 75 is the default.

    Args:
        classifier: A built Keras model from images of shape `(batch, height,
            width, channels)` in [0, 1] to logits of shape `(batch, num_classes)`.
            It is frozen.
        quality: Quality of the compression from 1, the coarsest, to 95.
        **kwargs: The usual arguments of a Keras model (`name`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].

    Returns:
        The classifier's logits for the compressed images: a float32 tensor of
        shape `(batch, num_classes)`.

    Raises:
        ValueError: If the quality is no whole number from 1 to 95.

    Example:
        ```python
        compressed = keras_trn.baselines.JpegCompression(classifier, quality=50)
        assert compressed(images).shape == (8, 10)
        assert compressed.restore(images).shape == (8, 8, 8, 1)
        ```
    """

    def __init__(self, classifier, quality=75, **kwargs):
        super().__init__(classifier, **kwargs)
        self.quality = check_whole_number("quality", quality, 1, 95)

    def filtered(self, images):
        return in_numpy(self._compressed, images)

    def _compressed(self, images):
        pixels = np.round(255 * np.clip(images, 0.0, 1.0)).astype("uint8")
        if pixels.shape[-1] == 3:
            compressed = np.stack([_compress(image, self.quality) for image in pixels])
        else:
            channels = [
                _compress_grey(pixels[..., channel], self.quality)
                for channel in range(pixels.shape[-1])
            ]
            compressed = np.stack(channels, axis=-1)
        return compressed / np.float32(255)

    def get_config(self):
        return {**super().get_config(), "quality": self.quality}


def _compress_grey(images, quality):
    """Compresses many grey images in one picture, below one another, as this is much faster.

    JPEG treats the blocks of a grey picture alone, and repeats the last row up to a whole
    block: the result is bit for bit that of compressing each image by itself.
    """
    padded = np.pad(images, ((0, 0), (0, -images.shape[1] % _BLOCK), (0, 0)), "edge")
    _, height, width = padded.shape
    images_per_picture = _LARGEST_PICTURE // height
    pictures = [
        _compress(padded[start : start + images_per_picture].reshape(-1, width), quality)
        for start in range(0, len(padded), images_per_picture)
    ]
    return np.concatenate(pictures).reshape(padded.shape)[:, : images.shape[1]]


def _compress(picture, quality):
    """Compresses and decompresses one picture of 8 bits."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file, formats=["JPEG"]))
