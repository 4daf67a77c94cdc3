"""A classifier behind a restorer: the model that you compile, fit and save."""

import dataclasses
import inspect
import math
import warnings
from typing import Any
from typing import Self

import keras
import numpy as np
import tensorflow as tf

from keras_trn import threat_models
from keras_trn.attacks import Attack
from keras_trn.calibration import Calibration
from keras_trn.calibration import calibrate_gates
from keras_trn.gradient_maps import EstimatedLabel
from keras_trn.gradient_maps import GradientMap
from keras_trn.input_validation import check_image_type
from keras_trn.input_validation import check_range
from keras_trn.input_validation import with_known_shape
from keras_trn.logits import predicted_labels
from keras_trn.losses import PixelLoss
from keras_trn.losses import RestorationLoss
from keras_trn.losses import RestoredBatch
from keras_trn.losses import RestorerLoss
from keras_trn.metrics import Accuracy
from keras_trn.metrics import PeakSignalToNoiseRatio
from keras_trn.pipelines import BatchCheck
from keras_trn.pipelines import with_checks
from keras_trn.presets import preset_path
from keras_trn.restoration_network import TwoStreamRestorationNetwork
from keras_trn.restored_classifier import RestoredClassifier
from keras_trn.threat_models import ThreatModel
from keras_trn.training import AdversarialTrainer
from keras_trn.training import as_attack
from keras_trn.training import cached_entry
from keras_trn.training import is_dictionary_pipeline
from keras_trn.types import ArrayLike
from keras_trn.types import Classifier
from keras_trn.types import Config

# `fit` warns if protection costs more benign accuracy than this.
_TOLERATED_ACCURACY_LOSS = 0.02


@keras.saving.register_keras_serializable(package="keras_trn")
class ProtectedClassifier(AdversarialTrainer, RestoredClassifier):
    """Restores images before a frozen classifier sees them.

    An estimator computes the gradient map of each image, the restorer turns image and map
    into the restored image, and the classifier classifies it. Training attacks the
    classifier batch by batch. It teaches the restorer, and a gradient map that has weights,
    to undo the attacks. The weights and statistics of the classifier never change.

    By default, training attacks the classifier alone, and the restored image should get the class
    that the classifier predicts for the clean image. Attacks in training start from that class
    too. Only the metrics use the true labels, because a perturbation crafted with them would
    leak them to the restorer.

    An attacker who knows everything can attack restorer and classifier together. To train
    against this attacker, with the true labels, use `compile(threat_model="whitebox_full")`.

    Source: Hong et al., "An Eye for an Eye: Defending against Gradient-based Attacks with
    Gradients", arXiv 2202.01117.

    Args:
        classifier: A built Keras model from images of shape `(batch, height, width,
            channels)` in [0, 1] to logits of shape `(batch, num_classes)`: Sequential,
            functional or subclassed. It always runs in inference mode.
        restorer: The restoration network; by default `TwoStreamRestorationNetwork()`.
        gradient_map: The estimator from `keras_trn.gradient_maps`; by default
            `EstimatedLabel()` for a restorer that takes gradient maps.
        class_names: Names of the classes, for pictures and reports; optional.
        **kwargs: The usual arguments of a Keras model (`name`).

    Call arguments:
        images: Shape `(batch, height, width, channels)`, in [0, 1].
        labels: Class indices of shape `(batch,)`; only for `TrueLabel`.

    Returns:
        The logits for the restored images: float32, of shape `(batch, num_classes)`.

    Raises:
        ValueError: If the classifier is not built, returns probabilities instead of logits,
            or does not map images to at least two classes; or if restorer and gradient map
            do not match.

    Example:
        ```python
        protected = keras_trn.ProtectedClassifier(
            classifier,
            restorer=keras_trn.TwoStreamRestorationNetwork(width=8, depth=1),
            gradient_map=keras_trn.gradient_maps.UniformLabel(),
        )
        protected.compile("adam", attack=keras_trn.attacks.FastGradientMethod(epsilon=0.2))
        train, validation, test = keras_trn.datasets.load("digits")
        history = protected.fit(train.take(2), validation_data=validation.take(1), verbose=0)
        assert "val_adversarial_accuracy" in history.history
        ```
    """

    # A loss without weights, until `compile` sets one.
    restoration_loss: RestorerLoss = RestorationLoss()
    threat_model: ThreatModel = threat_models.Oblivious(labels="predicted")

    def __init__(
        self,
        classifier: keras.Model,
        restorer: keras.Model | None = None,
        gradient_map: GradientMap | None = None,
        class_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(classifier, **kwargs)
        self.restorer = TwoStreamRestorationNetwork() if restorer is None else restorer
        if gradient_map is None and getattr(self.restorer, "takes_gradient_maps", False):
            gradient_map = EstimatedLabel()
        _check_parts(self.restorer, gradient_map)
        self.gradient_map: Any = gradient_map
        self.class_names = _checked_names(class_names, self.num_classes)
        self.calibration: Calibration | None = None

        self.loss_metric = keras.metrics.Mean(name="loss", dtype="float32")
        self.benign_accuracy = Accuracy(name="benign_accuracy")
        self.adversarial_accuracy = Accuracy(name="adversarial_accuracy")
        self.psnr = PeakSignalToNoiseRatio(name="psnr")
        self._bare_accuracy = keras.metrics.Mean(name="bare_accuracy", dtype="float32")
        self.build((None, *self.image_shape))

    def build(self, images_shape: tuple) -> None:
        """Creates the weights of restorer and gradient map; the constructor calls this."""
        shapes = [images_shape]
        if self.gradient_map is not None:
            self.gradient_map.build_for(self.image_shape, self.num_classes)
            map_channels = self.gradient_map.map_channels(self.image_shape[-1], self.num_classes)
            shapes.append((*images_shape[:-1], map_channels))
        # Keras has built the restorer already if it loads a saved model.
        if not self.restorer.built:
            self.restorer.build(*shapes)

    # --- Inference -----------------------------------------------------------

    def estimate_gradient_maps(
        self, images: ArrayLike, labels: ArrayLike | None = None, batch_size: int = 128
    ) -> np.ndarray:
        """Estimates the gradient maps that the restorer uses.

        Args:
            images: Shape `(number, height, width, channels)`, in [0, 1].
            labels: Class indices; only for a gradient map that needs them.
            batch_size: Number of images to process at a time.

        Returns:
            An array of shape `(number, height, width, map_channels)`.

        Raises:
            ValueError: If the restorer takes no gradient maps, or the images are malformed.
        """
        if self.gradient_map is None:
            raise ValueError("This restorer takes no gradient maps, so there are none to estimate.")
        return self._in_batches(self._estimate_maps, images, labels, batch_size)

    def _in_batches(
        self, method: Any, images: Any, labels: ArrayLike | None, batch_size: int
    ) -> np.ndarray:
        if labels is None:
            self._check_needs_no_labels()
        return super()._in_batches(method, images, labels, batch_size)

    def restore_batch(
        self,
        images: tf.Tensor,
        labels: tf.Tensor | None = None,
        constant_maps: bool = False,
        training: bool = False,
    ) -> tf.Tensor:
        """Restores a batch inside a larger, differentiable computation.

        Args:
            images: Shape `(batch, height, width, channels)`, in [0, 1].
            labels: Class indices; only for a gradient map that needs them.
            constant_maps: Whether differentiation treats the gradient maps as constants.
                Otherwise the gradient is of second order in the classifier.
            training: Whether the restorer runs in training mode, if it has one.

        Returns:
            A tensor of the shape of `images`.
        """
        check_image_type(images, self.image_shape)
        images = with_known_shape(images, self.image_shape)
        if self.gradient_map is None:
            return self.restorer(images, **self._mode(training))
        maps = self._estimate_maps(images, labels)
        maps = tf.stop_gradient(maps) if constant_maps else maps
        return self.restorer(images, maps, **self._mode(training))

    def _mode(self, training: bool) -> dict[str, bool]:
        """Returns the argument `training` for restorers that take it."""
        takes_mode = "training" in inspect.signature(self.restorer.call).parameters
        return {"training": training} if takes_mode else {}

    def _estimate_maps(self, images: tf.Tensor, labels: tf.Tensor | None = None) -> tf.Tensor:
        return self.gradient_map(images, classifier=self.classifier, labels=labels)

    # --- Calibration ---------------------------------------------------------

    def calibrate(
        self,
        images: ArrayLike | tf.data.Dataset,
        benign_agreement: float = 0.99,
        attack: Attack | None = None,
    ) -> Calibration:
        """Limits how many benign images may lose their class.

        The gates of restorer and gradient map decide whether an image was attacked. This method
        closes them until the requested share of clean images keeps the class that the
        bare classifier predicts. Closed gates restore fewer adversarial images too, and the
        result tells you how many. `fit` and `train_on_batch` open the gates again. The calibration
        is saved with the model. Reports of `keras_trn.evaluate` show it, unless weights or gates
        have changed since.

        Args:
            images: Clean images in [0, 1] that training has not used. Pass an array of shape
                `(number, height, width, channels)`, or a `tf.data.Dataset` of batches; its
                labels are ignored. To measure a share of one percent, use a few hundred images.
            benign_agreement: Share of the images that must keep their class, from 0 to 1.
            attack: Attack on the bare classifier to measure the cost with. By default the attack
                of `compile` with its largest epsilon; none in an uncompiled model.

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
        if attack is None:
            attack = getattr(self, "validation_attack", None)
        elif not isinstance(attack, Attack):
            raise ValueError(
                "attack must be one of `keras_trn.attacks`, such as "
                f"`ProjectedGradientDescent(epsilon=8 / 255)`, or None; received {attack!r}."
            )
        self.calibration = calibrate_gates(self, images, benign_agreement, attack)
        return self.calibration

    def make_train_function(self, force: bool = False) -> Any:
        """Opens the gates and compiles the training step; Keras calls this before it trains."""
        self._open_gates()
        return super().make_train_function(force)

    def _open_gates(self) -> None:
        """Undoes a calibration, which is only valid for the weights at that time."""
        if self.calibration is not None:
            self.calibration = None
            for part in self.trained_parts:
                if getattr(part, "gate_threshold", None) is not None:
                    part.gate_threshold = 0.0

    # --- Training ------------------------------------------------------------

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        loss: RestorerLoss | keras.losses.Loss | str | None = None,
        attack: Attack | list[Attack] | None = None,
        metrics: list | None = None,
        benign_share: float = 0.25,
        fresh_share: float = 0.25,
        threat_model: ThreatModel | str | None = None,
        jit_compile: bool | str = "auto",
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        validation_attack: Attack | list[Attack] | None = None,
    ) -> None:
        """Configures training.

        By default, training attacks the classifier alone, and an attacker who knows everything
        breaks the restorer. To train against that attacker, use `threat_model="whitebox_full"`.

        `EstimatedLabel` gives the restorer the map for the known label during training, so
        training figures are optimistic. Validation figures are not.

        Args:
            optimizer: A Keras optimizer, or its name.
            loss: A loss of `keras_trn.losses`, by default `RestorationLoss()`; or a Keras loss
                of clean and restored images, or its name. A gradient map with weights
                adds its own loss.
            attack: An attack of `keras_trn.attacks`, or a list of attacks, which share every
                batch equally. If the attack has a range of epsilons, training draws from it and
                validation uses the upper end.
            metrics: Keras metrics of labels and logits, measured on adversarial images.
            benign_share: Share of each batch that stays benign, from 0 to 1.
            fresh_share: Share of the adversarial images that each step recrafts, from 0 to 1, if
                the data come from `cache_adversarial_examples`. With other data, or a threat
                model that attacks the restorer, each step crafts all of them.
            threat_model: A threat model of `keras_trn.threat_models` or its name. It sets the
                target of the attack in training and validation, and the labels that the attack
                starts from. The restored images should get the same labels. By default
                `Oblivious(labels="predicted")`.
            jit_compile: Whether to compile the steps with XLA; `"auto"` lets Keras decide.
            run_eagerly: Whether to run steps without a graph, to debug them.
            steps_per_execution: Number of batches for each call of the graph.
            validation_attack: The attack of validation and `evaluate`; by default the attack of
                training. Training can overfit to attacks of few steps. A stronger attack here
                reveals it, and `keras.callbacks.EarlyStopping("val_adversarial_accuracy",
                mode="max")` stops it. Keras cannot find out the `mode` of these metrics by itself.

        Raises:
            ValueError: If there is no attack, or a share is out of range.

        Example:
            ```python
            protected = keras_trn.ProtectedClassifier(classifier)
            protected.compile(
                keras.optimizers.Adam(3e-3),
                loss=keras_trn.losses.RestorationLoss(pixel=30.0),
                attack=keras_trn.attacks.ProjectedGradientDescent(epsilon=(0.0, 0.2)),
                metrics=["accuracy"],
            )
            ```
        """
        attack = as_attack(attack)
        loss = _as_restorer_loss(loss)
        if threat_model is None:
            threat_model = threat_models.Oblivious(labels="predicted")
        self.threat_model = self._checked_threat_model(threat_models.get(threat_model), attack)
        loss.build(self.image_shape)
        self.restoration_loss = loss
        self.fresh_share = check_range("fresh_share", fresh_share, 0, 1)
        self.compile_training(
            optimizer,
            attack,
            metrics,
            benign_share,
            own_arguments={
                "loss": loss,
                "fresh_share": self.fresh_share,
                "threat_model": self.threat_model,
            },
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            validation_attack=validation_attack,
        )

    def _checked_threat_model(self, threat_model: ThreatModel, attack: Attack) -> ThreatModel:
        """Refuses an attacker who finds no gradient, so that training would learn nothing."""
        if not (threat_model.supports(attack) or attack.gradient_free):
            raise ValueError(
                f"The threat model {threat_model.name!r} does not support the attack "
                f"{attack.name}. Train against another one, such as 'whitebox_full'."
            )
        if not threat_model.applies_to(self):
            raise ValueError(
                f"The threat model {threat_model.name!r} does not apply to this model: "
                f"see {type(threat_model).__name__}. Train against another one, such as "
                "'whitebox_full'."
            )
        return threat_model

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains against the attack of `compile`; as `keras.Model.fit`.

        It opens the gates that `calibrate` has closed. It warns if the last validation shows a
        benign accuracy more than two points below the bare classifier's.

        Args:
            x: Clean images in [0, 1]: an array, a list, a tensor, or a `tf.data.Dataset`
                of pairs of images and labels. Instead of images, a pipeline may yield the
                dictionaries of `cache_adversarial_examples`: `images` and, optionally, their
                `adversarial` examples and the classes to restore (`predicted`).
            y: Class indices; omit them if `x` contains them.
            *args: The arguments of `keras.Model.fit`.
            **kwargs: The arguments of `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History` of `loss`, `benign_accuracy`, `adversarial_accuracy`,
            `psnr` and your metrics. With validation data it also has them with the prefix
            `val_`. A figure without images is NaN. As in Keras, sample weights count in the loss
            alone.

        Raises:
            ValueError: If images or labels are malformed, or a pipeline is endless and
                `steps_per_epoch` is missing. `fit` checks arrays and the first batch of a
                pipeline before it trains, and the other batches when it reads them.
        """
        history = super().fit(x, y, *args, **kwargs)
        self._warn_of_lost_accuracy(history.history)
        return history

    def _warn_of_lost_accuracy(self, history: dict[str, list[float]]) -> None:
        """Warns if the last validation shows that protection costs benign accuracy.

        Training against attackers who differentiate the restorer is expected to cost some.
        """
        if not isinstance(self.threat_model, threat_models.Oblivious):
            return
        benign = (history.get("val_benign_accuracy") or [math.nan])[-1]
        bare = float(self._bare_accuracy.result())
        if bare - benign > _TOLERATED_ACCURACY_LOSS:
            warnings.warn(
                f"The protected classifier has a benign validation accuracy of {benign:.1%}, but "
                f"the bare classifier {bare:.1%}: protection costs too much. Train on more images "
                "or for longer, raise `benign_share` in `compile`, or limit the cost with "
                "`protected.calibrate(validation_images, benign_agreement=0.99)`.",
                stacklevel=3,
            )

    @property
    def trained_parts(self) -> list[keras.Layer]:
        """Returns the restorer, and the gradient map if there is one."""
        return [part for part in (self.restorer, self.gradient_map) if part is not None]

    @property
    def trained_part(self) -> keras.Model:
        """Returns the restorer."""
        return self.restorer

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """Returns the weights of restorer, gradient map and loss, but not of the classifier."""
        trained = [variable for part in self.trained_parts for variable in part.trainable_variables]
        return trained + self.restoration_loss.variables

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        """Returns `trainable_variables`; Keras uses both names."""
        return self.trainable_variables

    def _target_labels(self, clean: tf.Tensor, labels: tf.Tensor, data: Any) -> tf.Tensor:
        """Returns the threat model's labels: true ones, or predictions for clean images."""
        if self.threat_model.labels == "true":
            return labels
        known = cached_entry(data, "predicted")
        return predicted_labels(self.classifier, clean) if known is None else known

    def _attacked(self, training: bool) -> Classifier:
        """Returns the target of the threat model.

        A restorer with batch normalization computes another function in training mode, and an
        attack in inference mode would miss it.
        """
        target = self.threat_model.target
        has_mode = training and self._mode(training)
        if has_mode and type(self.threat_model) is threat_models.WhiteboxFull:
            return target(lambda images: self._logits(self.restore_batch(images, training=True)))
        return target(self)

    def _cached_examples(self, data: Any) -> tf.Tensor | None:
        # Cached examples attack the bare classifier.
        return None if self.threat_model.is_adaptive else cached_entry(data, "adversarial")

    def _forward_with_losses(
        self, images: tf.Tensor, targets: tf.Tensor, clean: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the restored images, their logits, and the loss of each image."""
        loss = self.restoration_loss
        mode = self._mode(training)
        if self.gradient_map is None:
            restored, map_losses = self.restorer(images, **mode), 0.0
        else:
            maps, map_losses = self.gradient_map.call_with_loss(
                images,
                self.classifier,
                targets,
                clean,
                training=training,
                pixel_weight=loss.pixel,
            )
            restored = self.restorer(images, gradient_maps=maps, **mode)
        logits = self._logits(restored)
        batch = RestoredBatch(clean, restored, targets, logits, self.classifier)
        return restored, logits, loss.call(batch) + map_losses

    def _update_bare_accuracy(self, labels: tf.Tensor, clean: tf.Tensor) -> None:
        bare = predicted_labels(self.classifier, clean)
        self._bare_accuracy.update_state(tf.cast(bare == labels, tf.float32))

    def _update_adversarial_metrics(
        self, labels: tf.Tensor, logits: tf.Tensor, clean: tf.Tensor, seen: tf.Tensor
    ) -> None:
        super()._update_adversarial_metrics(labels, logits, clean, seen)
        self.psnr.update_state(clean, seen)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Returns the metrics of the history, without the bare accuracy for the warning."""
        return [metric for metric in super().metrics if metric is not self._bare_accuracy]

    def reset_metrics(self) -> None:
        """Resets all metrics; as `keras.Model.reset_metrics`."""
        super().reset_metrics()
        self._bare_accuracy.reset_state()

    # --- Checks --------------------------------------------------------------

    def _checked(
        self, x: Any, y: Any = None, needs_labels: bool = True, steps: int | None = None
    ) -> tuple[Any, Any]:
        if not needs_labels:
            self._check_needs_no_labels()
        elif is_dictionary_pipeline(x):
            super()._checked(x.map(lambda inputs, *rest: (inputs["images"], *rest)), steps=steps)
            return with_checks(x, BatchCheck(self.image_shape, self.num_classes)), y
        return super()._checked(x, y, needs_labels, steps)

    @property
    def needs_labels(self) -> bool:  # type: ignore[override]
        """Tells whether the gradient map needs the true labels, which only studies have."""
        return self.gradient_map is not None and self.gradient_map.needs_labels

    @property
    def forward_passes(self) -> int:  # type: ignore[override]
        """Counts the forward passes in one prediction, including the gradient map."""
        if self.gradient_map is None:
            return 1
        return 1 + self.gradient_map.forward_passes(self.num_classes)

    def _check_needs_no_labels(self) -> None:
        if self.needs_labels:
            raise ValueError(
                f"The gradient map {type(self.gradient_map).__name__} needs the true labels, which "
                "are not known at test time. Use another estimator, or pass the labels in a study: "
                "`restore(images, labels=labels)`."
            )

    # --- Saving --------------------------------------------------------------

    def get_config(self) -> Config:
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "restorer": serialize(self.restorer),
            "gradient_map": serialize(self.gradient_map),
            "class_names": self.class_names,
            "calibration": self.calibration and dataclasses.asdict(self.calibration),
        }

    @classmethod
    def from_config(cls, config: Config, custom_objects: Config | None = None) -> Self:
        parts: Config = {
            part: keras.saving.deserialize_keras_object(config[part], custom_objects)
            for part in ("restorer", "gradient_map")
            if part in config
        }
        config = {**config, **parts}
        calibration = config.pop("calibration", None)
        protected = super().from_config(config, custom_objects)
        protected.calibration = calibration and Calibration(**calibration)
        return protected

    def get_compile_config(self) -> Config:
        """Returns the arguments of `compile`, which are saved with the model."""
        # The surrogate of `Transfer` is not saved, so a model compiled with it loads uncompiled.
        if isinstance(self.threat_model, threat_models.Transfer):
            return {}
        return super().get_compile_config()

    def compile_from_config(self, config: Config) -> None:
        """Compiles with the result of `get_compile_config`."""
        config = keras.saving.deserialize_keras_object(config)
        # Models saved by version 0.1 have weights of the loss as arguments.
        old = {
            name: config.pop(f"{name}_loss_weight", None) for name in ("pixel", "classification")
        }
        if None not in old.values():
            config["loss"] = RestorationLoss(**old)
        self.compile(**config)

    def save_own_variables(self, store: Any) -> None:
        """Saves the weights of the loss, so you can continue interrupted training."""
        for index, variable in enumerate(self.restoration_loss.variables):
            store[f"loss_{index}"] = np.asarray(variable)

    def load_own_variables(self, store: Any) -> None:
        """Loads the weights of the loss, if there are any."""
        for index, variable in enumerate(self.restoration_loss.variables):
            if f"loss_{index}" in store:
                variable.assign(store[f"loss_{index}"])

    @classmethod
    def from_preset(cls, name: str) -> Self:
        """Loads a trained classifier and its trained restorer from the package.

        Args:
            name: Name of a preset. `keras_trn.list_presets()` returns all names with their
                model cards.

        Returns:
            An uncompiled model of the class that you call this method on.

        Raises:
            ValueError: If there is no such preset.

        Example:
            ```python
            protected = keras_trn.ProtectedClassifier.from_preset("trn_fashion_mnist")
            assert protected(keras.random.uniform((2, 28, 28, 1))).shape == (2, 10)
            ```
        """
        preset = keras.saving.load_model(preset_path(name), compile=False)
        if type(preset) is not cls:
            trained, preset = preset, cls.from_config(preset.get_config())
            preset.set_weights(trained.get_weights())
        return preset


def _as_restorer_loss(loss: Any) -> RestorerLoss:
    if loss is None:
        return RestorationLoss()
    return loss if isinstance(loss, RestorerLoss) else PixelLoss(loss)


def _checked_names(class_names: list[str] | None, num_classes: int) -> list[str] | None:
    if class_names is None:
        return None
    if not isinstance(class_names, (list, tuple, np.ndarray)):
        raise ValueError(
            f"class_names must be a list of {num_classes} names, received {class_names!r}."
        )
    names = [str(name) for name in class_names]
    if len(names) != num_classes:
        raise ValueError(
            f"Received {len(names)} class names for {num_classes} classes: {class_names!r}."
        )
    return names


def _check_parts(restorer: Any, gradient_map: Any) -> None:
    """Checks that the restorer matches the gradient map, or its absence."""
    if isinstance(restorer, type) or not hasattr(restorer, "takes_gradient_maps"):
        raise ValueError(
            "restorer must be a `keras_trn.TwoStreamRestorationNetwork`, a "
            "`keras_trn.SingleStreamRestorationNetwork`, or a Keras model with an attribute "
            f"`takes_gradient_maps`; received {restorer!r}."
        )
    if gradient_map is not None and not isinstance(gradient_map, GradientMap):
        raise ValueError(
            "gradient_map must be an estimator of `keras_trn.gradient_maps`, such as "
            f"`keras_trn.gradient_maps.UniformLabel()`; received {gradient_map!r}."
        )
    if gradient_map is not None and not restorer.takes_gradient_maps:
        raise ValueError(
            f"{type(restorer).__name__} does not use the gradient map "
            f"{type(gradient_map).__name__}. Leave out `gradient_map`, or use a "
            "`keras_trn.TwoStreamRestorationNetwork`."
        )
