"""The block that exchanges information between the image stream and the gradient stream."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_trn")
class FusionBlock(keras.layers.Layer):
    """Exchanges information between the image stream and the gradient stream.

    A perturbation along the gradient has the sign of the gradient map, pixel by pixel. A product
    of the streams detects this agreement; a sum does not. So the block projects both streams,
    multiplies the projections, and computes a correction of each stream from both streams and
    the product.

    Source: the Fusion Block of Hong et al., arXiv 2202.01117. The multiplicative form is this
    project's choice.

    Args:
        **kwargs: The usual arguments of a Keras layer (`name`, `dtype`).

    Call arguments:
        features: A pair `[image_features, gradient_features]` of tensors of equal shape
            `(batch, height, width, filters)`.

    Returns:
        The pair of corrected streams, of the same shape.

    Raises:
        ValueError: If the two streams differ in shape.

    Example:
        ```python
        image_features = keras.random.normal((2, 8, 8, 16))
        gradient_features = keras.random.normal((2, 8, 8, 16))
        fuse = keras_trn.layers.FusionBlock()
        image_features, gradient_features = fuse([image_features, gradient_features])
        assert image_features.shape == (2, 8, 8, 16)
        ```
    """

    def build(self, features_shape: Any) -> None:
        image_shape, gradient_shape = map(tuple, features_shape)
        if image_shape != gradient_shape:
            raise ValueError(
                "FusionBlock expects two streams of the same shape, but received image features "
                f"of shape {image_shape} and gradient features of shape {gradient_shape}."
            )
        filters = image_shape[-1]
        self.image_projection = self._projection(filters, "image_projection")
        self.gradient_projection = self._projection(filters, "gradient_projection")
        self.exchange = self._projection(2 * filters, "exchange")
        self.image_projection.build(image_shape)
        self.gradient_projection.build(image_shape)
        self.exchange.build((*image_shape[:-1], 3 * filters))

    def _projection(self, filters: int, name: str) -> keras.layers.Layer:
        return keras.layers.Conv2D(
            filters, 1, data_format="channels_last", dtype=self.dtype_policy, name=name
        )

    def call(self, features: Any) -> list[Any]:
        image_features, gradient_features = features
        agreement = ops.tanh(self.image_projection(image_features)) * ops.tanh(
            self.gradient_projection(gradient_features)
        )
        seen = ops.concatenate([image_features, gradient_features, agreement], axis=-1)
        for_image, for_gradient = ops.split(self.exchange(ops.relu(seen)), 2, axis=-1)
        return [image_features + for_image, gradient_features + for_gradient]

    def compute_output_shape(self, features_shape: Any) -> Any:
        return features_shape
