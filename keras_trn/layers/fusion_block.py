"""The Fusion Block: where the image stream and the gradient stream meet."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_trn")
class FusionBlock(keras.layers.Layer):
    """Lets the two streams explore each other and sends both on enriched.

    A perturbation crafted along the gradient agrees with the gradient map in
    sign, pixel by pixel. Agreement of two signals is their product, which no
    sum of the two can express; so the block sees the features of the image
    stream, those of the gradient stream, and the product of a projection of
    each. From the three it computes one correction for every stream and adds
    it.

    Source: the Fusion Block of Hong et al., arXiv 2202.01117, in its role; the
    multiplicative form is this project's own choice.

    Args:
        **kwargs: The usual arguments of a Keras layer (`name`, `dtype`).

    Call arguments:
        features: A pair `[image_features, gradient_features]` of tensors of
            shape `(batch, height, width, filters)`, of equal shape.

    Returns:
        A pair of tensors of the same shape: the enriched streams.

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

    def build(self, features_shape):
        image_shape, gradient_shape = features_shape
        if tuple(image_shape) != tuple(gradient_shape):
            raise ValueError(
                "FusionBlock expects two streams of the same shape, but received "
                f"image features of shape {tuple(image_shape)} and gradient features "
                f"of shape {tuple(gradient_shape)}."
            )
        filters = image_shape[-1]
        self.image_projection = self._projection(filters, "image_projection")
        self.gradient_projection = self._projection(filters, "gradient_projection")
        self.exchange = self._projection(2 * filters, "exchange")
        self.image_projection.build(image_shape)
        self.gradient_projection.build(image_shape)
        self.exchange.build((*image_shape[:-1], 3 * filters))

    def _projection(self, filters, name):
        return keras.layers.Conv2D(
            filters, 1, data_format="channels_last", dtype=self.dtype_policy, name=name
        )

    def call(self, features):
        image_features, gradient_features = features
        agreement = ops.tanh(self.image_projection(image_features)) * ops.tanh(
            self.gradient_projection(gradient_features)
        )
        seen = ops.concatenate([image_features, gradient_features, agreement], axis=-1)
        for_image, for_gradient = ops.split(self.exchange(ops.relu(seen)), 2, axis=-1)
        return [image_features + for_image, gradient_features + for_gradient]

    def compute_output_shape(self, features_shape):
        return features_shape
