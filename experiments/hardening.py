"""Trains defences against an attacker who knows everything, at two passes for each step.

The perturbation of each training image persists between epochs, and each training step adds one
step of gradient ascent. After some epochs the model faces an attack of many steps. Source: Zheng
et al., "Efficient Adversarial Training with Transferable Adversarial Examples", arXiv 1912.11969.
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

import keras_trn
from experiments.filters import first_batches
from experiments.recipe import Arrays
from experiments.recipe import Hardening
from experiments.training import SEED
from experiments.training import backup
from keras_trn import attacks


class HardenedTraining(keras.Model):
    """Trains a defence on perturbations that persist between epochs.

    Args:
        defence: A `ProtectedClassifier` with a `RestorationAutoencoder`, or a classifier.
        settings: The settings of training.
        epsilon: The largest change of a pixel.
        examples: Number of training images.
        image_shape: Shape of the images: `(height, width, channels)`.
    """

    def __init__(
        self,
        defence: keras.Model,
        settings: Hardening,
        epsilon: float,
        examples: int,
        image_shape: tuple,
    ) -> None:
        super().__init__()
        self.defence = defence
        self.settings = settings
        self.epsilon = epsilon
        self.perturbations = self.add_weight(
            (examples, *image_shape),
            keras.initializers.RandomUniform(-epsilon, epsilon, seed=SEED),
            trainable=False,
            name="perturbations",
        )
        self.steps_per_epoch = examples // settings.batch_size
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.robust_accuracy = keras_trn.metrics.Accuracy(name="robust_accuracy")
        self.benign_accuracy = keras_trn.metrics.Accuracy(name="benign_accuracy")
        self.validation_attack = attacks.ProjectedGradientDescent(
            epsilon, steps=settings.validation_steps, seed=SEED
        )
        self.built = True

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self._defend(images, images, training)[0]

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        (index, clean), labels = data
        size = tf.shape(clean)[0]
        perturbations = tf.gather(self.perturbations.value, index)
        mirrored = tf.random.uniform([size, 1, 1, 1]) < self.settings.mirrored_share
        clean, perturbations = (_mirror(part, mirrored) for part in (clean, perturbations))
        perturbations = self._continued(clean, labels, perturbations)
        self.perturbations.value.scatter_nd_update(index[:, None], _mirror(perturbations, mirrored))
        benign = tf.cast(self.settings.benign_share * tf.cast(size, tf.float32), tf.int32)
        is_attacked = tf.range(size)[:, None, None, None] >= benign
        images = tf.where(is_attacked, tf.clip_by_value(clean + perturbations, 0, 1), clean)
        with tf.GradientTape() as tape:
            logits, pixel_losses = self._defend(images, clean, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses + pixel_losses)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.loss_metric.update_state(loss)
        self.benign_accuracy.update_state(labels[:benign], logits[:benign])
        self.robust_accuracy.update_state(labels[benign:], logits[benign:])
        return self.get_metrics_result()

    def _continued(
        self, clean: tf.Tensor, labels: tf.Tensor, perturbations: tf.Tensor
    ) -> tf.Tensor:
        """Takes one step of gradient ascent from the previous epoch's perturbations."""
        epochs = tf.cast(self.optimizer.iterations, tf.float32) / self.steps_per_epoch
        share = (epochs + 0.1) / max(self.settings.warmup_epochs, 0.1)
        epsilon = self.epsilon * tf.minimum(share, 1.0)
        perturbations = tf.clip_by_value(perturbations, -epsilon, epsilon)
        images = tf.clip_by_value(clean + perturbations, 0, 1)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            # The averages of batch normalization lag behind the weights, so an attack in
            # inference mode would miss the network that learns in this step.
            logits = self(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        step = self.settings.step_size * epsilon * tf.sign(tape.gradient(losses, images))
        return tf.clip_by_value(images - clean + step, -epsilon, epsilon)

    def _defend(
        self, images: tf.Tensor, clean: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor | float]:
        """Returns the logits, and the loss of the restored pixels."""
        if not isinstance(self.defence, keras_trn.ProtectedClassifier):
            return self.defence(images, training=training), 0.0
        restored = self.defence.restorer(images, training=training)
        errors = tf.reduce_mean(tf.abs(restored - clean), axis=[1, 2, 3])
        return self.defence.classifier(restored, training=False), self.settings.pixel * errors

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        clean, labels = data
        adversarial = self.validation_attack(self, clean, labels)
        self.benign_accuracy.update_state(labels, self(clean))
        self.robust_accuracy.update_state(labels, self(adversarial))
        measured = (self.benign_accuracy, self.robust_accuracy)
        return {metric.name: metric.result() for metric in measured}


def _mirror(images: tf.Tensor, mirrored: tf.Tensor) -> tf.Tensor:
    return tf.where(mirrored, images[:, :, ::-1], images)


def harden(
    defence: keras.Model,
    train: Arrays,
    validation: Arrays,
    epsilon: float,
    settings: Hardening,
    folder: Path,
) -> keras.Model:
    """Trains a defence, or continues its training, and keeps its best averaged weights.

    Args:
        defence: A `ProtectedClassifier` with a `RestorationAutoencoder`, or a classifier.
        train: Training images and labels.
        validation: Images and labels; only the first ones are used. PGD on them selects the best
            epoch, because training can overfit to attacks of few steps.
        epsilon: The largest change of a pixel.
        settings: The settings of training.
        folder: Folder from which interrupted training continues.

    Returns:
        The trained defence.
    """
    images, labels = train
    training = HardenedTraining(defence, settings, epsilon, len(images), images.shape[1:])
    index = np.arange(len(images))
    data = tf.data.Dataset.from_tensor_slices(((index, images), labels.astype("int64")))
    data = data.shuffle(len(images), seed=SEED).batch(settings.batch_size, drop_remainder=True)
    steps = settings.epochs * len(data)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 20, warmup_target=settings.learning_rate, warmup_steps=steps // 20
    )
    optimizer = keras.optimizers.AdamW(
        schedule,
        weight_decay=settings.weight_decay,
        global_clipnorm=1.0,
        use_ema=True,
        ema_momentum=settings.momentum,
    )
    # On a CPU, convolutions are faster without XLA.
    training.compile(optimizer, jit_compile=False)
    folder.mkdir(parents=True, exist_ok=True)
    log, best = folder / "log.csv", folder / "best.weights.h5"
    reached = pd.read_csv(log)["val_robust_accuracy"].max() if log.exists() else None
    training.fit(
        data.prefetch(2),
        epochs=settings.epochs,
        validation_data=first_batches(validation, settings.validation_images, 250),
        callbacks=[
            backup(folder / "backup"),
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            keras.callbacks.ModelCheckpoint(
                best,
                "val_robust_accuracy",
                mode="max",
                save_best_only=True,
                save_weights_only=True,
                initial_value_threshold=reached,
            ),
            keras.callbacks.CSVLogger(log, append=True),
        ],
        shuffle=False,
        verbose=2,
    )
    training.load_weights(best)
    return defence
