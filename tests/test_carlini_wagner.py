"""The attack of Carlini and Wagner finds what that of Foolbox finds."""

import foolbox
import numpy as np
import pytest
import tensorflow as tf

from keras_trn.attacks import CarliniWagner
from keras_trn.threat_models import WhiteboxFull


def lengths(perturbation):
    return np.linalg.norm(np.reshape(perturbation, (len(perturbation), -1)), axis=-1)


def predictions(classifier, images):
    return np.argmax(classifier(images), axis=-1)


def quick(epsilon=1.0, **config):
    return CarliniWagner(epsilon, steps=20, search_steps=3, learning_rate=0.3, **config)


@pytest.mark.slow
def test_it_succeeds_as_often_as_that_of_foolbox(classifier, digits):
    images, labels = tf.constant(digits[0][:120]), tf.constant(digits[1][:120])
    epsilons = [0.5, 0.75]
    that_of_foolbox = foolbox.attacks.L2CarliniWagnerAttack(
        steps=50, binary_search_steps=4, stepsize=0.1, initial_const=0.1, abort_early=False
    )
    _, _, expected = that_of_foolbox(
        foolbox.TensorFlowModel(tf.function(classifier, autograph=False), bounds=(0, 1)),
        images,
        labels,
        epsilons=epsilons,
    )
    attack = CarliniWagner(1.0, steps=50, search_steps=4, learning_rate=0.1)
    for epsilon, is_adversarial in zip(epsilons, expected, strict=True):
        adversarial = attack(classifier, images, labels, epsilon=epsilon)
        successes = predictions(classifier, adversarial) != labels
        assert abs(np.mean(successes) - np.mean(is_adversarial)) <= 0.02


@pytest.mark.slow
def test_it_breaks_a_trained_classifier_at_its_defaults(classifier, digits):
    images, labels = digits[0][:120], digits[1][:120]
    adversarial = CarliniWagner(1.25)(classifier, images, labels)
    assert np.mean(predictions(classifier, adversarial) == labels) <= 0.01
    assert np.median(lengths(adversarial - images)) < 0.55


def test_images_that_are_misclassified_already_are_left_as_they_are(classifier, digits):
    images = digits[0][:8]
    labels = (predictions(classifier, images) + 1) % 10
    np.testing.assert_array_equal(quick()(classifier, images, labels), images)


def test_confidence_asks_for_a_margin(classifier, digits):
    images = digits[0][:16]
    labels = predictions(classifier, images)
    adversarial = CarliniWagner(10.0, confidence=3.0)(classifier, images, labels)
    logits = classifier(adversarial).numpy()
    of_label = logits[np.arange(16), labels]
    assert np.all(logits.max(axis=-1) - of_label >= 3.0 - 1e-3)


@pytest.mark.slow
def test_it_works_through_a_defence(classifier, protect, digits):
    images = digits[0][:8]
    target = WhiteboxFull().target(protect(classifier))
    labels = predictions(target, images)
    adversarial = quick(2.0)(target, images, labels)
    assert np.mean(predictions(target, adversarial) == labels) <= 0.5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, received 0"),
        ({"search_steps": 2.0}, "search_steps must be a whole number"),
        ({"learning_rate": 2}, "learning_rate must be a number from 0 to 1"),
        ({"confidence": -1}, "confidence must be a number from 0 to inf"),
    ],
    ids=str,
)
def test_malformed_argument_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        CarliniWagner(1.0, **config)
