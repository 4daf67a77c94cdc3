"""Shared logic for adversarial training."""

import inspect
from typing import Any

import keras
import tensorflow as tf

from keras_trn.attacks import Attack
from keras_trn.attacks import Mixture
from keras_trn.checked_model import CheckedModel
from keras_trn.checked_model import check_loop
from keras_trn.input_validation import check_class_weight
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_range
from keras_trn.input_validation import check_sample_weight
from keras_trn.keras_settings import float32_numbers
from keras_trn.metrics import Accuracy
from keras_trn.pipelines import plain_errors
from keras_trn.types import Classifier
from keras_trn.types import Config


class AdversarialTrainer(CheckedModel):
    """Compiles, fits and evaluates a Keras model against attacks.

    A subclass defines `trained_part` and `_forward_with_losses`, and sets the metrics.
    """

    loss_metric: keras.metrics.Metric
    benign_accuracy: keras.metrics.Metric
    adversarial_accuracy: keras.metrics.Metric
    _user_metrics: list[keras.metrics.Metric]
    # Share of the adversarial images that each step crafts, if a cache holds others.
    fresh_share = 1.0

    @property
    def trained_part(self) -> keras.Model:
        """Returns the model whose dtype policy decides whether to scale the loss."""
        raise NotImplementedError(f"{type(self).__name__} does not define `trained_part`.")

    @property
    def trained_parts(self) -> list[keras.Layer]:
        """Returns the layers that training changes."""
        return [self.trained_part]

    @float32_numbers()
    def compile_training(
        self,
        optimizer: str | keras.optimizers.Optimizer,
        attack: Attack | list[Attack] | None,
        metrics: list | None,
        benign_share: float,
        own_arguments: Config,
        validation_attack: Attack | list[Attack] | None = None,
        **keras_arguments: Any,
    ) -> None:
        """Compiles the model with any loss.

        Args:
            optimizer: A Keras optimizer, or its name.
            attack: An attack of `keras_trn.attacks`, or a list of attacks.
            metrics: Keras metrics of labels and logits.
            benign_share: Share of each batch that stays benign, from 0 to 1.
            own_arguments: The other arguments of `compile`, to save with the model.
            validation_attack: The attack of validation; by default the attack of training.
            **keras_arguments: The arguments of `keras.Model.compile`.

        Raises:
            ValueError: If there is no attack, or the share is out of range.
        """
        attack = as_attack(attack)
        benign_share = check_range("benign_share", benign_share, 0, 1)
        if optimizer is None:
            raise ValueError("optimizer must be a Keras optimizer or its name, received None.")
        _check_execution(**keras_arguments)
        optimizer = keras.optimizers.get(optimizer)
        if self.trained_part.dtype_policy.name == "mixed_float16":
            optimizer = _with_loss_scaling(optimizer)
        self.attack = attack
        validation = attack if validation_attack is None else as_attack(validation_attack)
        self.validation_attack = validation.with_largest_epsilon()
        self.benign_share = benign_share
        super().compile(optimizer=optimizer, **keras_arguments)
        # Keras would treat a list as a list of layers, and refuse it after `build`.
        object.__setattr__(self, "_user_metrics", [_as_metric(metric) for metric in metrics or []])
        self._compile_arguments = {
            "attack": attack,
            "validation_attack": validation_attack,
            "benign_share": benign_share,
            **own_arguments,
            **keras_arguments,
        }
        # Otherwise Keras traces the training step twice, the first time to create variables.
        self.optimizer.build(self.trainable_variables)

    @plain_errors()
    @float32_numbers()
    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains against the attack of `compile`; as `keras.Model.fit`.

        Args:
            x: Clean images in [0, 1]: an array, a list, a tensor, or a `tf.data.Dataset`
                of pairs of images and labels.
            y: Class indices; omit them if `x` contains them.
            *args: The arguments of `keras.Model.fit`.
            **kwargs: The arguments of `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History` of `loss`, `benign_accuracy`, `adversarial_accuracy`,
            `psnr` for restorers, and your metrics. With validation data it also has them
            with the prefix `val_`. A figure without images is NaN. As in Keras, sample weights
            count in the loss alone.

        Raises:
            ValueError: If images or labels are malformed, or a pipeline is endless and
                `steps_per_epoch` is missing. `fit` checks arrays and the first batch of a
                pipeline before it trains, and the other batches when it reads them.
        """
        given = inspect.signature(keras.Model.fit).bind(self, x, y, *args, **kwargs).arguments
        del given["self"]
        self._check_arguments(given)
        given["x"], given["y"] = self._checked(x, y, steps=given.get("steps_per_epoch"))
        validation_data = given.get("validation_data")
        if validation_data is not None:
            given["validation_data"] = self._checked_validation_data(
                validation_data, given.get("validation_steps")
            )
        if isinstance(given["x"], tf.data.Dataset):
            # Keras warns about its own default, which has no effect on a pipeline.
            given.setdefault("shuffle", False)
        return super().fit(**given)

    def _check_arguments(self, given: dict[str, Any]) -> None:
        """Checks what `fit` and `evaluate` are given in addition to images and labels."""
        check_loop(given)
        if given.get("validation_split") is not None:
            check_range("validation_split", given["validation_split"], 0, 1)
        if given.get("sample_weight") is not None:
            check_sample_weight(given["sample_weight"])
        if given.get("class_weight") is not None:
            check_class_weight(given["class_weight"], self.num_classes)

    def _checked_validation_data(self, data: Any, steps: int | None) -> Any:
        if not isinstance(data, (list, tuple)):
            return self._checked(data, steps=steps)[0]
        if len(data) not in (2, 3):
            raise ValueError(
                "validation_data must be a pipeline, or a tuple of images, labels and, optionally, "
                f"sample weights; received {len(data)} items."
            )
        images, labels, *weights = data
        return (*self._checked(images, labels), *weights)

    @plain_errors()
    @float32_numbers()
    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Measures accuracy with and without attack; as `keras.Model.evaluate`.

        The attack is the `validation_attack` of `compile`, with its largest epsilon. By default
        the attacker knows only the classifier and does not attack a restorer.

        Args:
            x: Clean images in [0, 1]: an array, a list, a tensor, or a `tf.data.Dataset`
                of pairs of images and labels.
            y: Class indices; omit them if `x` contains them.
            *args: The arguments of `keras.Model.evaluate`.
            **kwargs: The arguments of `keras.Model.evaluate`.

        Returns:
            The metrics of the history of `fit`, in the form of `keras.Model.evaluate`.

        Raises:
            ValueError: If images or labels are malformed, or the pipeline is endless.
        """
        given = inspect.signature(keras.Model.evaluate).bind(self, x, y, *args, **kwargs)
        self._check_arguments(given.arguments)
        # `fit` has checked its validation data already, and a generator would lose a batch.
        if not kwargs.get("_use_cached_eval_dataset"):
            x, y = self._checked(x, y, steps=given.arguments.get("steps"))
        return super().evaluate(x, y, *args, **kwargs)

    @float32_numbers()
    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains on one batch of clean images; as `keras.Model.train_on_batch`."""
        x, y = self._checked(x, y)
        return super().train_on_batch(x, y, *args, **kwargs)

    @float32_numbers()
    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Measures accuracy on one batch of clean images; as `keras.Model.test_on_batch`."""
        x, y = self._checked(x, y)
        return super().test_on_batch(x, y, *args, **kwargs)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        clean, labels, sample_weight = unpack(data)
        targets = self._target_labels(clean, labels, data)
        benign_count = count_benign(
            self.benign_share, tf.shape(clean)[0], self.optimizer.iterations
        )
        images = craft_training_images(
            self.attack,
            self._attacked(training=True),
            clean,
            targets,
            benign_count,
            self._cached_examples(data),
            self.fresh_share,
        )
        with tf.GradientTape() as tape:
            seen, logits, losses = self._forward_with_losses(images, targets, clean, training=True)
            loss = self._total_loss(losses, sample_weight)
            # Replicas add their gradients up.
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            scaled_loss = self.optimizer.scale_loss(loss / replicas)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled_loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self.loss_metric.update_state(loss, tf.shape(clean)[0])
        self.benign_accuracy.update_state(labels[:benign_count], logits[:benign_count])
        self._update_adversarial_metrics(
            labels[benign_count:], logits[benign_count:], clean[benign_count:], seen[benign_count:]
        )
        return self.get_metrics_result()

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        clean, labels, sample_weight = unpack(data)
        self._update_bare_accuracy(labels, clean)
        targets = self._target_labels(clean, labels, data)
        attacked = self.validation_attack(self._attacked(training=False), clean, targets)
        _, logits, losses = self._forward_with_losses(clean, targets, clean, training=False)
        benign_loss = self._total_loss(losses, sample_weight)
        self.benign_accuracy.update_state(labels, logits)
        seen, logits, losses = self._forward_with_losses(attacked, targets, clean, training=False)
        adversarial_loss = self._total_loss(losses, sample_weight)
        self._update_adversarial_metrics(labels, logits, clean, seen)
        loss = self.benign_share * benign_loss + (1 - self.benign_share) * adversarial_loss
        self.loss_metric.update_state(loss, tf.shape(clean)[0])
        return self.get_metrics_result()

    def _forward_with_losses(
        self, images: tf.Tensor, targets: tf.Tensor, clean: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the images that the classifier sees, their logits, and the loss of each."""
        raise NotImplementedError(f"{type(self).__name__} does not define `_forward_with_losses`.")

    def _target_labels(self, clean: tf.Tensor, labels: tf.Tensor, data: Any) -> tf.Tensor:
        """Returns the labels to attack, which are also the labels to learn."""
        return labels

    def _attacked(self, training: bool) -> Classifier:
        """Returns the function from images to logits that the attack differentiates."""
        return self.classifier

    def _cached_examples(self, data: Any) -> tf.Tensor | None:
        """Returns adversarial examples from a cache, if there are any to train with."""
        return None

    def _total_loss(self, losses: tf.Tensor, sample_weight: tf.Tensor | None) -> tf.Tensor:
        """Returns the mean weighted loss, plus what regularizers and `add_loss` have added."""
        if sample_weight is not None:
            losses *= tf.cast(tf.reshape(sample_weight, [-1]), losses.dtype)
        penalties = [loss for part in self.trained_parts for loss in part.losses]
        return tf.reduce_mean(losses) + sum(
            (tf.reduce_sum(tf.cast(loss, tf.float32)) for loss in penalties), start=0.0
        )

    def _update_bare_accuracy(self, labels: tf.Tensor, clean: tf.Tensor) -> None:
        """Updates the accuracy without defence, if the subclass measures it."""

    def _update_adversarial_metrics(
        self, labels: tf.Tensor, logits: tf.Tensor, clean: tf.Tensor, seen: tf.Tensor
    ) -> None:
        """Updates the adversarial accuracy and the metrics of `compile`."""
        for metric in (self.adversarial_accuracy, *self._user_metrics):
            metric.update_state(labels, logits)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Returns the metrics of the history; Keras' own `loss`, which stays empty, is left out."""
        metrics = [*super().metrics, *getattr(self, "_user_metrics", [])]
        return list({metric.name: metric for metric in metrics}.values())

    def get_compile_config(self) -> Config:
        """Returns the arguments of `compile`, which are saved with the model."""
        if not self.compiled:
            return {}
        arguments = {
            **self._compile_arguments,
            "optimizer": self.optimizer,
            "metrics": self._user_metrics,
        }
        return keras.saving.serialize_keras_object(arguments)

    def compile_from_config(self, config: Config) -> None:
        """Compiles with the result of `get_compile_config`."""
        self.compile(**keras.saving.deserialize_keras_object(config))


def _check_execution(jit_compile: Any, run_eagerly: Any, steps_per_execution: Any) -> None:
    """Checks arguments of `compile` that Keras takes whatever they are."""
    check_count("steps_per_execution", steps_per_execution)
    if jit_compile not in ("auto", True, False):
        raise ValueError(f"jit_compile must be 'auto', True or False, received {jit_compile!r}.")
    if run_eagerly not in (True, False):
        raise ValueError(f"run_eagerly must be True or False, received {run_eagerly!r}.")


def as_attack(attack: Any) -> Attack:
    """Converts the attack argument of `compile`; a list becomes a mixture."""
    attack = Mixture(attack) if isinstance(attack, (list, tuple)) else attack
    if not isinstance(attack, Attack):
        raise ValueError(
            "compile() needs the attack to train against: one of `keras_trn.attacks` or a "
            "list of them, such as `ProjectedGradientDescent(epsilon=8 / 255)`; received "
            f"attack={attack!r}."
        )
    return attack


def _as_metric(metric: Any) -> keras.metrics.Metric:
    if metric in ("accuracy", "acc"):
        return Accuracy(name=metric)
    metric = keras.metrics.get(metric)
    if isinstance(metric, keras.metrics.Metric):
        return metric
    return keras.metrics.MeanMetricWrapper(metric, name=metric.__name__)


def _with_loss_scaling(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Scales the loss, because small gradients vanish in float16."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)


def count_benign(share: float, size: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """Returns how many images of a batch stay benign.

    It rounds down or up in turns, so the share holds over all steps. For example, a share of a
    quarter makes one of four batches of a single image benign.
    """
    step = tf.cast(step, tf.float64)
    wanted = tf.cast(size, tf.float64) * share
    return tf.cast(tf.floor(wanted * (step + 1)) - tf.floor(wanted * step), tf.int32)


def craft_training_images(
    attack: Attack,
    classifier: keras.Model,
    clean: tf.Tensor,
    labels: tf.Tensor,
    benign_count: tf.Tensor,
    crafted: tf.Tensor | None = None,
    fresh_share: float = 1.0,
) -> tf.Tensor:
    """Keeps the first `benign_count` images of a batch, and makes the others adversarial.

    `crafted` holds adversarial examples of all images from a cache, if there is one. Then only
    `fresh_share` of the adversarial images are crafted again.
    """
    size = tf.shape(clean)[0]
    # Convolutions need at least one image, even if all stay benign.
    start = tf.minimum(benign_count, size - 1)
    if crafted is None:
        fresh_share, crafted = 1.0, clean
    stop = start
    parts = []
    if fresh_share > 0:
        share = tf.round(fresh_share * tf.cast(size - start, tf.float32))
        stop += tf.maximum(tf.cast(share, tf.int32), 1)
        parts = [attack(classifier, clean[start:stop], labels[start:stop])]
    adversarial = tf.concat([*parts, crafted[stop:]], axis=0)
    images = tf.concat([clean[:benign_count], adversarial[benign_count - start :]], axis=0)
    return tf.stop_gradient(tf.ensure_shape(images, clean.shape))


def unpack(data: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """Returns the images, the labels and the sample weights of a batch."""
    images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    images = images["images"] if isinstance(images, dict) else images
    images = _copied(tf.cast(images, tf.float32))
    return images, tf.cast(tf.reshape(labels, [-1]), tf.int64), sample_weight


def _copied(images: tf.Tensor) -> tf.Tensor:
    """Copies images into TensorFlow's memory.

    The images of a generator may lie in the caller's arrays. TensorFlow 2.21 computes in place on
    a slice of them and would overwrite the caller's images.
    """
    copied = tf.gather(images, tf.range(tf.shape(images)[0]))
    return tf.ensure_shape(copied, images.shape)


def is_dictionary_pipeline(dataset: Any) -> bool:
    """Tells whether a pipeline yields the dictionaries of `cache_adversarial_examples`."""
    spec = dataset.element_spec if isinstance(dataset, tf.data.Dataset) else None
    return isinstance(spec, tuple) and isinstance(spec[0], dict) and "images" in spec[0]


def cached_entry(data: Any, name: str) -> tf.Tensor | None:
    """Returns an entry of a batch of `cache_adversarial_examples`; None if it is missing."""
    images, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    return images.get(name) if isinstance(images, dict) else None
