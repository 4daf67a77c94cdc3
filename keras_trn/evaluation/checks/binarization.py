"""The binarization test: does an attack find an adversarial image that certainly exists?"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from keras_trn.evaluation.checks.examination import Examination
from keras_trn.evaluation.checks.registry import Finding
from keras_trn.evaluation.checks.registry import NotApplicable
from keras_trn.evaluation.checks.registry import Outcome
from keras_trn.evaluation.checks.registry import check
from keras_trn.evaluation.checks.sampling import random_inside
from keras_trn.evaluation.checks.sampling import random_on_surface
from keras_trn.logits import logits_function

# Fewer points than most classifiers have features, so a readout can separate them.
_INNER_POINTS = 200
# As in the paper, an empty shell separates the inner points from the boundary.
_INNER_RADIUS = 0.95
# The threshold is so close to the boundary point that other random points do not pass it.
_NEARNESS = 0.999
# Almost no regularization, because a readout can separate all points.
_INVERSE_REGULARIZATION = 1e5
_MAX_ITERATIONS = 1000
# The share that the attack must find; it may miss a few guaranteed examples by chance.
_FOUND = 0.95


@check(
    finds="an attack that misses adversarial images which are known to exist",
    source="Zimmermann et al., NeurIPS 2022, arXiv 2206.13991",
    subject="main attack",
)
def binarization_test(examination: Examination) -> Outcome:
    """Checks that the attack finds an adversarial image that is known to exist.

    For each image, a linear readout replaces the classifier's last layer. It separates points
    inside the ball from one point on its boundary, so this point is adversarial by construction.
    If the same attack misses it, its failure on the real defence proves nothing. A random search
    with one point per step of the attack shows how hard the task is.

    The features are the input of the classifier's last `Dense` layer on the restored image, or its
    logits if there is no such layer. The figure is the share of images on which the attack
    succeeds. Images whose points cannot be separated do not count.
    """
    examination.target("whitebox_full")
    binarized = binarize(examination)
    if not len(binarized.images):
        return NotApplicable("No readout separates points inside a ball from its boundary")
    inside = np.zeros(len(binarized.images), "int64")
    attacked = examination.attack(binarized, binarized.images, inside)
    found = float(binarized.is_adversarial(attacked).mean())
    left_out = len(examination.images) - len(binarized.images)
    return Finding(
        found >= _FOUND,
        found,
        f"The attack finds {found:.1%} of guaranteed adversarial images and a random search "
        f"{_random_success(examination, binarized):.1%}, with {left_out} images left out",
        "the attack is too weak for this defence; do not trust its robust accuracies",
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Binarized:
    """Maps images to two logits, with a separate last layer for each image of a batch."""

    # Compiled, from images to features of shape (batch, size).
    features: Callable[[tf.Tensor], tf.Tensor]
    images: tf.Tensor
    # The guaranteed adversarial images.
    boundary: tf.Tensor
    weights: np.ndarray
    thresholds: np.ndarray

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        scores = tf.reduce_sum(self.features(images) * self.weights, axis=-1) - self.thresholds
        return tf.stack([-scores, scores], axis=-1)

    def is_adversarial(self, images: tf.Tensor) -> np.ndarray:
        """Tells which perturbed images, in the order of `images`, exceed their thresholds."""
        scores = np.sum(self.features(images).numpy() * self.weights, axis=-1)
        return scores > self.thresholds


def binarize(examination: Examination) -> Binarized:
    """Fits a readout for every image whose points it can separate."""
    # The attack's graph calls the compiled function instead of tracing the defence again.
    features = examination.graph(_features(examination))
    # The attack should meet logits of the defence's size, with the same saturation.
    logit_ranges = np.ptp(examination.logits(examination.images), axis=-1)
    kept, readouts, boundaries = [], [], []
    for index, logit_range in enumerate(logit_ranges):
        points = _points(examination, index)
        # TensorFlow's and NumPy's threads would wait for each other.
        with threadpool_limits(1):
            readout = _readout(features(points).numpy(), logit_range)
        if readout is not None:
            kept.append(index)
            readouts.append(readout)
            boundaries.append(points[-1])
    weights, thresholds = zip(*readouts, strict=True) if readouts else ((), ())
    return Binarized(
        features,
        tf.gather(examination.images, tf.constant(kept, tf.int32)),
        tf.stack(boundaries) if boundaries else tf.zeros([0]),
        np.array(weights, "float32"),
        np.array(thresholds, "float32"),
    )


def _features(examination: Examination) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from images to the input of the classifier's last layer."""
    models = before_last_dense(examination.classifier, examination.images[:2])
    parts = [logits_function(model) for model in models]
    defence = examination.defence

    def features_of_restored(images: tf.Tensor) -> tf.Tensor:
        features = defence.restore_batch(images) if examination.is_restored else images
        for part in parts:
            features = part(features)
        return tf.reshape(features, [tf.shape(features)[0], -1])

    return features_of_restored


def before_last_dense(classifier: keras.Model, images: tf.Tensor) -> list[Any]:
    """Returns the layers and models that compute the input of the last `Dense` layer.

    If that layer does not compute the logits, it returns the classifier alone.
    """
    parts, last = _split(classifier)
    features = images
    for part in parts:
        features = logits_function(part)(features)
    if not parts or last is None or len(features.shape) != 2:
        return [classifier]
    # A layer that two models share may belong to the path of the other one.
    logits = logits_function(classifier)(images)
    is_same = np.allclose(last(features), logits, rtol=1e-3, atol=1e-4)
    return parts if is_same else [classifier]


def _split(model: Any) -> tuple[list[Any], Any]:
    """Splits a model into the parts before its last `Dense` layer, and that layer or `None`."""
    if not isinstance(model, keras.Model):
        return [], model if isinstance(model, keras.layers.Dense) else None
    is_candidate = [isinstance(layer, (keras.layers.Dense, keras.Model)) for layer in model.layers]
    if not any(is_candidate):
        return [], None
    index = len(is_candidate) - 1 - is_candidate[::-1].index(True)
    within, last = _split(model.layers[index])
    if isinstance(model, keras.Sequential):
        return [*model.layers[:index], *within], last
    try:
        before = keras.Model(model.input, model.layers[index].input)
    except (AttributeError, ValueError):
        # A subclassed model has no graph, and a shared layer may belong to another graph.
        return [], None
    return [before, *within], last


def _points(examination: Examination, index: int) -> tf.Tensor:
    """Returns an image, random points inside the ball around it, and one on its boundary."""
    image, norm = examination.images[index : index + 1], examination.attack.norm
    epsilon = tf.constant(examination.attack.epsilon, tf.float32)
    seed = tf.constant([examination.seed, index])
    centres = tf.repeat(image, _INNER_POINTS, axis=0)
    inner = random_inside(centres, _INNER_RADIUS * epsilon, norm, seed)
    boundary = random_on_surface(image, epsilon, norm, seed + 1)
    return tf.concat([image, inner, boundary], axis=0)


def _readout(features: np.ndarray, logit_range: float) -> tuple[np.ndarray, float] | None:
    """Finds weights and a threshold that separate the last point; `None` if there are none."""
    if not np.isfinite(features).all():
        return None
    # Regression converges only if features are of the order of 1.
    centre, scale = features[0], features.std() or 1.0
    is_boundary = np.arange(len(features)) == len(features) - 1
    regression = LogisticRegression(
        C=_INVERSE_REGULARIZATION, class_weight="balanced", max_iter=_MAX_ITERATIONS
    )
    weights = regression.fit((features - centre) / scale, is_boundary).coef_[0]
    scores = features @ weights
    highest_inside, boundary = scores[:-1].max(), scores[-1]
    gap = boundary - highest_inside
    if not gap > 1e-6 * np.abs(scores).max():
        return None
    threshold = highest_inside + _NEARNESS * gap
    enlargement = logit_range / (2 * np.abs(scores - threshold).max())
    return enlargement * weights, enlargement * threshold


def _random_success(examination: Examination, binarized: Binarized) -> float:
    """Returns the share of images that a random search breaks, with one point per step."""
    attack: Any = examination.attack
    epsilon = tf.constant(attack.epsilon, tf.float32)
    is_found = np.zeros(len(binarized.images), bool)
    for step in range(attack.steps):
        draw = random_inside if step % 2 else random_on_surface
        seed = tf.constant([examination.seed + 1, step])
        is_found |= binarized.is_adversarial(draw(binarized.images, epsilon, attack.norm, seed))
    return is_found.mean()
