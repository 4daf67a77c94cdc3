"""Adversarial training: a classifier trained on adversarial images, without a restorer."""

from typing import Any

import keras
import tensorflow as tf

from keras_trn.architecture import clone_with_new_weights
from keras_trn.attacks import Attack
from keras_trn.classifier_interface import describe_classifier
from keras_trn.logits import single_output
from keras_trn.metrics import Accuracy
from keras_trn.training import AdversarialTrainer


@keras.saving.register_keras_serializable(package="keras_trn")
class AdversariallyTrainedClassifier(AdversarialTrainer):
    """Trains a new classifier of the same architecture on attacks against itself.

    Each step attacks the classifier in its current state and trains it on the adversarial
    images. The new classifier starts from fresh, trainable weights; the given one does not
    change. The copy keeps state that training never changes: the statistics of an adapted
    `keras.layers.Normalization`, and weights created with `trainable=False`.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial
    Attacks", arXiv 1706.06083.

    Args:
        classifier: A built Keras model from images of shape `(batch, height, width,
            channels)` in [0, 1] to logits of shape `(batch, num_classes)`. Only its
            architecture is used.
        **kwargs: The usual arguments of a Keras model (`name`).

    Call arguments:
        images: Shape `(batch, height, width, channels)`, in [0, 1].

    Returns:
        The logits of the new classifier: float32, of shape `(batch, num_classes)`.

    Raises:
        ValueError: If the classifier is not built, returns probabilities instead of logits,
            does not map images to at least two classes, or cannot be rebuilt from its
            configuration.

    Example:
        ```python
        trained = keras_trn.baselines.AdversariallyTrainedClassifier(classifier)
        trained.compile(attack=keras_trn.attacks.FastGradientMethod(epsilon=0.1))
        train, validation, _ = keras_trn.datasets.load("digits")
        history = trained.fit(train.take(2), validation_data=validation.take(1), verbose=0)
        assert "val_adversarial_accuracy" in history.history
        ```
    """

    def __init__(self, classifier: keras.Model, **kwargs: Any) -> None:
        # Images and attacks stay float32 under any global policy.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.image_shape, self.num_classes = describe_classifier(classifier)
        self.classifier = clone_with_new_weights(classifier)
        self.loss_metric = keras.metrics.Mean(name="loss", dtype="float32")
        self.benign_accuracy = Accuracy(name="benign_accuracy", dtype="float32")
        self.adversarial_accuracy = Accuracy(name="adversarial_accuracy", dtype="float32")
        self.build((None, *self.image_shape))

    def call(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return tf.cast(single_output(self.classifier(images, training=training)), tf.float32)

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        attack: Attack | list[Attack] | None = None,
        metrics: list | None = None,
        benign_share: float = 0.25,
        jit_compile: bool | str = "auto",
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        validation_attack: Attack | list[Attack] | None = None,
    ) -> None:
        """Configures training by cross-entropy on adversarial images.

        Args:
            optimizer: A Keras optimizer, or its name.
            attack: An attack of `keras_trn.attacks`, or a list of attacks, which share every
                batch equally. If the attack has a range of epsilons, training draws from it and
                validation uses the upper end.
            metrics: Keras metrics of labels and logits, measured on adversarial images.
            benign_share: Share of each batch that stays benign, from 0, as in the paper, to 1.
            jit_compile: Whether to compile the steps with XLA; `"auto"` lets Keras decide.
            run_eagerly: Whether to run steps without a graph, to debug them.
            steps_per_execution: Number of batches for each call of the graph.
            validation_attack: The attack of validation and `evaluate`; by default the attack of
                training. Training can overfit to attacks of few steps. A stronger attack here
                reveals it, and `keras.callbacks.EarlyStopping("val_adversarial_accuracy",
                mode="max")` stops it. Keras cannot find out the `mode` of these metrics by itself.

        Raises:
            ValueError: If there is no attack, or the share is out of range.
        """
        self.compile_training(
            optimizer,
            attack,
            metrics,
            benign_share,
            own_arguments={},
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            validation_attack=validation_attack,
        )

    @property
    def trained_part(self) -> keras.Model:
        """Returns the classifier."""
        return self.classifier

    def _forward_with_losses(
        self, images: tf.Tensor, targets: tf.Tensor, clean: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        logits = self(images, training=training)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        return images, logits, losses
