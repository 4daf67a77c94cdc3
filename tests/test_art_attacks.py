"""Attacks by ART are strong, quiet, and leave the random numbers of others alone."""

import random

import foolbox
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_trn.attacks import AutoProjectedGradientDescent
from keras_trn.attacks import ProjectedGradientDescent
from keras_trn.attacks import attack_ensemble
from keras_trn.threat_models import WhiteboxFull

DLR = {"loss": "difference_of_logits_ratio"}
ATTACKS = {
    "apgd_ce": lambda **config: AutoProjectedGradientDescent(0.2, **{"steps": 5, **config}),
    "apgd_dlr": lambda **config: AutoProjectedGradientDescent(0.2, steps=5, **DLR, **config),
    "apgd_l2": lambda **config: AutoProjectedGradientDescent(1.0, norm="l2", steps=5, **config),
}
every_attack = pytest.mark.parametrize("make", ATTACKS.values(), ids=ATTACKS)


def distances(perturbation, norm):
    flat = np.reshape(perturbation, (len(perturbation), -1))
    return np.linalg.norm(flat, ord={"linf": np.inf, "l2": 2}[norm], axis=-1)


def predictions(classifier, images):
    return np.argmax(classifier(images), axis=-1)


def classifier_of_two_classes():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])


@pytest.fixture
def few(digits):
    return digits[0][:12], digits[1][:12]


# --- Distances and epsilon ------------------------------------------------------------


def test_epsilon_is_drawn_from_its_range_for_each_image(classifier, few):
    images, labels = few
    attack = AutoProjectedGradientDescent((0.1, 0.3), steps=2)
    lengths = distances(attack(classifier, images, labels) - images, "linf")
    assert lengths.max() <= 0.3 + 1e-5
    assert len(np.unique(lengths.round(4))) == len(images)


# --- Labels ---------------------------------------------------------------------------


@every_attack
def test_images_that_are_misclassified_already_are_left_as_they_are(make, classifier, few):
    images, _ = few
    labels = predictions(classifier, images)
    labels[::2] = (labels[::2] + 1) % 10
    adversarial = make()(classifier, images, labels)
    np.testing.assert_array_equal(adversarial[::2], images[::2])
    assert np.all(distances(adversarial - images, "linf")[1::2] > 0)


def test_a_classifier_of_two_classes_is_attacked(few):
    images, _ = few
    classifier = classifier_of_two_classes()
    labels = predictions(classifier, images)
    adversarial = AutoProjectedGradientDescent(0.3, steps=10)(classifier, images, labels)
    assert np.mean(predictions(classifier, adversarial) == labels) < 0.2


# --- Seeds ----------------------------------------------------------------------------


@every_attack
def test_the_random_numbers_of_others_are_as_before(make, classifier, few):
    attack = make()
    keras.utils.set_random_seed(3)
    expected = np.random.uniform(), random.random()
    keras.utils.set_random_seed(3)
    attack(classifier, *few)
    assert (np.random.uniform(), random.random()) == expected


# --- Graphs and threat models ---------------------------------------------------------


@every_attack
def test_attack_says_nothing(make, classifier, few, capfd):
    make()(classifier, *few)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_attack_follows_a_classifier_whose_weights_change(few):
    def make_attack():
        return AutoProjectedGradientDescent(0.1, steps=3, seed=0)

    images, _ = few
    classifier = classifier_of_two_classes()
    attack = make_attack()
    attack(classifier, images)
    # Of images that are wrong already, none is attacked.
    attack(classifier, images, 1 - predictions(classifier, images))
    kernel, _ = classifier.weights
    kernel.assign(-kernel)
    fresh = make_attack()
    np.testing.assert_array_equal(attack(classifier, images), fresh(classifier, images))


def test_gradient_attack_works_through_a_defence(classifier, protect, few):
    images, _ = few
    target = WhiteboxFull().target(protect(classifier))
    labels = predictions(target, images)
    adversarial = AutoProjectedGradientDescent(0.3, steps=5, seed=0)(target, images, labels)
    assert np.mean(predictions(target, adversarial) == labels) <= 0.5


# --- Strength -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "largest_accuracy"),
    [
        (AutoProjectedGradientDescent(0.2, steps=30, seed=0), 0.03),
        (AutoProjectedGradientDescent(0.2, steps=30, seed=0, **DLR), 0.05),
        (AutoProjectedGradientDescent(1.5, norm="l2", steps=30, seed=0), 0.02),
    ],
    ids=["apgd_ce", "apgd_dlr", "apgd_l2"],
)
def test_attack_breaks_a_trained_classifier(attack, largest_accuracy, classifier, digits):
    images, labels = digits[0][:120], digits[1][:120]
    adversarial = attack(classifier, images, labels)
    assert np.mean(predictions(classifier, adversarial) == labels) <= largest_accuracy


@pytest.mark.parametrize("epsilon", [0.05, 0.1])
def test_projected_gradient_descent_succeeds_as_often_as_that_of_foolbox(
    epsilon, classifier, digits
):
    images, labels = tf.constant(digits[0]), tf.constant(digits[1])
    attack = ProjectedGradientDescent(epsilon, steps=40, seed=0)
    adversarial = attack(classifier, images, labels)
    _, _, is_adversarial = foolbox.attacks.LinfPGD(steps=40, rel_stepsize=2.5 / 40)(
        foolbox.TensorFlowModel(classifier, bounds=(0, 1)), images, labels, epsilons=epsilon
    )
    successes = predictions(classifier, adversarial) != labels
    assert abs(np.mean(successes) - np.mean(is_adversarial)) <= 0.02


# --- Configs, names and errors --------------------------------------------------------


def test_attacks_in_the_manner_of_auto_attack():
    attacks = attack_ensemble(0.5, norm="l2", steps=7, queries=9, seed=3)
    assert [attack.name for attack in attacks] == ["APGD-CE", "APGD-DLR", "Square"]
    assert {(attack.epsilon, attack.norm, attack.seed) for attack in attacks} == {(0.5, "l2", 3)}
    assert [attack.gradient_free for attack in attacks] == [False, False, True]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: AutoProjectedGradientDescent(0.1, loss="hinge"),
            "loss must be .*received 'hinge'",
        ),
        (lambda: AutoProjectedGradientDescent(0.1, steps=0), "steps must be a whole number"),
        (lambda: AutoProjectedGradientDescent(2.0), "epsilon of an linf attack"),
    ],
    ids=range(3),
)
def test_malformed_argument_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_difference_of_logits_ratio_needs_three_classes(few):
    with pytest.raises(ValueError, match=r"at least three classes.*cross_entropy"):
        AutoProjectedGradientDescent(0.1, **DLR)(classifier_of_two_classes(), few[0])
