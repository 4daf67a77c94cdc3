"""Losses that train a restorer in front of a frozen classifier."""

import math
from collections.abc import Callable
from typing import NamedTuple
from typing import Self

import keras
import tensorflow as tf
from keras import layers

from keras_trn.input_validation import check_range
from keras_trn.logits import logits_function
from keras_trn.types import Config


class RestoredBatch(NamedTuple):
    """Holds a batch of restored images for a loss.

    Args:
        clean: The clean images, of shape `(batch, height, width, channels)`.
        restored: The restored images, of the same shape.
        labels: The classes that the restored images should have, of shape `(batch,)`: by
            default the predictions of the classifier for the clean images.
        logits: The logits of the classifier for the restored images.
        classifier: The frozen classifier.

    Example:
        ```python
        logits = classifier(images)
        batch = keras_trn.losses.RestoredBatch(
            images, images, tf.argmax(logits, axis=-1), logits, classifier
        )
        assert keras_trn.losses.RestorationLoss().call(batch).shape == (8,)
        ```
    """

    clean: tf.Tensor
    restored: tf.Tensor
    labels: tf.Tensor
    logits: tf.Tensor
    classifier: keras.Model


class RestorerLoss:
    """Measures how far restored images are from the goal; the base of all restorer losses.

    A subclass defines `call`, and `get_config` if it has arguments. A loss may have weights,
    which `fit` trains together with the restorer.

    Example:
        ```python
        class SquaredError(keras_trn.losses.RestorerLoss):
            def call(self, batch):
                return tf.reduce_mean(tf.square(batch.restored - batch.clean), axis=[1, 2, 3])

        protected = keras_trn.ProtectedClassifier(classifier)
        attack = keras_trn.attacks.FastGradientMethod(epsilon=0.1)
        protected.compile(loss=SquaredError(), attack=attack)
        ```
    """

    # The pixel weight that an `EstimatedLabel` without one uses for its first restoration.
    pixel: float = 10.0

    def build(self, image_shape: tuple) -> None:
        """Creates the weights, if the loss has any.

        Args:
            image_shape: `(height, width, channels)`; height and width may be `None`.
        """

    @property
    def variables(self) -> list[keras.Variable]:
        """Returns the weights of the loss, all trainable."""
        return []

    def call(self, batch: RestoredBatch) -> tf.Tensor:
        """Computes the loss of each image.

        Args:
            batch: A `RestoredBatch`.

        Returns:
            A tensor of shape `(batch,)`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `call`.")

    def get_config(self) -> Config:
        """Returns the arguments of the constructor."""
        return {}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Makes a loss from the result of `get_config`."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_trn")
class RestorationLoss(RestorerLoss):
    """Compares pixels with the clean image, and the class with the classifier's prediction.

    The loss is `pixel` times the mean absolute error of the pixels, plus `classification`
    times the cross-entropy of the frozen classifier on the restored image.

    Args:
        pixel: Weight of the pixels; at least 0.
        classification: Weight of the cross-entropy; at least 0.

    Raises:
        ValueError: If a weight is negative.

    Example:
        ```python
        loss = keras_trn.losses.RestorationLoss(pixel=30.0)
        assert loss.get_config() == {"pixel": 30.0, "classification": 1.0}
        ```
    """

    def __init__(self, pixel: float = 10.0, classification: float = 1.0) -> None:
        self.pixel = check_range("pixel", pixel, 0, math.inf)
        self.classification = check_range("classification", classification, 0, math.inf)

    def call(self, batch: RestoredBatch) -> tf.Tensor:
        pixel_losses = tf.reduce_mean(tf.abs(batch.restored - batch.clean), axis=[1, 2, 3])
        class_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch.labels, batch.logits)
        return self.pixel * pixel_losses + self.classification * class_losses

    def get_config(self) -> Config:
        return {"pixel": self.pixel, "classification": self.classification}


@keras.saving.register_keras_serializable(package="keras_trn")
class RepresentationGuidedLoss(RestorerLoss):
    """Compares the logits of the classifier for the restored and for the clean image.

    The loss is the mean absolute difference of the logits. A single-stream restorer with
    this loss is the logits guided denoiser (HGD); the source uses a U-Net.

    Source: Liao et al., "Defense against Adversarial Attacks Using High-Level
    Representation Guided Denoiser", arXiv 1712.02976.

    Example:
        ```python
        hgd = keras_trn.ProtectedClassifier(classifier, keras_trn.SingleStreamRestorationNetwork())
        attack = keras_trn.attacks.FastGradientMethod(epsilon=0.1)
        hgd.compile(loss=keras_trn.losses.RepresentationGuidedLoss(), attack=attack)
        ```
    """

    def call(self, batch: RestoredBatch) -> tf.Tensor:
        clean_logits = logits_function(batch.classifier)(batch.clean)
        return tf.reduce_mean(tf.abs(batch.logits - clean_logits), axis=-1)


@keras.saving.register_keras_serializable(package="keras_trn")
class AdversarialLoss(RestorerLoss):
    """Compares pixels, and trains a discriminator of clean and restored images.

    The loss of the restorer has two terms. `pixel` weighs the mean squared error of the pixels,
    and `adversarial` the cross-entropy of restored images as clean ones. The discriminator
    learns in the same step, with its own loss. A single-stream restorer with this loss is
    APE-GAN. The paper weighs pixels and discriminator 0.7 to 0.3.

    Source: Shen et al., "APE-GAN: Adversarial Perturbation Elimination with GAN",
    arXiv 1707.05474.

    Args:
        pixel: Weight of the pixels; at least 0.
        adversarial: Weight of the discriminator; at least 0.

    Raises:
        ValueError: If a weight is negative.

    Example:
        ```python
        ape_gan = keras_trn.ProtectedClassifier(
            classifier, keras_trn.SingleStreamRestorationNetwork()
        )
        attack = keras_trn.attacks.FastGradientMethod(epsilon=0.1)
        ape_gan.compile(loss=keras_trn.losses.AdversarialLoss(), attack=attack)
        ```
    """

    def __init__(self, pixel: float = 10.0, adversarial: float = 0.3) -> None:
        self.pixel = check_range("pixel", pixel, 0, math.inf)
        self.adversarial = check_range("adversarial", adversarial, 0, math.inf)
        self.discriminator: keras.Model | None = None

    def build(self, image_shape: tuple) -> None:
        channels = image_shape[-1]
        # A new one would forget what it has learned, and other models may train this one.
        if self.discriminator is None or self.discriminator.input_shape[-1] != channels:
            self.discriminator = _make_discriminator(channels)

    @property
    def variables(self) -> list[keras.Variable]:
        """Returns the weights of the discriminator."""
        return [] if self.discriminator is None else self.discriminator.trainable_variables

    def call(self, batch: RestoredBatch) -> tf.Tensor:
        pixel_losses = tf.reduce_mean(tf.square(batch.restored - batch.clean), axis=[1, 2, 3])
        # The restorer's loss must not train the discriminator, or the other way round.
        frozen = [tf.stop_gradient(variable.value) for variable in self.variables]
        discriminator_losses = self._cross_entropy(batch.clean, 1.0)
        discriminator_losses += self._cross_entropy(tf.stop_gradient(batch.restored), 0.0)
        return (
            self.pixel * pixel_losses
            + self.adversarial * self._cross_entropy(batch.restored, 1.0, frozen)
            + discriminator_losses
        )

    def _cross_entropy(
        self, images: tf.Tensor, is_clean: float, weights: list[tf.Tensor] | None = None
    ) -> tf.Tensor:
        """Computes the cross-entropy of the discriminator, by default with its own weights."""
        discriminator = self.discriminator
        if discriminator is None:
            raise ValueError("Call `build(image_shape)` before the loss.")
        if weights is None:
            logits = discriminator(images)
        else:
            logits, _ = discriminator.stateless_call(weights, [], images)
        labels = tf.fill(tf.shape(logits), is_clean)
        return tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)[:, 0]

    def get_config(self) -> Config:
        return {"pixel": self.pixel, "adversarial": self.adversarial}


def _make_discriminator(channels: int) -> keras.Model:
    """Makes a small network from images of any size to the logit of being clean."""
    common = {"data_format": "channels_last", "dtype": "float32"}
    convolution = {"padding": "same", "activation": "relu", **common}
    return keras.Sequential(
        [
            keras.Input((None, None, channels), dtype="float32"),
            layers.Conv2D(32, 3, **convolution),
            layers.Conv2D(64, 3, strides=2, **convolution),
            layers.Conv2D(64, 3, strides=2, **convolution),
            layers.GlobalAveragePooling2D(**common),
            layers.Dense(1, dtype="float32"),
        ],
        name="discriminator",
    )


@keras.saving.register_keras_serializable(package="keras_trn")
class PixelLoss(RestorerLoss):
    """Applies a Keras loss to the clean and the restored images.

    `compile` wraps a Keras loss, or its name, in it.

    Args:
        loss: A `keras.losses.Loss`, a function of two batches of images, or a name.

    Example:
        ```python
        protected = keras_trn.ProtectedClassifier(classifier)
        attack = keras_trn.attacks.FastGradientMethod(epsilon=0.1)
        protected.compile(loss="mean_squared_error", attack=attack)
        ```
    """

    def __init__(self, loss: str | keras.losses.Loss | Callable) -> None:
        self.loss = keras.losses.get(loss)

    def call(self, batch: RestoredBatch) -> tf.Tensor:
        compute = self.loss.call if isinstance(self.loss, keras.losses.Loss) else self.loss
        losses = tf.convert_to_tensor(compute(batch.clean, batch.restored))
        return tf.reduce_mean(tf.reshape(losses, [tf.shape(batch.clean)[0], -1]), axis=-1)

    def get_config(self) -> Config:
        return {"loss": keras.saving.serialize_keras_object(self.loss)}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(keras.saving.deserialize_keras_object(config["loss"]))
