"""An autoencoder that redraws the whole image: the restorer to harden."""

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_trn.input_validation import check_count
from keras_trn.layers import PixelShuffle
from keras_trn.restorer import Restorer
from keras_trn.types import Config

# With Keras' default, the averages lag behind the weights in short training.
_MOMENTUM = 0.9


@keras.saving.register_keras_serializable(package="keras_trn")
class RestorationAutoencoder(Restorer):
    """Draws the restored image from features of the attacked one.

    Strided convolutions reduce the resolution, residual blocks process the features, and one
    convolution draws all pixels of each block. The network copies neither pixels nor
    perturbations. Train it against an attacker who knows everything, with
    `compile(threat_model="whitebox_full")`. It loses details that the classifier does not need.

    Source: Li et al., "Purifying Adversarial Perturbation with Adversarially Trained
    Auto-encoders", arXiv 1905.10729, who train an autoencoder through a frozen classifier against
    attackers of both. The network is a choice of this project.

    Args:
        width: Number of filters at the lowest resolution; at least 1.
        depth: Number of residual blocks; at least 1.
        block_size: Factor by which to reduce the resolution, the side of the drawn blocks in
            pixels: a power of two, at least 2.
        **kwargs: The usual arguments of a Keras model (`name`, `dtype`).

    Call arguments:
        images: Shape `(batch, height, width, channels)`, in [0, 1]; any size.
        training: Whether batch normalization uses the statistics of the batch.

    Returns:
        The restored images: a float32 tensor of the shape of `images`, in [0, 1]. An untrained
        network draws gray images.

    Raises:
        ValueError: If an argument is malformed.

    Example:
        ```python
        restorer = keras_trn.RestorationAutoencoder(width=16, depth=1, block_size=2)
        hardened = keras_trn.ProtectedClassifier(classifier, restorer)
        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=4)
        hardened.compile("adam", attack=attack, threat_model="whitebox_full")
        ```
    """

    def __init__(self, width: int = 96, depth: int = 2, block_size: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = check_count("width", width)
        self.depth = check_count("depth", depth)
        self.block_size = check_count("block_size", block_size)
        halvings = math.log2(self.block_size)
        if self.block_size < 2 or halvings != int(halvings):
            raise ValueError(f"block_size must be a power of two, received {block_size!r}.")
        self.halvings = int(halvings)

    def build(self, images_shape: tuple) -> None:
        self.stem = self._stem()
        self.blocks = [self._residual_branch(number) for number in range(self.depth)]
        channels = images_shape[-1]
        self.decoder = keras.Sequential(
            [
                *self._normalized_convolution(self.width, 3),
                keras.layers.ReLU(dtype=self.dtype_policy),
                self._convolution(channels * self.block_size**2, 3, kernel_initializer="zeros"),
                PixelShuffle(self.block_size, dtype=self.dtype_policy),
            ],
            name="decoder",
        )
        self.stem.build(images_shape)
        features_shape = self.stem.compute_output_shape(images_shape)
        for part in (*self.blocks, self.decoder):
            part.build(features_shape)
        self.built = True

    def _stem(self) -> keras.Sequential:
        stem = keras.Sequential(name="stem")
        for halving in reversed(range(self.halvings)):
            filters = max(self.width // 2**halving, 1)
            kernel_size = 5 if halving == self.halvings - 1 else 3
            for layer in self._normalized_convolution(filters, kernel_size, strides=2):
                stem.add(layer)
            stem.add(keras.layers.ReLU(dtype=self.dtype_policy))
        return stem

    def _residual_branch(self, number: int) -> keras.Sequential:
        return keras.Sequential(
            [
                *self._normalized_convolution(self.width, 3),
                keras.layers.ReLU(dtype=self.dtype_policy),
                # The block starts as the identity.
                *self._normalized_convolution(self.width, 3, gamma_initializer="zeros"),
            ],
            name=f"block_{number}",
        )

    def _normalized_convolution(
        self, filters: int, kernel_size: int, strides: int = 1, gamma_initializer: str = "ones"
    ) -> list[keras.layers.Layer]:
        convolution = self._convolution(filters, kernel_size, strides=strides, use_bias=False)
        normalization = keras.layers.BatchNormalization(
            momentum=_MOMENTUM, gamma_initializer=gamma_initializer, dtype=self.dtype_policy
        )
        return [convolution, normalization]

    def _convolution(self, filters: int, kernel_size: int, **kwargs: Any) -> keras.layers.Layer:
        return keras.layers.Conv2D(
            filters,
            kernel_size,
            padding="same",
            data_format="channels_last",
            dtype=self.dtype_policy,
            **kwargs,
        )

    def call(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        features = self.stem(images, training=training)
        for block in self.blocks:
            features = ops.relu(features + block(features, training=training))
        drawn = ops.sigmoid(ops.cast(self.decoder(features, training=training), "float32"))
        return drawn[:, : ops.shape(images)[1], : ops.shape(images)[2], :]

    def compute_output_shape(self, images_shape: tuple) -> tuple:
        return images_shape

    def compute_output_spec(
        self, images: keras.KerasTensor, training: bool | None = None
    ) -> keras.KerasTensor:
        return keras.KerasTensor(images.shape, dtype="float32")

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "width": self.width,
            "depth": self.depth,
            "block_size": self.block_size,
        }
