"""Moving pixels between space and channels, without losing any."""

import keras
from keras import ops

from keras_trn.input_validation import check_count


class _PixelRearrangement(keras.layers.Layer):
    """What the two layers share: the block size and its place in the config."""

    def __init__(self, block_size=2, **kwargs):
        super().__init__(**kwargs)
        self.block_size = check_count("block_size", block_size)

    def get_config(self):
        return {**super().get_config(), "block_size": self.block_size}


def _extend(images, axis, side, block_size):
    """Mirrors a side, as often as it takes, until it is a multiple of the block size."""
    if isinstance(side, int) and side % block_size == 0:
        return images
    places = ops.arange(-(-side // block_size) * block_size) % (2 * side)
    return ops.take(images, ops.minimum(places, 2 * side - 1 - places), axis=axis)


@keras.saving.register_keras_serializable(package="keras_trn")
class PixelUnshuffle(_PixelRearrangement):
    """Folds each block of pixels into the channels.

    Lets a network work at a lower resolution, where a convolution of the same
    width costs `block_size ** 2` times less, with every pixel still there.
    Images whose sides are not multiples of `block_size` are first extended at
    the bottom and the right by mirroring.

    Source: Shi et al., "Real-Time Single Image and Video Super-Resolution Using
    an Efficient Sub-Pixel Convolutional Neural Network", arXiv 1609.05158.

    Args:
        block_size: Side of a block, in pixels; at least 1.
        **kwargs: The usual arguments of a Keras layer.

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)`.

    Returns:
        A tensor of shape `(batch, ceil(height / block_size),
        ceil(width / block_size), channels * block_size ** 2)`.

    Raises:
        ValueError: If `block_size` is not a positive whole number.

    Example:
        ```python
        images = keras.random.uniform((2, 9, 9, 1))
        folded = keras_trn.layers.PixelUnshuffle(2)(images)
        assert folded.shape == (2, 5, 5, 4)
        ```
    """

    def call(self, images):
        size = self.block_size
        if size == 1:
            return images
        channels = images.shape[-1]
        height, width = ops.shape(images)[1], ops.shape(images)[2]
        images = _extend(_extend(images, 1, height, size), 2, width, size)
        rows, columns = -(-height // size), -(-width // size)
        blocks = ops.reshape(images, (-1, rows, size, columns, size, channels))
        blocks = ops.transpose(blocks, (0, 1, 3, 2, 4, 5))
        return ops.reshape(blocks, (-1, rows, columns, size * size * channels))

    def compute_output_shape(self, images_shape):
        batch, height, width, channels = images_shape
        size = self.block_size
        rows = None if height is None else -(-height // size)
        columns = None if width is None else -(-width // size)
        return batch, rows, columns, channels * size**2


@keras.saving.register_keras_serializable(package="keras_trn")
class PixelShuffle(_PixelRearrangement):
    """Unfolds channels into blocks of pixels: the inverse of `PixelUnshuffle`.

    Source: Shi et al., arXiv 1609.05158.

    Args:
        block_size: Side of a block, in pixels; at least 1.
        **kwargs: The usual arguments of a Keras layer.

    Call arguments:
        features: Tensor of shape `(batch, rows, columns, channels)`, where
            `channels` is a multiple of `block_size ** 2`.

    Returns:
        A tensor of shape `(batch, rows * block_size, columns * block_size,
        channels / block_size ** 2)`.

    Raises:
        ValueError: If `block_size` is not a positive whole number, or the
            channels are not a multiple of its square.

    Example:
        ```python
        images = keras.random.uniform((2, 8, 8, 3))
        folded = keras_trn.layers.PixelUnshuffle(2)(images)
        unfolded = keras_trn.layers.PixelShuffle(2)(folded)
        assert keras.ops.all(unfolded == images)
        ```
    """

    def build(self, features_shape):
        if features_shape[-1] % self.block_size**2:
            raise ValueError(
                f"PixelShuffle({self.block_size}) needs a number of channels that is a "
                f"multiple of {self.block_size**2}, received {features_shape[-1]}."
            )

    def call(self, features):
        size = self.block_size
        if size == 1:
            return features
        channels = features.shape[-1] // size**2
        rows, columns = ops.shape(features)[1], ops.shape(features)[2]
        blocks = ops.reshape(features, (-1, rows, columns, size, size, channels))
        blocks = ops.transpose(blocks, (0, 1, 3, 2, 4, 5))
        return ops.reshape(blocks, (-1, rows * size, columns * size, channels))

    def compute_output_shape(self, features_shape):
        batch, rows, columns, channels = features_shape
        size = self.block_size
        height = None if rows is None else rows * size
        width = None if columns is None else columns * size
        return batch, height, width, channels // size**2
