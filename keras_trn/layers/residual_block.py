"""The residual block: the unit both streams are built from."""

import keras

from keras_trn.input_validation import check_count


@keras.saving.register_keras_serializable(package="keras_trn")
class ResidualBlock(keras.layers.Layer):
    """Two convolutions whose result is added to the input; at the start, nothing.

    The pre-activated form without batch normalization, as is usual in image
    restoration: the output for one image must not depend on the other images
    of its batch, nor on whether the network is being trained.

    Source: He et al., "Identity Mappings in Deep Residual Networks",
    arXiv 1603.05027; Lim et al., "Enhanced Deep Residual Networks for Single
    Image Super-Resolution", arXiv 1707.02921, for leaving out the
    normalization; Zhang et al., "Fixup Initialization", arXiv 1901.09321, for
    starting the second convolution at zero instead.

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
        block = keras_trn.layers.ResidualBlock()
        assert block(features).shape == (2, 8, 8, 16)
        ```
    """

    def __init__(self, kernel_size=3, **kwargs):
        super().__init__(**kwargs)
        self.kernel_size = check_count("kernel_size", kernel_size)

    def build(self, features_shape):
        filters = features_shape[-1]
        self.first = self._convolution(filters, "he_normal", "first")
        # Starting as the identity keeps deep stacks stable at high learning rates, for want of
        # a normalization.
        self.second = self._convolution(filters, "zeros", "second")
        self.first.build(features_shape)
        self.second.build(features_shape)

    def _convolution(self, filters, kernel_initializer, name):
        return keras.layers.Conv2D(
            filters,
            self.kernel_size,
            padding="same",
            data_format="channels_last",
            kernel_initializer=kernel_initializer,
            dtype=self.dtype_policy,
            name=name,
        )

    def call(self, features):
        hidden = self.first(keras.ops.relu(features))
        return features + self.second(keras.ops.relu(hidden))

    def compute_output_shape(self, features_shape):
        return features_shape

    def get_config(self):
        return {**super().get_config(), "kernel_size": self.kernel_size}
