"""A restorer that learns to deceive a discriminator of clean and restored images."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_trn.baselines.single_stream import SingleStreamBaseline
from keras_trn.input_validation import check_range
from keras_trn.keras_settings import float32_numbers
from keras_trn.training import per_replica_loss
from keras_trn.training import refuse_unknown


@keras.saving.register_keras_serializable(package="keras_trn")
class AdversarialPerturbationElimination(SingleStreamBaseline):
    """Restores images as the generator of a GAN, before an unchanged classifier sees them.

    A single-stream restorer learns to bring adversarial images close to the clean
    ones and to deceive a small convolutional discriminator, which learns at the same time
    to tell restored images from clean ones (APE-GAN). What the classifier says of
    an image is no part of the training. Restorer and discriminator are other networks than
    those of the source.

    Source: Shen et al., "APE-GAN: Adversarial Perturbation Elimination with GAN",
    arXiv 1707.05474.

    Args:
        classifier: A built Keras model from images of shape `(batch, height,
            width, channels)` in [0, 1] to logits of shape `(batch, num_classes)`.
            It is frozen.
        restorer: A `TwoStreamRestorationNetwork` with `gradient_stream=False`, the
            default. For a fair comparison, take the `single_stream_baseline` of the
            restorer to compare with.
        **kwargs: The usual arguments of a Keras model (`name`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].

    Returns:
        The classifier's logits for the restored images: a float32 tensor of shape
        `(batch, num_classes)`.

    Raises:
        ValueError: If the classifier is not built or returns probabilities, or the
            restorer has a gradient stream.

    Example:
        ```python
        eliminator = keras_trn.baselines.AdversarialPerturbationElimination(
            classifier,
            keras_trn.TwoStreamRestorationNetwork(width=8, depth=1, gradient_stream=False),
        )
        eliminator.compile(attack=keras_trn.attacks.FastGradientMethod(epsilon=0.2))
        train, _, _ = keras_trn.datasets.load("digits")
        history = eliminator.fit(train.take(2), verbose=0)
        assert "discriminator_loss" in history.history
        ```
    """

    def build(self, images_shape):
        """Creates the weights of restorer and discriminator; called with the model's creation."""
        super().build(images_shape)
        self.discriminator = _make_discriminator(self.image_shape[-1])
        self.discriminator_loss = keras.metrics.Mean(name="discriminator_loss", dtype="float32")

    def compile(
        self,
        optimizer="adam",
        attack=None,
        benign_share=0.25,
        pixel_loss_weight=10.0,
        adversarial_loss_weight=0.3,
        discriminator_optimizer="adam",
        fresh_share=0.25,
        jit_compile="auto",
        run_eagerly=False,
        steps_per_execution=1,
        **unknown,
    ):
        """Says how restorer and discriminator are trained.

        The loss of an image is the mean squared difference of its pixels from those
        of the clean image, times `pixel_loss_weight`, plus the discriminator's
        cross-entropy on taking the restored image for a clean one, times
        `adversarial_loss_weight`. The source weighs them 0.7 and 0.3; here pixels weigh
        by default as much as in `ProtectedClassifier`.

        Args:
            optimizer: A Keras optimizer, or its name, for the restorer.
            attack: An attack of `keras_trn.attacks`, or a list of them, of which
                each gets an equal share of every batch.
            benign_share: Share of each batch that is left benign, from 0 to 1.
            pixel_loss_weight: Weight of the pixels in the loss.
            adversarial_loss_weight: Weight of deceiving the discriminator.
            discriminator_optimizer: A Keras optimizer, or its name, for the
                discriminator.
            fresh_share: Share of the adversarial images that is crafted anew in each step,
                from 0 to 1, where the data come from `cache_adversarial_examples`.
                Of other data, all are.
            jit_compile: Whether to compile the steps with XLA; `"auto"` leaves it
                to Keras.
            run_eagerly: Whether to run steps without a graph, to debug them.
            steps_per_execution: Number of batches for each call of the graph.
            **unknown: Not taken: arguments of `keras.Model.compile` such as `loss` are
                refused with what to use instead.

        Raises:
            ValueError: If there is no attack, a share or weight is out of range, or an
                argument is not known.
        """
        refuse_unknown(unknown)
        numbers = {
            "fresh_share": check_range("fresh_share", fresh_share, 0, 1),
            "pixel_loss_weight": check_range("pixel_loss_weight", pixel_loss_weight, 0, np.inf),
            "adversarial_loss_weight": check_range(
                "adversarial_loss_weight", adversarial_loss_weight, 0, np.inf
            ),
        }
        with float32_numbers():
            self.discriminator_optimizer = keras.optimizers.get(discriminator_optimizer)
        self.discriminator_optimizer.build(self.discriminator.trainable_variables)
        self.compile_training(
            optimizer,
            attack,
            benign_share,
            own_arguments={**numbers, "discriminator_optimizer": self.discriminator_optimizer},
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
        )

    def restoration_losses(self, restored, logits, predicted, clean):
        pixel_losses = tf.reduce_mean(tf.square(restored - clean), axis=[1, 2, 3])
        adversarial_losses = self._discriminator_losses(restored, is_clean=1.0)
        return (
            self.pixel_loss_weight * pixel_losses
            + self.adversarial_loss_weight * adversarial_losses
        )

    def judge_restorations(self, restored, clean, training):
        with tf.GradientTape() as tape:
            losses = self._discriminator_losses(clean, is_clean=1.0)
            losses += self._discriminator_losses(restored, is_clean=0.0)
            loss = self.discriminator_optimizer.scale_loss(per_replica_loss(losses))
        self.discriminator_loss.update_state(losses)
        if training:
            variables = self.discriminator.trainable_variables
            gradients = tape.gradient(loss, variables)
            self.discriminator_optimizer.apply_gradients(zip(gradients, variables, strict=True))

    def _discriminator_losses(self, images, is_clean):
        """The discriminator's cross-entropy on each image."""
        logits = self.discriminator(images)[:, 0]
        return tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), is_clean), logits)


def _make_discriminator(channels):
    """A small network from images of any size to the logit of their being clean."""
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
