"""The binarization test: can the attack find an adversarial image that must be there?"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from keras_trn.evaluation.checks.registry import Finding
from keras_trn.evaluation.checks.registry import NotApplicable
from keras_trn.evaluation.checks.registry import check
from keras_trn.evaluation.checks.sampling import random_inside
from keras_trn.evaluation.checks.sampling import random_on_surface
from keras_trn.logits import logits_function

# Fewer than most classifiers have features, so that a readout can tell them apart.
_INNER_POINTS = 200
# Between the inner points and the boundary lies an empty shell, as in the paper.
_INNER_RADIUS = 0.95
# How near the threshold lies to the boundary point, so that no other random point passes.
_NEARNESS = 0.999
# Logistic regression with next to no regularization, as every image can be told apart.
_INVERSE_REGULARIZATION = 1e5
_MOST_ITERATIONS = 1000
# What the attack has to find; a guaranteed example may be missed by bad luck.
_FOUND = 0.95


@check
def binarization_test(examination):
    """Checks that the attack finds an adversarial image which is known to exist.

    The classifier's last layer is replaced, for each image anew, by a linear
    readout that tells points inside the ball around the image from one point of
    its boundary. The modified defence keeps all that may stand in the attack's
    way, and has an adversarial image by construction. The same attack, through
    everything, must find one; where it does not, its failure on the unmodified
    defence says nothing of the defence. A random search with as many points as the
    attack has steps shows that finding one is not easy.

    The features are the input of the classifier's last `Dense` layer, on the
    restored image; its logits where there is no such layer. Images whose points
    cannot be told apart are left out.

    Source: Zimmermann et al., "Increasing Confidence in Adversarial Robustness
    Evaluations", NeurIPS 2022, arXiv 2206.13991.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the share of images on which the attack
        succeeds. Not applicable where no image's points can be told apart.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=10)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.binarization_test(examination).status == "PASS"
        ```
    """
    examination.check_obstacle()
    binarized = binarize(examination)
    if not len(binarized.images):
        return NotApplicable("No readout tells points inside a ball from its boundary")
    inside = np.zeros(len(binarized.images), "int64")
    attacked = examination.attack(binarized, binarized.images, inside)
    found = float(_is_beyond(examination.logits(attacked, binarized)).mean())
    left_out = len(examination.images) - len(binarized.images)
    return Finding(
        found >= _FOUND,
        found,
        f"The attack finds {found:.1%} of guaranteed adversarial images and a random search "
        f"{_random_success(examination, binarized):.1%}, with {left_out} images left out",
        "the attack is too weak for this defence; robust accuracies are not to be trusted",
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Binarized:
    """A defence whose last layer is, for each of a fixed batch of images, a readout of its own.

    Args:
        features: Function from images to features of shape `(batch, size)`.
        images: Tensor of the images that have a readout.
        boundary: Tensor of their guaranteed adversarial images.
        weights: Array of a row of weights for each image.
        thresholds: Array of a threshold for each image.
    """

    features: object
    images: tf.Tensor
    boundary: tf.Tensor
    weights: np.ndarray
    thresholds: np.ndarray

    def __call__(self, images):
        """Answers whether images lie inside, class 0, or beyond, class 1.

        Args:
            images: Tensor of perturbed images, in the order of `images`.

        Returns:
            A tensor of shape `(number of images, 2)`.
        """
        scores = tf.reduce_sum(self.features(images) * self.weights, axis=-1) - self.thresholds
        return tf.stack([-scores, scores], axis=-1)


def binarize(examination):
    """Gives every image a readout of its own, and with it an adversarial image.

    Args:
        examination: The `Examination`.

    Returns:
        A `Binarized` defence for those images where a readout was found.
    """
    features = _features(examination)
    compiled = examination.graph(features)
    # The attack is to meet logits as large as the defence's own, with all that this makes flat.
    logit_ranges = np.ptp(examination.logits(examination.images), axis=-1)
    kept, readouts, boundaries = [], [], []
    for index, logit_range in enumerate(logit_ranges):
        points = _points(examination, index)
        # Threads of TensorFlow and of NumPy would wait for each other.
        with threadpool_limits(1):
            readout = _readout(compiled(points).numpy(), logit_range)
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


def _features(examination):
    """A function from images to what the classifier's last layer sees of their restorations."""
    parts = [logits_function(part) for part in without_last_dense(examination.classifier)]
    defence = examination.defence

    def of_restored(images):
        features = defence.restore_batch(images) if examination.is_restored else images
        for part in parts:
            features = part(features)
        return tf.reshape(features, [tf.shape(features)[0], -1])

    return of_restored


def without_last_dense(classifier):
    """Takes from a classifier what comes before its last `Dense` layer.

    The way goes back from the output, into models that are layers of others, so that layers
    which are used several times, or in several models, are taken where they are used here.

    Args:
        classifier: A Keras model.

    Returns:
        A list of models, to be applied one after the other; the classifier alone where there is
        no such layer on the way, or more than one way.

    Example:
        ```python
        from keras_trn.evaluation.checks.binarization import without_last_dense

        backbone = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
        classifier = keras.Sequential([backbone, keras.layers.Dense(10)])
        (part,) = without_last_dense(classifier)
        assert part(keras.ops.zeros((2, 8, 8, 1))).shape == (2, 64)
        ```
    """
    return _before_last_dense(classifier) or [classifier]


def _before_last_dense(model):
    """The parts of a model before its last `Dense` layer; `None` if there is none to be found."""
    if len(getattr(model, "inputs", None) or ()) != 1 or len(model.outputs) != 1:
        return None
    tensor = model.outputs[0]
    while tensor is not model.inputs[0]:
        operation, node_index, _ = tensor._keras_history
        inputs = operation._inbound_nodes[node_index].input_tensors
        if len(inputs) != 1:
            return None
        tensor = inputs[0]
        if isinstance(operation, keras.layers.Dense):
            return [] if tensor is model.inputs[0] else [keras.Model(model.inputs[0], tensor)]
        if isinstance(operation, keras.Model):
            within = _before_last_dense(operation)
            before = [] if tensor is model.inputs[0] else [keras.Model(model.inputs[0], tensor)]
            return None if within is None else [*before, *within]
    return None


def _points(examination, index):
    """An image, random points well inside the ball around it, and one of its boundary."""
    image, norm = examination.images[index : index + 1], examination.attack.norm
    epsilon = tf.constant(examination.attack.epsilon, tf.float32)
    seed = tf.constant([examination.seed, index])
    centres = tf.repeat(image, _INNER_POINTS, axis=0)
    inner = random_inside(centres, _INNER_RADIUS * epsilon, norm, seed)
    boundary = random_on_surface(image, epsilon, norm, seed + 1)
    return tf.concat([image, inner, boundary], axis=0)


def _readout(features, logit_range):
    """Weights and threshold that part the last point from the others; `None` if none do."""
    if not np.isfinite(features).all():
        return None
    # Regression converges where features are of the order of 1, whatever the classifier's are.
    centre, scale = features[0], features.std() or 1.0
    is_boundary = np.arange(len(features)) == len(features) - 1
    regression = LogisticRegression(
        C=_INVERSE_REGULARIZATION, class_weight="balanced", max_iter=_MOST_ITERATIONS
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


def _random_success(examination, binarized):
    """The share of images for which one of as many random points as steps is beyond."""
    attack = examination.attack
    epsilon = tf.constant(attack.epsilon, tf.float32)
    is_found = np.zeros(len(binarized.images), bool)
    answer = examination.graph(binarized)
    for step in range(attack.steps):
        draw = random_inside if step % 2 else random_on_surface
        seed = tf.constant([examination.seed + 1, step])
        drawn = draw(binarized.images, epsilon, attack.norm, seed)
        is_found |= _is_beyond(answer(drawn).numpy())
    return is_found.mean()


def _is_beyond(logits):
    """Which images are taken for the boundary."""
    return logits[:, 1] > 0
