"""Restarts keep the best of several runs."""

import numpy as np
import pytest
import tensorflow as tf

from keras_trn.attacks import SPSA
from keras_trn.attacks import Attack
from keras_trn.attacks import AutoProjectedGradientDescent
from keras_trn.attacks import FastGradientMethod
from keras_trn.attacks import Mixture
from keras_trn.attacks import ProjectedGradientDescent
from keras_trn.attacks import Restarts


class Shift(Attack):
    """Adds or subtracts epsilon, as the seed will have it."""

    def craft(self, logits, images, labels, epsilon, random_seed):
        sign = tf.random.stateless_uniform([], random_seed, -1, 1)
        return images + epsilon * tf.sign(sign)


def brightness(images):
    """Logits of three classes, of which the second is the most likely for bright images."""
    mean = tf.reduce_mean(images, axis=[1, 2, 3])
    return tf.stack([0.5 - mean, mean - 0.5, mean - 9.0], axis=-1)


def losses(classifier, images, labels):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, classifier(images)).numpy()


@pytest.fixture
def few(digits):
    return digits[0][:12], digits[1][:12]


def test_an_image_that_fools_the_classifier_is_kept():
    images = np.full((1, 2, 2, 1), 0.45, "float32")
    for seed in range(5):
        adversarial = Restarts(Shift(0.1, seed=seed), 8)(brightness, images, [0])
        np.testing.assert_allclose(adversarial, 0.55, atol=1e-6)


def test_otherwise_the_highest_loss_is_kept():
    images = np.full((1, 2, 2, 1), 0.3, "float32")
    for seed in range(5):
        adversarial = Restarts(Shift(0.1, seed=seed), 8)(brightness, images, [0])
        np.testing.assert_allclose(adversarial, 0.4, atol=1e-6)


def test_an_image_that_fools_the_classifier_is_not_attacked_again(classifier, few):
    images, labels = few[0], np.argmax(classifier(few[0]), axis=-1)
    seen = tf.Variable(0)

    def counting(images):
        seen.assign_add(tf.shape(images)[0])
        return classifier(images)

    wrong = (labels + 1) % 10
    Restarts(Shift(0.0), 4)(counting, images, np.where(np.arange(12) < 5, wrong, labels))
    # The attack itself asks for no logits, and one more image counts the classes.
    assert seen == 1 + 12 + 3 * 7


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [
        ProjectedGradientDescent(0.05, steps=3, seed=0),
        AutoProjectedGradientDescent(0.05, steps=3, seed=0),
    ],
    ids=["PGD", "APGD"],
)
def test_more_restarts_find_no_less(attack, classifier, digits):
    images, labels = digits[0][:60], digits[1][:60]
    runs = [Restarts(attack, restarts)(classifier, images, labels) for restarts in (1, 4)]
    correct = [np.argmax(classifier(run), axis=-1) == labels for run in runs]
    assert correct[1].sum() <= correct[0].sum()
    assert np.mean(losses(classifier, runs[1], labels)) >= np.mean(
        losses(classifier, runs[0], labels)
    )


def test_restarts_in_a_mixture(classifier, few):
    attack = Mixture([Restarts(ProjectedGradientDescent(0.2, steps=2), 2), FastGradientMethod(0.1)])
    changes = np.abs(attack(classifier, *few) - few[0]).max(axis=(1, 2, 3))
    np.testing.assert_allclose(changes, [0.2] * 6 + [0.1] * 6, atol=1e-5)


def test_restarts_are_what_the_attack_is(classifier):
    attack = Restarts(SPSA((0.1, 0.2), seed=3))
    assert attack.name == "SPSA x5"
    assert attack.gradient_free
    assert (attack.epsilon, attack.norm, attack.seed) == ((0.1, 0.2), "linf", 3)
    assert not Restarts(ProjectedGradientDescent(1.0, norm="l2")).gradient_free
    assert attack.with_largest_epsilon().attack.epsilon == 0.2
    assert Restarts(SPSA(0.1)).with_seed(4).attack.seed == 4


@pytest.mark.parametrize("attack", ["PGD", None, Mixture([SPSA(0.1)])], ids=str)
def test_what_is_no_single_attack_is_refused(attack):
    with pytest.raises(ValueError, match=r"Restarts needs one attack.*Mixture\(\[Restarts"):
        Restarts(attack)


@pytest.mark.parametrize("restarts", [0, 1.5, "2"])
def test_number_of_restarts_is_checked(restarts):
    with pytest.raises(ValueError, match="restarts must be a whole number of at least 1"):
        Restarts(SPSA(0.1), restarts)
