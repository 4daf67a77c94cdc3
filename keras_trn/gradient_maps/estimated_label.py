"""The estimator that learns for which label to take the map."""

import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf
from keras import ops

from keras_trn.gradient_maps.gradient_map import GradientMap
from keras_trn.gradient_maps.gradient_map import normalize
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_range
from keras_trn.logits import cross_entropy_direction
from keras_trn.restoration_network import TwoStreamRestorationNetwork

# What a squashed map has half of its largest value at, in root mean squares of the map.
_KNEE = 0.1
_PIXEL_LOSS_WEIGHT = 10.0
_SMALLEST_VARIANCE = 1e-12
_LOWEST_TEMPERATURE = 1e-3
# Of the images of a batch, three quarters are attacked by default.
_PRIOR_IN_TRAINING = 0.75


class _FirstPass(NamedTuple):
    """What is known of the images before a label is chosen."""

    images: tf.Tensor
    restored: tf.Tensor
    attack_logits: tf.Tensor
    restored_logits: tf.Tensor
    label_logits: tf.Tensor
    # The logits where the gradient is taken, and what takes it.
    logits: tf.Tensor
    vjp: Callable


@keras.saving.register_keras_serializable(package="keras_trn")
class EstimatedLabel(GradientMap):
    """The map for a label that is estimated by a first restoration.

    An attack moves the image along the gradient for its label, so that is the
    map which tells most about the perturbation, and it is not known at test
    time. This estimator learns to find it:

    1. A single-stream network makes a first restoration of the image, and judges
       whether the image was attacked at all.
    2. The classifier's logits before and after it are compared, class by class:
       a class that rises as the perturbation is lifted is likely the true one.
       The weights of this comparison are shared by all classes. As far as the
       image does not look attacked, the logits before are believed.
    3. The gradient map is taken for the label distribution that results, by default
       halfway between the image and its first restoration: an attack of several
       steps has taken its gradients along the way.

    The map is handed to the restorer together with a squashed copy of it, which
    tells the sign of weak gradients too, and with what the first restoration took
    away, the noise estimate.

    It learns beside the restorer, from a loss of its own; nothing is differentiated
    through the map. While the restorer learns, the map is taken for the label that
    the attack led away from ("teacher forcing", Williams and Zipser, Neural
    Computation 1989), so the restorer learns to trust it. When it is validated or
    used, the map is the one for the estimated label.

    Channels: three times those of the image (map, squashed map, noise estimate).
    Cost: 1 forward and 1 backward pass, whatever the number of classes, and 2 more
    forward passes; 1 more at either end of the way.

    Args:
        width: Number of filters of the first restoration's network.
        depth: Number of its residual blocks.
        block_size: Side of the blocks in which it folds the image.
        position: Where on the way from the image, 0, to its first restoration, 1, the
            gradient is taken.
        restored_loss_weight: Weight of the classifier's cross-entropy on the first
            restoration, beside 1 for that of the estimated labels.
        attack_prior: Probability that an image in use was attacked, before it is looked at.
            Training shows three attacked images for each benign one, and use is the other
            way round: an image that could be either counts as benign by nine to one with
            the default, and keeps the label that the classifier predicts.
        temperature: Divides the logits of the estimated labels; at least 1e-3. Below 1 the
            estimate commits itself to a label. A map for two labels by halves points
            anywhere, and is scaled up like any other.
        gate_threshold: What is subtracted from the logit of an image being attacked: the
            higher, the more the classifier's own prediction is believed.
            `ProtectedClassifier.calibrate` sets it.
        **kwargs: The usual arguments of a Keras layer (`name`).

    Call arguments:
        images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
        classifier: A Keras model, or a callable, from images to logits.

    Returns:
        A float32 tensor of shape `(batch, height, width, 3 * channels)`.

    Raises:
        ValueError: If a size is not a positive whole number, the position is not
            from 0 to 1, the weight is negative, or the images are malformed.

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
        width=32,
        depth=3,
        block_size=2,
        position=0.5,
        restored_loss_weight=0.2,
        attack_prior=0.1,
        temperature=0.3,
        gate_threshold=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.attack_prior = check_range("attack_prior", attack_prior, 1e-6, 1 - 1e-6)
        self.gate_threshold = check_range("gate_threshold", gate_threshold, -math.inf, math.inf)
        self.temperature = check_range("temperature", temperature, _LOWEST_TEMPERATURE, math.inf)
        position = check_range("position", position, 0, 1)
        restored_loss_weight = check_range(
            "restored_loss_weight", restored_loss_weight, 0, math.inf
        )
        self.position = position
        self.restored_loss_weight = restored_loss_weight
        self.width = check_count("width", width)
        self.depth = check_count("depth", depth)
        self.block_size = check_count("block_size", block_size)
        self.first_restorer = TwoStreamRestorationNetwork(
            width, depth, block_size, gradient_stream=False, dtype="float32", name="first_restorer"
        )
        # Applied to each class alike: the last axis holds what is known of a class.
        self.label_scorer = keras.Sequential(
            [
                keras.layers.Dense(32, activation="relu", dtype="float32"),
                keras.layers.Dense(1, kernel_initializer="zeros", dtype="float32"),
            ],
            name="label_scorer",
        )

    def map_channels(self, image_channels, num_classes):
        return 3 * image_channels

    def build_for(self, image_shape, num_classes):
        if self.built:
            return
        self.first_restorer.build((None, *image_shape))
        self.label_scorer.build((None, num_classes, 5))
        self.built = True

    def build(self, images_shape):
        raise ValueError("Call `build_for(image_shape, num_classes)` before the estimator.")

    def call(self, images, classifier, labels=None):
        self._check_call(images, labels)
        first = self._first_pass(images, classifier)
        return self.maps_for(self.label_distribution(first.label_logits, labels), first)

    def call_with_loss(self, images, classifier, labels, clean_images, training=True):
        first = self._first_pass(images, classifier, training)
        if training:
            distribution = tf.one_hot(labels, first.label_logits.shape[-1])
        else:
            distribution = self.label_distribution(first.label_logits, labels)
        maps = self.maps_for(distribution, first)
        return tf.stop_gradient(maps), self._estimation_losses(first, labels, clean_images)

    def _estimation_losses(self, first, labels, clean_images):
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
            _PIXEL_LOSS_WEIGHT * pixel_loss
            + self.restored_loss_weight * restored_loss
            + label_loss
            + attack_loss
        )

    def estimate_labels(self, images, classifier):
        """Estimates the label distribution that the maps are taken for.

        Args:
            images: Tensor of shape `(batch, height, width, channels)` in [0, 1].
            classifier: A Keras model, or a callable, from images to logits.

        Returns:
            A tensor of shape `(batch, num_classes)`; each row sums to 1.
        """
        return self.label_distribution(self._first_pass(images, classifier).label_logits)

    def label_distribution(self, label_logits, labels=None):
        """Says for which labels the maps are taken; a study may take others.

        Args:
            label_logits: The logits of the estimated labels, of shape `(batch,
                num_classes)`.
            labels: The labels that an attack led away from, where the call was given them.

        Returns:
            A tensor of the shape of `label_logits`; each row sums to 1.
        """
        return tf.nn.softmax(label_logits / self.temperature)

    def _first_pass(self, images, classifier, training=False):
        """Restores the images for a first time, and estimates their labels."""
        logits_of = self.logits_function(classifier)
        threshold = 0.0 if training else self.gate_threshold + self._prior_threshold()
        restored, attack_logits = self.first_restorer.restore_with_gate(
            images, gate_threshold=threshold
        )
        taken_at = images + self.position * (restored - images)
        logits, vjp = logits_of.with_vjp(taken_at)
        before = logits if self.position == 0 else logits_of(images)
        after = logits if self.position == 1 else logits_of(restored)
        gate = tf.sigmoid(attack_logits - threshold)
        label_logits = (1 - gate) * before + gate * after + self._score(before, after)
        return _FirstPass(images, restored, attack_logits, after, label_logits, logits, vjp)

    def _prior_threshold(self):
        """By how much the logit of an attack is too high, as there are more in training."""
        return _logit(_PRIOR_IN_TRAINING) - _logit(self.attack_prior)

    def _score(self, before, after):
        """Scores every class from its logits before and after the first restoration."""
        of_class = [_standardize(before), _standardize(after)]
        of_class.append(of_class[1] - of_class[0])
        of_image = [
            ops.broadcast_to(
                ops.max(ops.softmax(logits), axis=-1, keepdims=True), ops.shape(logits)
            )
            for logits in (before, after)
        ]
        score = self.label_scorer(ops.stack([*of_class, *of_image], axis=-1))
        return _spread(after) * ops.squeeze(score, axis=-1)

    def maps_for(self, label_distribution, first):
        """Takes the maps for given labels.

        Args:
            label_distribution: Tensor of shape `(batch, num_classes)`.
            first: What the first restoration has found.

        Returns:
            The map, a squashed copy of it, and the noise estimate, side by side.
        """
        direction = cross_entropy_direction(first.logits, label_distribution)
        gradient_map = normalize(first.vjp(direction))
        squashed = gradient_map / (tf.abs(gradient_map) + _KNEE)
        return tf.concat([gradient_map, squashed, first.images - first.restored], axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "depth": self.depth,
            "block_size": self.block_size,
            "position": self.position,
            "restored_loss_weight": self.restored_loss_weight,
            "attack_prior": self.attack_prior,
            "temperature": self.temperature,
            "gate_threshold": self.gate_threshold,
        }

    @classmethod
    def from_config(cls, config):
        # Models that were saved before there were these arguments know of neither.
        return cls(**{"attack_prior": _PRIOR_IN_TRAINING, "temperature": 1.0, **config})


def _logit(probability):
    return math.log(probability / (1 - probability))


def _standardize(logits):
    """Takes away the scale of the logits, which differs from classifier to classifier."""
    return (logits - ops.mean(logits, axis=-1, keepdims=True)) / _spread(logits)


def _spread(logits):
    """The standard deviation over the classes, whose slope is finite where they are all alike."""
    return ops.sqrt(ops.var(logits, axis=-1, keepdims=True) + _SMALLEST_VARIANCE)
