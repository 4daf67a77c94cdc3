"""DeepFool finds what that of Foolbox finds, and asks only about images that survive."""

import foolbox
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_trn.attacks import DeepFool
from keras_trn.threat_models import WhiteboxFull
from tests.helpers import CountingClassifier
from tests.helpers import boundary_distances
from tests.helpers import lengths
from tests.helpers import linear_classifier
from tests.helpers import predictions


def test_it_breaks_a_trained_classifier(classifier, digits):
    images, labels = digits[0][:120], digits[1][:120]
    adversarial = DeepFool(1.5, steps=10)(classifier, images, labels)
    assert np.mean(predictions(classifier, adversarial) == labels) <= 0.05


@pytest.mark.slow
def test_its_perturbations_are_those_of_foolbox(classifier, digits):
    images, labels = tf.constant(digits[0][:120]), tf.constant(digits[1][:120])
    that_of_foolbox = foolbox.attacks.L2DeepFoolAttack(steps=50, overshoot=0.02)
    # Foolbox asks anew for each class, which takes long without a graph.
    model = foolbox.TensorFlowModel(tf.function(classifier, autograph=False), bounds=(0, 1))
    expected, _, _ = that_of_foolbox(model, images, labels, epsilons=None)
    attacked = predictions(classifier, images) == labels
    adversarial = DeepFool(100.0)(classifier, images, labels)
    assert np.all(predictions(classifier, adversarial) != labels)
    difference = (lengths(adversarial - images) - lengths(expected - images))[attacked]
    assert np.mean(np.abs(difference) < 1e-3) > 0.95


def test_one_step_reaches_the_boundary_of_a_linear_classifier():
    keras.utils.set_random_seed(0)
    classifier = linear_classifier(num_classes=4)
    # Far from the ends of the range, which would stop pixels.
    images = np.random.default_rng(0).uniform(0.4, 0.6, (20, 8, 8, 1)).astype("float32")
    labels = predictions(classifier, images)
    nearest = boundary_distances(classifier, images, labels)
    adversarial = DeepFool(10.0, steps=1, overshoot=0.1)(classifier, images, labels)
    np.testing.assert_allclose(
        lengths(adversarial - images), 1.1 * (nearest + 1e-4), rtol=1e-3, atol=1e-5
    )
    assert np.all(predictions(classifier, adversarial) != labels)


def test_longer_perturbations_are_shortened(classifier, digits):
    images, labels = digits[0][:40], digits[1][:40]
    free = lengths(DeepFool(100.0)(classifier, images, labels) - images)
    epsilon = float(np.median(free))
    shortened = lengths(DeepFool(epsilon)(classifier, images, labels) - images)
    np.testing.assert_allclose(shortened, np.minimum(free, epsilon), atol=1e-4)


def test_images_that_are_misclassified_already_are_left_as_they_are(classifier, digits):
    images = digits[0][:12]
    labels = predictions(classifier, images)
    labels[::2] = (labels[::2] + 1) % 10
    adversarial = DeepFool(1.0, steps=2)(classifier, images, labels)
    np.testing.assert_array_equal(adversarial[::2], images[::2])
    assert np.all(lengths(adversarial - images)[1::2] > 0)


def test_only_survivors_are_queried(classifier, digits):
    images, labels = digits[0][:40], digits[1][:40]
    counted = CountingClassifier(classifier)
    correct = predictions(classifier, images) == labels
    DeepFool(100.0, steps=1)(counted, images, labels)
    # One image shows the number of classes. Each survivor costs two passes for each step.
    assert counted.seen.numpy() == 1 + 40 + 2 * correct.sum()
    counted.seen.assign(0)
    DeepFool(100.0, steps=50)(counted, images, labels)
    assert counted.seen.numpy() < 1 + 40 + 2 * 8 * correct.sum()


def test_a_classifier_of_two_classes_is_attacked(digits):
    keras.utils.set_random_seed(0)
    classifier = linear_classifier(num_classes=2)
    images = digits[0][:12]
    labels = predictions(classifier, images)
    adversarial = DeepFool(2.0)(classifier, images, labels)
    assert np.mean(predictions(classifier, adversarial) == labels) < 0.2


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (16, 9, 3)], ids=str)
def test_images_of_any_shape_are_attacked(shape):
    keras.utils.set_random_seed(0)
    # More classes than are considered.
    classifier = linear_classifier(shape, num_classes=12)
    images = np.random.default_rng(0).random((8, *shape), dtype="float32")
    labels = predictions(classifier, images)
    adversarial = DeepFool(10.0)(classifier, images, labels)
    assert np.isfinite(adversarial).all()
    if np.prod(shape) > 1:
        assert np.all(predictions(classifier, adversarial) != labels)


def test_images_without_a_gradient_are_left_as_they_are(classifier, digits):
    images = digits[0][:4]

    def rounded(images):
        return classifier(tf.floor(2.9 * images), training=False)

    labels = predictions(rounded, images)
    adversarial = DeepFool(1.0, steps=3)(rounded, images, labels)
    np.testing.assert_array_equal(adversarial, images)


def test_answers_that_are_not_numbers_leave_the_others_alone(classifier, digits):
    images, labels = digits[0][:12].copy(), digits[1][:12]
    images[:, 0, 0] = 0.0
    images[::3, 0, 0] = 1.0

    def broken(images):
        scores = classifier(images, training=False)
        return tf.where(images[:, 0, 0] > 0.9, np.nan, scores)

    adversarial = DeepFool(10.0)(broken, images, labels)
    assert np.isfinite(adversarial).all()
    np.testing.assert_array_equal(adversarial[::3], images[::3])
    assert np.all(predictions(classifier, adversarial[1::3]) != labels[1::3])


@pytest.mark.slow
def test_it_works_through_a_defence(classifier, protect, digits):
    images = digits[0][:8]
    target = WhiteboxFull().target(protect(classifier))
    labels = predictions(target, images)
    adversarial = DeepFool(3.0, steps=10)(target, images, labels)
    assert np.mean(predictions(target, adversarial) == labels) <= 0.5


def test_a_classifier_with_a_loop_inside_is_attacked(classifier, digits):
    images, labels = digits[0][:8], digits[1][:8]

    def smoothed(images):
        halve = tf.while_loop(
            lambda step, _: step < 3,
            lambda step, scores: (step + 1, scores * 0.9),
            (tf.constant(0), classifier(images, training=False)),
        )
        return halve[1]

    adversarial = DeepFool(100.0)(smoothed, images, labels)
    assert np.all(predictions(classifier, adversarial) != labels)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"steps": True}, "steps must be a whole number"),
        ({"overshoot": -1}, "overshoot must be a number from 0 to 1"),
    ],
    ids=str,
)
def test_malformed_argument_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        DeepFool(1.0, **config)
