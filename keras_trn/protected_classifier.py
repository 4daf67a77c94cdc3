"""A classifier behind a restorer: the model that users compile, fit and save."""

import dataclasses
import math
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_trn.calibration import Calibration
from keras_trn.calibration import calibrate_gates
from keras_trn.gradient_maps import EstimatedLabel
from keras_trn.gradient_maps import GradientMap
from keras_trn.input_validation import check_image_type
from keras_trn.input_validation import check_range
from keras_trn.input_validation import with_known_shape
from keras_trn.logits import predicted_labels
from keras_trn.metrics import Accuracy
from keras_trn.metrics import PeakSignalToNoiseRatio
from keras_trn.presets import CLASS_NAMES
from keras_trn.presets import preset_path
from keras_trn.restoration_network import TwoStreamRestorationNetwork
from keras_trn.restored_classifier import RestoredClassifier
from keras_trn.training import AdversarialTrainer
from keras_trn.training import cached_entry
from keras_trn.training import count_benign
from keras_trn.training import craft_training_images
from keras_trn.training import is_cached_pipeline
from keras_trn.training import per_replica_loss
from keras_trn.training import refuse_unknown
from keras_trn.training import unpack

# So many points of benign accuracy may protection cost before `fit` says so.
_LOSS_TO_WARN_OF = 0.02


@keras.saving.register_keras_serializable(package="keras_trn")
class ProtectedClassifier(AdversarialTrainer, RestoredClassifier):
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
        class_names: Names of the classes, for pictures and reports; optional.
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

    def __init__(self, classifier, restorer=None, gradient_map=None, class_names=None, **kwargs):
        super().__init__(classifier, **kwargs)
        if restorer is None:
            restorer = TwoStreamRestorationNetwork()
        if not hasattr(restorer, "gradient_stream"):
            raise ValueError(
                "restorer must be a `keras_trn.TwoStreamRestorationNetwork`, or a Keras model with "
                f"an attribute `gradient_stream`; received {restorer!r}."
            )
        if gradient_map is None and restorer.gradient_stream:
            gradient_map = EstimatedLabel()
        _check_parts(restorer, gradient_map)

        self.restorer = restorer
        self.gradient_map = gradient_map
        self.class_names = _checked_names(class_names, self.num_classes)
        self.calibration = None

        self.loss_metric = keras.metrics.Mean(name="loss", dtype="float32")
        self.benign_accuracy = Accuracy(name="benign_accuracy")
        self.adversarial_accuracy = Accuracy(name="adversarial_accuracy")
        self.psnr = PeakSignalToNoiseRatio(name="psnr")
        self._bare_accuracy = keras.metrics.Mean(name="bare_accuracy", dtype="float32")
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

    def restore_batch(self, images, labels=None, constant_maps=False):
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

    # --- Calibration ---------------------------------------------------------

    def calibrate(self, images, benign_agreement=0.99, attack=None):
        """Sets how readily images are changed, by how many benign ones may lose their class.

        Restorer and gradient map decide by a gate whether an image was attacked. Here the
        gates are closed until the wanted share of clean images keeps the class that the bare
        classifier predicts for them. Closed gates restore fewer adversarial images too: the
        result says how many. Training opens the gates again.

        The calibration is saved with the model, and shown in the report of
        `keras_trn.evaluate`.

        Args:
            images: Clean images in [0, 1] that nothing was trained on, such as those for
                validation: an array of shape `(number, height, width, channels)`, or a
                `tf.data.Dataset` of batches, whose labels are left out. A few hundred tell
                shares of one percent apart.
            benign_agreement: Share of them that has to keep its class, from 0 to 1.
            attack: Attack on the bare classifier to measure the costs with; by default the
                one of `compile`, at full strength, if there was one.

        Returns:
            A `keras_trn.Calibration`.

        Raises:
            ValueError: If the restorer has no gates, or an argument is malformed.

        Example:
            ```python
            protected = keras_trn.ProtectedClassifier(classifier)
            _, validation, _ = keras_trn.datasets.load("digits")
            calibration = protected.calibrate(validation, benign_agreement=0.99)
            assert calibration.benign_after >= 0.99
            ```
        """
        images = np.concatenate([batch for batch, _ in self._batches(images, None, 1024)])
        images = images.astype("float32")
        attack = attack or getattr(self, "validation_attack", None)
        self.calibration = calibrate_gates(self, images, benign_agreement, attack)
        return self.calibration

    def _open_gates(self):
        """Undoes a calibration, which is for the weights that it was made with."""
        if self.calibration is not None:
            self.calibration = None
            for part in self.trained_parts:
                if hasattr(part, "gate_threshold"):
                    part.gate_threshold = 0.0

    # --- Training ------------------------------------------------------------

    def fit(self, x=None, y=None, *args, **kwargs):
        """Trains against the attack of `compile`; as `keras.Model.fit`.

        Opens the gates that `calibrate` has closed. Warns where the benign accuracy of the
        last validation is more than two points below that of the bare classifier.

        Args:
            x: Clean images in [0, 1]: an array, a list, a tensor, or a `tf.data.Dataset`
                of pairs of images and labels.
            y: Class indices; left out where `x` holds them.
            *args: The arguments of `keras.Model.fit`.
            **kwargs: The arguments of `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History` of `loss`, `benign_accuracy`,
            `adversarial_accuracy` and `psnr`, and with validation data the same with
            `val_` before them. A figure of which nothing was measured is NaN.

        Raises:
            ValueError: If images or labels are malformed, or all of a pipeline without
                end is asked for. Arrays are checked whole, pipelines by their first batch.
        """
        self._open_gates()
        history = super().fit(x, y, *args, **kwargs)
        self._warn_of_lost_accuracy(history.history)
        return history

    def _warn_of_lost_accuracy(self, history):
        """Warns where the last validation shows that protection costs benign accuracy."""
        benign = (history.get("val_benign_accuracy") or [math.nan])[-1]
        bare = float(self._bare_accuracy.result())
        if bare - benign > _LOSS_TO_WARN_OF:
            warnings.warn(
                f"The protected classifier has a benign validation accuracy of {benign:.1%}, and "
                f"the bare classifier {bare:.1%}: protection costs more than it should. Train on "
                "more images or for longer, raise `benign_share` in `compile`, or limit the costs "
                "with `protected.calibrate(validation_images, benign_agreement=0.99)`.",
                stacklevel=3,
            )

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
        **unknown,
    ):
        """Configures training.

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
            **unknown: Not taken: arguments of `keras.Model.compile` such as `loss` are
                refused with what to use instead.

        Raises:
            ValueError: If there is no attack, a share or weight is out of range, or an
                argument is not known.
        """
        refuse_unknown(unknown)
        own_arguments = {
            "fresh_share": check_range("fresh_share", fresh_share, 0, 1),
            "pixel_loss_weight": check_range("pixel_loss_weight", pixel_loss_weight, 0, np.inf),
            "classification_loss_weight": check_range(
                "classification_loss_weight", classification_loss_weight, 0, np.inf
            ),
        }
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
    def trained_parts(self):
        """The restorer, and the gradient map where there is one."""
        return [part for part in (self.restorer, self.gradient_map) if part is not None]

    @property
    def trained_part(self):
        """The restorer, whose numbers decide how it is trained."""
        return self.restorer

    @property
    def trainable_variables(self):
        """What is trained of restorer and gradient map; nothing of the classifier, ever."""
        return [variable for part in self.trained_parts for variable in part.trainable_variables]

    @property
    def trainable_weights(self):
        """As `trainable_variables`; Keras averages these, and asks for them under both names."""
        return self.trainable_variables

    def train_step(self, data):
        clean, labels, sample_weight = unpack(data)
        predicted = self.labels_to_restore(clean, labels, cached_entry(data, "predicted"))
        benign_count = count_benign(
            self.benign_share, tf.shape(clean)[0], self.optimizer.iterations
        )
        images = craft_training_images(
            self.attack,
            self.classifier,
            clean,
            predicted,
            benign_count,
            cached_entry(data, "adversarial"),
            self.fresh_share,
        )
        with tf.GradientTape() as tape:
            restored, logits, losses = self._restore_with_losses(
                images, predicted, clean, training=True
            )
            loss = per_replica_loss(losses, sample_weight)
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
        bare = predicted_labels(self.classifier, clean)
        predicted = self.labels_to_restore(clean, labels, bare)
        attacked = self.validation_attack(self.classifier, clean, predicted)
        _, logits, benign_losses = self._restore_with_losses(
            clean, predicted, clean, training=False
        )
        self.benign_accuracy.update_state(labels, logits, sample_weight)
        self._bare_accuracy.update_state(tf.cast(bare == labels, tf.float32), sample_weight)
        restored, logits, losses = self._restore_with_losses(
            attacked, predicted, clean, training=False
        )
        self.judge_restorations(restored, clean, training=False)
        self.adversarial_accuracy.update_state(labels, logits, sample_weight)
        self.psnr.update_state(clean, restored)
        losses = self.benign_share * benign_losses + (1 - self.benign_share) * losses
        self.loss_metric.update_state(losses, sample_weight)
        return self.get_metrics_result()

    @property
    def metrics(self):
        """The metrics of the history; the bare classifier's accuracy is only for a warning."""
        return [metric for metric in super().metrics if metric is not self._bare_accuracy]

    def reset_metrics(self):
        """Resets all metrics; as `keras.Model.reset_metrics`."""
        super().reset_metrics()
        self._bare_accuracy.reset_state()

    def _checked(self, x, y=None, needs_labels=True, steps=None):
        if not needs_labels:
            self._check_needs_no_labels()
        elif is_cached_pipeline(x):
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
        calibration = self.calibration and dataclasses.asdict(self.calibration)
        return {
            **super().get_config(),
            "restorer": serialize(self.restorer),
            "gradient_map": serialize(self.gradient_map),
            "class_names": self.class_names,
            "calibration": calibration,
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
            protected = keras_trn.ProtectedClassifier.from_preset("trn_fashion_mnist")
            images = keras.random.uniform((2, 28, 28, 1))
            assert protected(images).shape == (2, 10)
            ```
        """
        protected = keras.saving.load_model(preset_path(name), compile=False)
        protected.class_names = CLASS_NAMES[name]
        return protected

    @classmethod
    def from_config(cls, config, custom_objects=None):
        parts = {
            part: keras.saving.deserialize_keras_object(config[part], custom_objects)
            for part in ("restorer", "gradient_map")
            if part in config
        }
        config = {**config, **parts}
        calibration = config.pop("calibration", None)
        protected = super().from_config(config, custom_objects)
        protected.calibration = calibration and Calibration(**calibration)
        return protected


def _checked_names(class_names, num_classes):
    if class_names is None:
        return None
    names = [str(name) for name in class_names]
    if len(names) != num_classes:
        raise ValueError(f"Received {len(names)} class names for {num_classes} classes: {names}.")
    return names


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
