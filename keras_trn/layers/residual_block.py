"""The residual block of both streams."""

from typing import Any

import keras

from keras_trn.input_validation import check_count
from keras_trn.types import Shape


@keras.saving.register_keras_serializable(package="keras_trn")
class ResidualBlock(keras.layers.Layer):
    """Adds the result of two convolutions to its input; at the start, it is the identity.

    It is pre-activated, and has no batch normalization, as is usual in image restoration. The
    output for an image must not depend on its batch or on the training mode.

    Source: He et al., "Identity Mappings in Deep Residual Networks", arXiv 1603.05027; without
    normalization: Lim et al., "Enhanced Deep Residual Networks for Single Image
    Super-Resolution", arXiv 1707.02921; with a second convolution that starts at zero instead:
    Zhang et al., "Fixup Initialization", arXiv 1901.09321.

    Args:
        kernel_size: Side of the square convolution kernels, in pixels; at least 1.
        **kwargs: The usual arguments of a Keras layer (`name`, `dtype`).

    Call arguments:
        features: Tensor of shape `(batch, height, width, filters)`.

    Returns:
        A tensor of the shape of `features`.

    Raises:
        ValueError: If `kernel_size` is not a positive whole number.

    Example:
        ```python
        features = keras.random.normal((2, 8, 8, 16))
        assert keras_trn.layers.ResidualBlock()(features).shape == (2, 8, 8, 16)
        ```
    """

    def __init__(self, kernel_size: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kernel_size = check_count("kernel_size", kernel_size)

    def build(self, features_shape: Shape) -> None:
        self.first = self._convolution(features_shape, "he_normal", "first")
        # A deep stack of identities is stable at high learning rates without normalization.
        self.second = self._convolution(features_shape, "zeros", "second")

    def _convolution(
        self, features_shape: Shape, kernel_initializer: str, name: str
    ) -> keras.layers.Layer:
        convolution = keras.layers.Conv2D(
            features_shape[-1],
            self.kernel_size,
            padding="same",
            data_format="channels_last",
            kernel_initializer=kernel_initializer,
            dtype=self.dtype_policy,
            name=name,
        )
        convolution.build(features_shape)
        return convolution

    def call(self, features: Any) -> Any:
        hidden = self.first(keras.ops.relu(features))
        return features + self.second(keras.ops.relu(hidden))

    def compute_output_shape(self, features_shape: Shape) -> Shape:
        return features_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kernel_size": self.kernel_size}
