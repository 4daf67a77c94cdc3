"""Layers that change the resolution of features."""

from typing import Any

import keras
from keras import ops

from keras_trn.input_validation import check_count
from keras_trn.types import Shape


@keras.saving.register_keras_serializable(package="keras_trn")
class Downsample(keras.layers.Layer):
    """Halves the resolution with a strided convolution.

    Sizes are rounded up: 7 x 7 features become 4 x 4.

    Args:
        filters: Number of output channels; at least 1.
        **kwargs: The usual arguments of a Keras layer (`name`, `dtype`).

    Call arguments:
        features: Tensor of shape `(batch, height, width, channels)`.

    Returns:
        A tensor of shape `(batch, ceil(height / 2), ceil(width / 2), filters)`.

    Raises:
        ValueError: If `filters` is not a positive whole number.

    Example:
        ```python
        features = keras.random.normal((2, 7, 7, 16))
        assert keras_trn.layers.Downsample(32)(features).shape == (2, 4, 4, 32)
        ```
    """

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = check_count("filters", filters)
        self.convolution = keras.layers.Conv2D(
            filters,
            3,
            strides=2,
            padding="same",
            data_format="channels_last",
            dtype=self.dtype_policy,
            name="convolution",
        )

    def build(self, features_shape: Shape) -> None:
        self.convolution.build(features_shape)

    def call(self, features: Any) -> Any:
        return self.convolution(ops.relu(features))

    def compute_output_shape(self, features_shape: Shape) -> Shape:
        return self.convolution.compute_output_shape(features_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable(package="keras_trn")
class Upsample(keras.layers.Layer):
    """Doubles the resolution, and adds earlier features of the same resolution.

    Source: the skip connections of Ronneberger et al., "U-Net", arXiv 1505.04597, added instead
    of concatenated.

    Args:
        **kwargs: The usual arguments of a Keras layer (`name`, `dtype`).

    Call arguments:
        features: A pair: coarse features of shape `(batch, ceil(height / 2), ceil(width / 2),
            channels)`, and fine features of shape `(batch, height, width, filters)`.

    Returns:
        A tensor of the shape of the fine features.

    Example:
        ```python
        coarse, fine = keras.random.normal((2, 4, 4, 32)), keras.random.normal((2, 7, 7, 16))
        assert keras_trn.layers.Upsample()([coarse, fine]).shape == (2, 7, 7, 16)
        ```
    """

    def build(self, features_shape: list[Shape]) -> None:
        coarse_shape, fine_shape = features_shape
        # At the coarse resolution, a convolution costs a quarter.
        self.convolution = keras.layers.Conv2D(
            fine_shape[-1],
            1,
            data_format="channels_last",
            dtype=self.dtype_policy,
            name="convolution",
        )
        self.convolution.build(coarse_shape)

    def call(self, features: list[Any]) -> Any:
        coarse, fine = features
        coarse = self.convolution(ops.relu(coarse))
        enlarged = ops.repeat(ops.repeat(coarse, 2, axis=1), 2, axis=2)
        return fine + enlarged[:, : ops.shape(fine)[1], : ops.shape(fine)[2], :]

    def compute_output_shape(self, features_shape: list[Shape]) -> Shape:
        return features_shape[1]
