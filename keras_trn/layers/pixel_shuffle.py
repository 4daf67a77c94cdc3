"""Layers that move pixels between space and channels without loss."""

from typing import Any

import keras
from keras import ops

from keras_trn.input_validation import check_count
from keras_trn.types import Shape


class _PixelRearrangement(keras.layers.Layer):
    def __init__(self, block_size: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.block_size = check_count("block_size", block_size)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "block_size": self.block_size}


def _rearrange(images: Any, blocks_shape: Any, shape: Any) -> Any:
    """Swaps the third and the fourth axis of blocks, and gives the result a new shape."""
    blocks = ops.transpose(ops.reshape(images, blocks_shape), (0, 1, 3, 2, 4, 5))
    return ops.reshape(blocks, shape)


def _divide(side: Any, block_size: int) -> Any:
    """Divides a side and rounds up; an unknown side stays unknown."""
    return None if side is None else -(-side // block_size)


def _extend(images: Any, axis: int, block_size: int) -> Any:
    """Extends a side by mirroring, repeatedly if needed, to a multiple of the block size."""
    side = ops.shape(images)[axis]
    if block_size == 1 or (isinstance(side, int) and side % block_size == 0):
        return images
    places = ops.arange(_divide(side, block_size) * block_size) % (2 * side)
    return ops.take(images, ops.minimum(places, 2 * side - 1 - places), axis=axis)


@keras.saving.register_keras_serializable(package="keras_trn")
class PixelUnshuffle(_PixelRearrangement):
    """Folds each block of pixels into the channels.

    A network then works at a lower resolution but still sees every pixel. A convolution of the
    same width costs `block_size ** 2` times less there. The layer first mirrors images at the
    bottom and the right if their sides are not multiples of `block_size`.

    Source: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient
    Sub-Pixel Convolutional Neural Network", arXiv 1609.05158.

    Args:
        block_size: Side of a block, in pixels; at least 1.
        **kwargs: The usual arguments of a Keras layer (`name`, `dtype`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)`.

    Returns:
        A tensor of shape `(batch, ceil(height / block_size), ceil(width / block_size),
        channels * block_size ** 2)`.

    Raises:
        ValueError: If `block_size` is not a positive whole number.

    Example:
        ```python
        images = keras.random.uniform((2, 9, 9, 1))
        folded = keras_trn.layers.PixelUnshuffle(2)(images)
        assert folded.shape == (2, 5, 5, 4)
        ```
    """

    def call(self, images: Any) -> Any:
        size = self.block_size
        images = _extend(_extend(images, 1, size), 2, size)
        _, height, width, channels = ops.shape(images)
        rows, columns = height // size, width // size
        blocks_shape = (-1, rows, size, columns, size, channels)
        return _rearrange(images, blocks_shape, (-1, rows, columns, size * size * channels))

    def compute_output_shape(self, images_shape: Shape) -> Shape:
        batch, height, width, channels = images_shape
        size = self.block_size
        return batch, _divide(height, size), _divide(width, size), channels * size**2


@keras.saving.register_keras_serializable(package="keras_trn")
class PixelShuffle(_PixelRearrangement):
    """Unfolds channels into blocks of pixels: the inverse of `PixelUnshuffle`.

    Source: Shi et al., arXiv 1609.05158.

    Args:
        block_size: Side of a block, in pixels; at least 1.
        **kwargs: The usual arguments of a Keras layer (`name`, `dtype`).

    Call arguments:
        features: Tensor of shape `(batch, rows, columns, channels)`, where `channels` is a
            multiple of `block_size ** 2`.

    Returns:
        A tensor of shape `(batch, rows * block_size, columns * block_size,
        channels / block_size ** 2)`.

    Raises:
        ValueError: If `block_size` is not a positive whole number, or `channels` is not a
            multiple of its square.

    Example:
        ```python
        images = keras.random.uniform((2, 8, 8, 3))
        folded = keras_trn.layers.PixelUnshuffle(2)(images)
        unfolded = keras_trn.layers.PixelShuffle(2)(folded)
        assert keras.ops.all(unfolded == images)
        ```
    """

    def build(self, features_shape: Shape) -> None:
        if features_shape[-1] % self.block_size**2:
            raise ValueError(
                f"PixelShuffle({self.block_size}) needs a number of channels that is a "
                f"multiple of {self.block_size**2}, received {features_shape[-1]}."
            )

    def call(self, features: Any) -> Any:
        size = self.block_size
        _, rows, columns, channels = ops.shape(features)
        channels = channels // size**2
        blocks_shape = (-1, rows, columns, size, size, channels)
        return _rearrange(features, blocks_shape, (-1, rows * size, columns * size, channels))

    def compute_output_shape(self, features_shape: Shape) -> Shape:
        batch, rows, columns, channels = features_shape
        size = self.block_size
        height, width = (None if side is None else side * size for side in (rows, columns))
        return batch, height, width, channels // size**2
