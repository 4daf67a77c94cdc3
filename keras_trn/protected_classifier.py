"""A classifier behind a restorer: the model that users compile, fit and save."""

import keras
import numpy as np
import tensorflow as tf

from keras_trn.gradient_maps import EstimatedLabel
from keras_trn.gradient_maps import GradientMap
from keras_trn.input_validation import check_image_type
from keras_trn.input_validation import check_range
from keras_trn.input_validation import with_known_shape
from keras_trn.logits import predicted_labels
from keras_trn.metrics import Accuracy
from keras_trn.metrics import PeakSignalToNoiseRatio
from keras_trn.presets import preset_path
from keras_trn.restoration_network import TwoStreamRestorationNetwork
from keras_trn.restored_classifier import RestoredClassifier
from keras_trn.training import TrainedOnAttacks
from keras_trn.training import attack_some
from keras_trn.training import benign_number
from keras_trn.training import brings_adversarial_examples
from keras_trn.training import brought_along
from keras_trn.training import loss_of_replica
from keras_trn.training import unpack


@keras.saving.register_keras_serializable(package="keras_trn")
class ProtectedClassifier(TrainedOnAttacks, RestoredClassifier):
    """Restores images before an unchanged classifier sees them.

    Each image gets a gradient map, image and map go through the restorer, and
    the classifier classifies the restored image. Training attacks the classifier
    batch by batch and teaches the restorer, and the gradient map where it learns
    too, to undo the attacks. The classifier is frozen: its weights and
    statistics stay as they are, bit for bit.

    What training restores is the classifier's own view of the clean image: attacks
    lead away from the label that the classifier predicts for it, and the restored
    image is to be classified alike. The true labels are for the metrics alone. A
    perturbation that was crafted with them would carry them, and the restorer
    would learn to read them there.

    It is trained against attacks on the classifier alone. An attacker who knows
    of the restorer can attack both together.

    Source: Hong et al., "An Eye for an Eye: Defending against Gradient-based
    Attacks with Gradients", arXiv 2202.01117.

    Args:
        classifier: A built Keras model from images of shape `(batch, height,
            width, channels)` in [0, 1] to logits of shape `(batch, num_classes)`:
            Sequential, functional or subclassed. It is frozen, and always run in
            inference mode.
        restorer: The restoration network; by default a
            `TwoStreamRestorationNetwork()`. One with `gradient_stream=False`
            takes no gradient map.
        gradient_map: The estimator from `keras_trn.gradient_maps`; by default
            `EstimatedLabel()`.
        **kwargs: The usual arguments of a Keras model (`name`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
        labels: Class indices of shape `(batch,)`; only for a gradient map that
            needs them (`TrueLabel`).

    Returns:
        The classifier's logits for the restored images: a float32 tensor of shape
        `(batch, num_classes)`.

    Raises:
        ValueError: If the classifier is not built, returns probabilities instead
            of logits, or does not map images to at least two classes; or if
            restorer and gradient map do not fit each other.

    Example:
        ```python
        import keras
        import keras_trn

        classifier = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
        )
        protected = keras_trn.ProtectedClassifier(
            classifier,
            restorer=keras_trn.TwoStreamRestorationNetwork(width=8, depth=1),
            gradient_map=keras_trn.gradient_maps.UniformLabel(),
        )
        protected.compile(
            optimizer="adam", attack=keras_trn.attacks.FastGradientMethod(epsilon=0.2)
        )
        train, validation, test = keras_trn.datasets.load("digits")
        history = protected.fit(train.take(2), validation_data=validation.take(1), verbose=0)
        assert "val_adversarial_accuracy" in history.history
        ```
    """

    def __init__(self, classifier, restorer=None, gradient_map=None, **kwargs):
        super().__init__(classifier, **kwargs)
        if restorer is None:
            restorer = TwoStreamRestorationNetwork()
        if gradient_map is None and restorer.gradient_stream:
            gradient_map = EstimatedLabel()
        _check_parts(restorer, gradient_map)

        self.restorer = restorer
        self.gradient_map = gradient_map

        self.loss_metric = keras.metrics.Mean(name="loss")
        self.benign_accuracy = Accuracy(name="benign_accuracy")
        self.adversarial_accuracy = Accuracy(name="adversarial_accuracy")
        self.psnr = PeakSignalToNoiseRatio(name="psnr")
        self.build((None, *self.image_shape))

    def build(self, images_shape):
        """Creates the weights of restorer and gradient map; called with the model's creation."""
        shapes = [images_shape]
        if self.gradient_map is not None:
            self.gradient_map.build_for(self.image_shape, self.num_classes)
            map_channels = self.gradient_map.map_channels(self.image_shape[-1], self.num_classes)
            shapes.append((*images_shape[:-1], map_channels))
        # Keras has built the restorer already where it loads a saved model.
        if not self.restorer.built:
            self.restorer.build(*shapes)

    # --- Inference -----------------------------------------------------------

    def estimate_gradient_maps(self, images, labels=None, batch_size=128):
        """Estimates the gradient maps that the restorer is given.

        Args:
            images: Array of shape `(number, height, width, channels)` in [0, 1].
            labels: Class indices; only for a gradient map that needs them.
            batch_size: Number of images to take at a time.

        Returns:
            An array of shape `(number, height, width, map_channels)`.
        """
        if self.gradient_map is None:
            raise ValueError("This restorer has no gradient stream, and so there are no maps.")
        return self._in_batches(self._estimate_maps, images, labels, batch_size)

    def _in_batches(self, method, images, labels, batch_size):
        if labels is None:
            self._check_needs_no_labels()
        return super()._in_batches(method, images, labels, batch_size)

    def restorations(self, images, labels=None, constant_maps=False):
        """Restores a batch as a differentiable part of a larger computation.

        Args:
            images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
            labels: Class indices; only used by a gradient map that needs them.
            constant_maps: Whether the gradient maps count as constants when the
                result is differentiated. Otherwise its gradient is of second
                order in the classifier.

        Returns:
            A tensor of the shape of `images`.
        """
        check_image_type(images, self.image_shape)
        images = with_known_shape(images, self.image_shape)
        if self.gradient_map is None:
            return self.restorer(images)
        maps = self._estimate_maps(images, labels)
        return self.restorer(images, tf.stop_gradient(maps) if constant_maps else maps)

    def _estimate_maps(self, images, labels=None):
        return self.gradient_map(images, classifier=self.classifier, labels=labels)

    # --- Training ------------------------------------------------------------

    def compile(
        self,
        optimizer="adam",
        attack=None,
        benign_share=0.25,
        pixel_loss_weight=10.0,
        classification_loss_weight=1.0,
        fresh_share=0.25,
        jit_compile="auto",
        run_eagerly=False,
        steps_per_execution=1,
    ):
        """Says how the restorer is trained.

        The loss of an image is the mean absolute difference of its pixels from
        those of the clean image, times `pixel_loss_weight`, plus the frozen
        classifier's cross-entropy on the restored image for the class that it
        predicts for the clean one, times `classification_loss_weight`, plus the
        gradient map's own loss where it learns.

        `EstimatedLabel` gives the restorer the map for the known label while it
        learns, so the figures of training flatter. Those of validation do not.

        Args:
            optimizer: A Keras optimizer, or its name.
            attack: An attack of `keras_trn.attacks`, or a list of them, of which
                each gets an equal share of every batch. An attack whose epsilon
                is a range draws one for each image while training; validation
                attacks with the upper end of the range.
            benign_share: Share of each batch that is left benign, from 0 to 1.
            pixel_loss_weight: Weight of the pixels in the loss.
            classification_loss_weight: Weight of the classifier's cross-entropy.
            fresh_share: Share of the adversarial images that is crafted anew in each step,
                from 0 to 1, where the data come from `cache_adversarial_examples`.
                Of other data, all are.
            jit_compile: Whether to compile the steps with XLA; `"auto"` leaves it
                to Keras.
            run_eagerly: Whether to run steps without a graph, to debug them.
            steps_per_execution: Number of batches for each call of the graph.

        Raises:
            ValueError: If there is no attack, or a share or weight is out of range.
        """
        own_arguments = {
            "fresh_share": check_range("fresh_share", fresh_share, 0, 1),
            "pixel_loss_weight": check_range("pixel_loss_weight", pixel_loss_weight, 0, np.inf),
            "classification_loss_weight": check_range(
                "classification_loss_weight", classification_loss_weight, 0, np.inf
            ),
        }
        for name, value in own_arguments.items():
            setattr(self, name, value)
        self.compile_training(
            optimizer,
            attack,
            benign_share,
            own_arguments,
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
        )

    @property
    def trained_part(self):
        """The restorer, whose numbers decide how it is trained."""
        return self.restorer

    @property
    def trainable_variables(self):
        """What is trained of restorer and gradient map; nothing of the classifier, ever."""
        parts = [part for part in (self.restorer, self.gradient_map) if part is not None]
        return [variable for part in parts for variable in part.trainable_variables]

    @property
    def trainable_weights(self):
        """As `trainable_variables`; Keras averages these, and asks for them under both names."""
        return self.trainable_variables

    def train_step(self, data):
        clean, labels, sample_weight = unpack(data)
        predicted = self.labels_to_restore(clean, labels, brought_along(data, "predicted"))
        benign_count = benign_number(
            self.benign_share, tf.shape(clean)[0], self.optimizer.iterations
        )
        images = attack_some(
            self.attack,
            self.classifier,
            clean,
            predicted,
            benign_count,
            brought_along(data, "adversarial"),
            self.fresh_share,
        )
        with tf.GradientTape() as tape:
            restored, logits, losses = self._restore_with_losses(
                images, predicted, clean, training=True
            )
            loss = loss_of_replica(losses, sample_weight)
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.judge_restorations(restored, clean, training=True)

        self.loss_metric.update_state(losses, sample_weight)
        self.benign_accuracy.update_state(labels[:benign_count], logits[:benign_count])
        self.adversarial_accuracy.update_state(labels[benign_count:], logits[benign_count:])
        self.psnr.update_state(clean[benign_count:], restored[benign_count:])
        return self.get_metrics_result()

    def test_step(self, data):
        clean, labels, sample_weight = unpack(data)
        predicted = self.labels_to_restore(clean, labels)
        attacked = self.validation_attack(self.classifier, clean, predicted)
        _, logits, benign_losses = self._restore_with_losses(
            clean, predicted, clean, training=False
        )
        self.benign_accuracy.update_state(labels, logits, sample_weight)
        restored, logits, losses = self._restore_with_losses(
            attacked, predicted, clean, training=False
        )
        self.judge_restorations(restored, clean, training=False)
        self.adversarial_accuracy.update_state(labels, logits, sample_weight)
        self.psnr.update_state(clean, restored)
        losses = self.benign_share * benign_losses + (1 - self.benign_share) * losses
        self.loss_metric.update_state(losses, sample_weight)
        return self.get_metrics_result()

    def _checked(self, x, y=None, needs_labels=True, steps=None):
        if not needs_labels:
            self._check_needs_no_labels()
        elif brings_adversarial_examples(x):
            super()._checked(x.map(lambda inputs, *rest: (inputs["images"], *rest)), steps=steps)
            return x, y
        return super()._checked(x, y, needs_labels, steps)

    def labels_to_restore(self, clean, labels, predicted=None):
        """The classes that restored images are to get back; a study may take others.

        Args:
            clean: The clean images.
            labels: Their true labels.
            predicted: What the classifier predicts for them, where that is known already.

        Returns:
            Class indices of shape `(batch,)`: those that the classifier predicts.
        """
        return predicted_labels(self.classifier, clean) if predicted is None else predicted

    def _restore_with_losses(self, images, predicted, clean, training):
        """Restored images, their logits, and the loss of each image."""
        if self.gradient_map is None:
            restored, map_losses = self.restorer(images), 0.0
        else:
            maps, map_losses = self.gradient_map.call_with_loss(
                images, self.classifier, predicted, clean, training=training
            )
            restored = self.restorer(images, gradient_maps=maps)
        logits = self._logits(restored)
        losses = self.restoration_losses(restored, logits, predicted, clean)
        return restored, logits, losses + map_losses

    def restoration_losses(self, restored, logits, predicted, clean):
        """The loss of each restored image; another restorer may learn from another one.

        Args:
            restored: Restored images of shape `(batch, height, width, channels)`.
            logits: The classifier's logits for them.
            predicted: The classes that the classifier predicts for the clean images.
            clean: The clean images.

        Returns:
            A tensor of shape `(batch,)`.
        """
        pixel_losses = tf.reduce_mean(tf.abs(restored - clean), axis=[1, 2, 3])
        class_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(predicted, logits)
        return (
            self.pixel_loss_weight * pixel_losses + self.classification_loss_weight * class_losses
        )

    def judge_restorations(self, restored, clean, training):
        """Where something else learns from the restored images of a batch; here nothing does.

        Args:
            restored: Restored images of shape `(batch, height, width, channels)`.
            clean: The clean images.
            training: Whether it may learn; otherwise it is only measured.
        """

    # --- Checks --------------------------------------------------------------

    @property
    def needs_labels(self):
        """Whether the gradient map needs the true labels, which only a study can give it."""
        return self.gradient_map is not None and self.gradient_map.needs_labels

    def _check_needs_no_labels(self):
        if self.needs_labels:
            raise ValueError(
                f"The gradient map {type(self.gradient_map).__name__} needs the true labels, which "
                "are not known at test time. Use another estimator, or for a study pass them: "
                "`restore(images, labels=labels)`."
            )

    # --- Saving --------------------------------------------------------------

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "restorer": serialize(self.restorer),
            "gradient_map": serialize(self.gradient_map),
        }

    @classmethod
    def from_preset(cls, name):
        """Loads a trained classifier and its trained restorer, which come with the package.

        Args:
            name: Name of a preset; `keras_trn.list_presets()` has them all, with
                what each was trained on and what it is worth.

        Returns:
            A `ProtectedClassifier`, not compiled.

        Raises:
            ValueError: If there is no such preset.

        Example:
            ```python
            import keras
            import keras_trn

            protected = keras_trn.ProtectedClassifier.from_preset("trn_fashion_mnist")
            images = keras.random.uniform((2, 28, 28, 1))
            assert protected(images).shape == (2, 10)
            ```
        """
        return keras.saving.load_model(preset_path(name), compile=False)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        parts = {
            part: keras.saving.deserialize_keras_object(config[part], custom_objects)
            for part in ("restorer", "gradient_map")
            if part in config
        }
        return super().from_config({**config, **parts}, custom_objects)


def _check_parts(restorer, gradient_map):
    """Checks that the restorer takes a gradient map exactly when there is one."""
    if gradient_map is not None and not isinstance(gradient_map, GradientMap):
        raise ValueError(
            "gradient_map must be an estimator of `keras_trn.gradient_maps`, such as "
            f"`keras_trn.gradient_maps.UniformLabel()`, received {gradient_map!r}."
        )
    if gradient_map is not None and not restorer.gradient_stream:
        raise ValueError(
            "This restorer was built with `gradient_stream=False` and has no use for the gradient "
            f"map {type(gradient_map).__name__}. Leave out `gradient_map`, or give the restorer a "
            "gradient stream."
        )
