"""The gradient map for a label estimated with a first restoration."""

import math
from collections.abc import Callable
from typing import Any
from typing import NamedTuple
from typing import Self

import keras
import tensorflow as tf
from keras import ops

from keras_trn.gradient_maps.gradient_map import GradientMap
from keras_trn.gradient_maps.gradient_map import normalize
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_range
from keras_trn.logits import cross_entropy_direction
from keras_trn.restoration_network import SingleStreamRestorationNetwork
from keras_trn.types import Classifier
from keras_trn.types import Config

# Where a squashed map reaches half of its largest value, in root mean squares of the map.
_KNEE = 0.1
_SMALLEST_VARIANCE = 1e-12
_LOWEST_TEMPERATURE = 1e-3
# By default, three quarters of the images of a training batch are attacked.
_PRIOR_IN_TRAINING = 0.75


class _FirstPass(NamedTuple):
    """Holds the results of the first restoration, before the choice of a label."""

    images: tf.Tensor
    restored: tf.Tensor
    attack_logits: tf.Tensor
    restored_logits: tf.Tensor
    label_logits: tf.Tensor
    # The logits at the position of the gradient, and their vector-Jacobian product.
    logits: tf.Tensor
    vjp: Callable[[tf.Tensor], tf.Tensor]


@keras.saving.register_keras_serializable(package="keras_trn")
class EstimatedLabel(GradientMap):
    """Computes the gradient map for a label estimated with a first restoration.

    An attack moves the image along the gradient for its label, so the map for that label reveals
    most about the perturbation. The label is unknown at test time, and this estimator learns
    to find it:

    1. A single-stream network makes a first restoration of the image, and its gate estimates
       whether the image was attacked.
    2. A small network compares the classifier's logits before and after the restoration, class
       by class. A class that rises as the perturbation disappears is probably the true one. All
       classes share the weights. If the image looks benign, the logits before restoration decide.
    3. The map is the gradient for the resulting label distribution. By default it is taken
       halfway between the image and its first restoration, on the path of iterative attacks.

    The restorer gets the map, a squashed copy that shows the sign of weak gradients, and the
    noise that the first restoration removed.

    The estimator trains together with the restorer, but with its own loss; no gradient flows
    through the map. Training uses the map for the label that the attack started from, so the
    restorer learns to trust the map. This is "teacher forcing" (Williams and Zipser, Neural
    Computation 1989). Validation and inference use the estimated label.

    Channels: three times the channels of the image (map, squashed map, noise).
    Cost for any number of classes: 3 forward passes and 1 backward pass; 1 forward pass less if
    `position` is 0 or 1.

    Args:
        width: Number of filters of the first restoration; at least 1.
        depth: Number of its residual blocks; at least 1.
        block_size: Side of the pixel blocks that it folds into channels; at least 1.
        position: Where to take the gradient: from 0, the image, to 1, its first restoration.
        pixel_loss_weight: Weight of the pixels of the first restoration in its loss; by default
            the `pixel` weight of the loss given to `compile`.
        restored_loss_weight: Weight of the classifier's cross-entropy on the first
            restoration. The cross-entropy of the estimated labels has weight 1.
        attack_prior: Expected share of attacked images in use, from 1e-6 to 1 - 1e-6. Training
            shows three attacked images for each benign one, but in use attacks are rare. With
            the default, an ambiguous image counts as benign and keeps its label.
        temperature: Divides the logits of the estimated labels; at least 1e-3. A value below 1
            commits the estimate to one label, because a map for a mixture of two labels points
            in an arbitrary direction.
        gate_threshold: Amount to subtract from the logit of an attack. A higher value trusts
            the classifier's prediction more. `ProtectedClassifier.calibrate` sets it.
        **kwargs: The usual arguments of a Keras layer (`name`).

    Call arguments:
        images: Shape `(batch, height, width, channels)`, in [0, 1].
        classifier: A Keras model, or a callable, from images to logits.

    Returns:
        A float32 tensor of shape `(batch, height, width, 3 * channels)`.

    Raises:
        ValueError: If an argument is out of range, or the images are malformed.

    Example:
        ```python
        estimator = keras_trn.gradient_maps.EstimatedLabel(width=8, depth=1)
        estimator.build_for((8, 8, 1), num_classes=10)
        maps = estimator(images, classifier=classifier)
        assert maps.shape == (8, 8, 8, 3)
        ```
    """

    def __init__(
        self,
        width: int = 32,
        depth: int = 3,
        block_size: int = 2,
        position: float = 0.5,
        pixel_loss_weight: float | None = None,
        restored_loss_weight: float = 0.2,
        attack_prior: float = 0.1,
        temperature: float = 0.3,
        gate_threshold: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.width = check_count("width", width)
        self.depth = check_count("depth", depth)
        self.block_size = check_count("block_size", block_size)
        self.position = check_range("position", position, 0, 1)
        self.pixel_loss_weight = pixel_loss_weight
        if pixel_loss_weight is not None:
            self.pixel_loss_weight = check_range(
                "pixel_loss_weight", pixel_loss_weight, 0, math.inf
            )
        self.restored_loss_weight = check_range(
            "restored_loss_weight", restored_loss_weight, 0, math.inf
        )
        self.attack_prior = check_range("attack_prior", attack_prior, 1e-6, 1 - 1e-6)
        self.temperature = check_range("temperature", temperature, _LOWEST_TEMPERATURE, math.inf)
        self.gate_threshold = check_range("gate_threshold", gate_threshold, -math.inf, math.inf)
        self.first_restorer = SingleStreamRestorationNetwork(
            width, depth, block_size, dtype="float32", name="first_restorer"
        )
        # Applied to each class alike: the last axis holds the features of a class.
        self.label_scorer = keras.Sequential(
            [
                keras.layers.Dense(32, activation="relu", dtype="float32"),
                keras.layers.Dense(1, kernel_initializer="zeros", dtype="float32"),
            ],
            name="label_scorer",
        )

    def map_channels(self, image_channels: int, num_classes: int) -> int:
        return 3 * image_channels

    def forward_passes(self, num_classes: int) -> int:
        return 2 if self.position in (0, 1) else 3

    def build_for(self, image_shape: tuple, num_classes: int) -> None:
        if self.built:
            return
        self.first_restorer.build((None, *image_shape))
        self.label_scorer.build((None, num_classes, 5))
        self.built = True

    def build(self, images_shape: tuple) -> None:
        raise ValueError("Call `build_for(image_shape, num_classes)` before the estimator.")

    def call(
        self, images: tf.Tensor, classifier: Classifier, labels: tf.Tensor | None = None
    ) -> tf.Tensor:
        self._check_call(images, labels)
        first = self._first_pass(images, classifier)
        return self.maps_for(self.label_distribution(first.label_logits, labels), first)

    def call_with_loss(
        self,
        images: tf.Tensor,
        classifier: Classifier,
        labels: tf.Tensor,
        clean_images: tf.Tensor,
        training: bool = True,
        pixel_weight: float = 10.0,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        first = self._first_pass(images, classifier, training)
        if training:
            distribution = tf.one_hot(labels, first.label_logits.shape[-1])
        else:
            distribution = self.label_distribution(first.label_logits, labels)
        maps = self.maps_for(distribution, first)
        if self.pixel_loss_weight is not None:
            pixel_weight = self.pixel_loss_weight
        return tf.stop_gradient(maps), self._estimation_losses(
            first, labels, clean_images, pixel_weight
        )

    def _estimation_losses(
        self, first: _FirstPass, labels: tf.Tensor, clean_images: tf.Tensor, pixel_weight: float
    ) -> tf.Tensor:
        pixel_loss = tf.reduce_mean(tf.abs(first.restored - clean_images), axis=[1, 2, 3])
        restored_loss, label_loss = (
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            for logits in (first.restored_logits, first.label_logits)
        )
        is_attacked = tf.reduce_any(first.images != clean_images, axis=[1, 2, 3])
        attack_loss = tf.nn.sigmoid_cross_entropy_with_logits(
            tf.cast(is_attacked, tf.float32), first.attack_logits[:, 0]
        )
        return (
            pixel_weight * pixel_loss
            + self.restored_loss_weight * restored_loss
            + label_loss
            + attack_loss
        )

    def estimate_labels(self, images: tf.Tensor, classifier: Classifier) -> tf.Tensor:
        """Estimates the label distribution of the maps.

        Args:
            images: Shape `(batch, height, width, channels)`, in [0, 1].
            classifier: A Keras model, or a callable, from images to logits.

        Returns:
            A tensor of shape `(batch, num_classes)`; each row sums to 1.
        """
        return self.label_distribution(self._first_pass(images, classifier).label_logits)

    def restore_first(self, images: tf.Tensor) -> tf.Tensor:
        """Makes the first restoration, without a gradient map.

        Args:
            images: Shape `(batch, height, width, channels)`, in [0, 1].

        Returns:
            A tensor of the shape of `images`.
        """
        restored, _ = self.first_restorer.restore_with_gate(
            images, gate_threshold=self._first_threshold()
        )
        return restored

    def label_distribution(
        self, label_logits: tf.Tensor, labels: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Chooses the labels of the maps; a study may override it.

        Args:
            label_logits: The logits of the estimated labels, of shape `(batch, num_classes)`.
            labels: The labels that an attack started from, if the caller passed them.

        Returns:
            A tensor of the shape of `label_logits`; each row sums to 1.
        """
        return tf.nn.softmax(label_logits / self.temperature)

    def _first_pass(
        self, images: tf.Tensor, classifier: Classifier, training: bool = False
    ) -> _FirstPass:
        """Makes the first restoration and computes the logits of the estimated labels."""
        logits_of = self.logits_function(classifier)
        threshold = 0.0 if training else self._first_threshold()
        restored, attack_logits = self.first_restorer.restore_with_gate(
            images, gate_threshold=threshold
        )
        position = images + self.position * (restored - images)
        logits, vjp = logits_of.with_vjp(position)
        before = logits if self.position == 0 else logits_of(images)
        after = logits if self.position == 1 else logits_of(restored)
        gate = tf.sigmoid(attack_logits - threshold)
        label_logits = (1 - gate) * before + gate * after + self._score(before, after)
        return _FirstPass(images, restored, attack_logits, after, label_logits, logits, vjp)

    def _first_threshold(self) -> float:
        """Returns the first gate's threshold, corrected for the share of attacks in training."""
        return self.gate_threshold + _logit(_PRIOR_IN_TRAINING) - _logit(self.attack_prior)

    def _score(self, before: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
        """Scores each class from its logits before and after the first restoration."""
        class_features = [_standardize(before), _standardize(after)]
        class_features.append(class_features[1] - class_features[0])
        image_features = [
            ops.broadcast_to(
                ops.max(ops.softmax(logits), axis=-1, keepdims=True), ops.shape(logits)
            )
            for logits in (before, after)
        ]
        score = self.label_scorer(ops.stack([*class_features, *image_features], axis=-1))
        return _spread(after) * ops.squeeze(score, axis=-1)

    def maps_for(self, label_distribution: tf.Tensor, first: _FirstPass) -> tf.Tensor:
        """Returns the map for given labels, its squashed copy, and the removed noise."""
        direction = cross_entropy_direction(first.logits, label_distribution)
        gradient_map = normalize(first.vjp(direction))
        squashed = gradient_map / (tf.abs(gradient_map) + _KNEE)
        return tf.concat([gradient_map, squashed, first.images - first.restored], axis=-1)

    def get_config(self) -> Config:
        names = (
            *("width", "depth", "block_size", "position", "pixel_loss_weight"),
            *("restored_loss_weight", "attack_prior", "temperature", "gate_threshold"),
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        # The behaviour of models from before these arguments existed.
        older = {"attack_prior": _PRIOR_IN_TRAINING, "temperature": 1.0, "pixel_loss_weight": 10.0}
        return cls(**{**older, **config})


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _standardize(logits: tf.Tensor) -> tf.Tensor:
    """Removes the scale of the logits, which differs between classifiers."""
    return (logits - ops.mean(logits, axis=-1, keepdims=True)) / _spread(logits)


def _spread(logits: tf.Tensor) -> tf.Tensor:
    """Returns the standard deviation over the classes, with a finite slope at zero."""
    return ops.sqrt(ops.var(logits, axis=-1, keepdims=True) + _SMALLEST_VARIANCE)
