"""SPSA never asks for a gradient, and is strong without one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_trn.attacks import SPSA
from keras_trn.threat_models import Blackbox


def predictions(classifier, images):
    return np.argmax(classifier(images), axis=-1)


def quick(epsilon=0.2, **config):
    return SPSA(epsilon, steps=5, samples=8, **config)


@pytest.fixture
def few(digits):
    return digits[0][:12], digits[1][:12]


@pytest.mark.slow
def test_it_breaks_a_trained_classifier(classifier, digits):
    images, labels = digits[0][:120], digits[1][:120]
    adversarial = SPSA(0.2, seed=0)(classifier, images, labels)
    assert np.mean(predictions(classifier, adversarial) == labels) <= 0.06


@pytest.mark.parametrize("label", [0, 1])
def test_first_step_goes_against_the_gradient_of_the_margin(label):
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(2)
    classifier = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), dense])
    # An image changes only while the classifier is right.
    dense.bias.assign(10.0 * tf.one_hot(label, 2))
    images = tf.fill((3, 4, 4, 1), 0.5)
    attack = SPSA(0.1, steps=1, relative_step_size=1.0, samples=2000, seed=0)
    gradient = (dense.kernel[:, label] - dense.kernel[:, 1 - label]).numpy()
    # The measured sign of a slope near zero is random.
    is_steep = np.abs(gradient) > 0.15
    assert is_steep.sum() >= 10
    for change in np.reshape(attack(classifier, images, np.full(3, label)) - images, (3, 16)):
        np.testing.assert_allclose(change[is_steep], -0.1 * np.sign(gradient[is_steep]), rtol=1e-3)


def test_it_needs_no_gradient(classifier, few):
    blackbox = Blackbox()
    attack = quick(seed=0)
    assert blackbox.supports(attack)
    np.testing.assert_array_equal(
        attack(blackbox.target(classifier), *few), attack(classifier, *few)
    )


def test_images_that_are_misclassified_already_are_left_as_they_are(classifier, few):
    images, _ = few
    labels = (predictions(classifier, images) + 1) % 10
    np.testing.assert_array_equal(quick()(classifier, images, labels), images)


@pytest.mark.slow
def test_it_works_with_xla(classifier, few):
    attack = quick(seed=0)

    @tf.function(jit_compile=True)
    def attack_in_graph(images, labels):
        return attack(classifier, images, labels)

    np.testing.assert_allclose(attack_in_graph(*few), attack(classifier, *few), atol=1e-3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, received 0"),
        ({"samples": "8"}, "samples must be a whole number"),
        ({"delta": 0}, "delta must be a number from 1e-06 to 1"),
        ({"relative_step_size": 2}, "relative_step_size must be a number from 0 to 1"),
    ],
    ids=str,
)
def test_malformed_argument_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        SPSA(0.1, **config)
