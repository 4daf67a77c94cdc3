"""Attacks by ART are strong, quiet, and leave the random numbers of others alone."""

import random

import foolbox
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_trn.attacks import DeepFool
from keras_trn.attacks import ProjectedGradientDescent
from keras_trn.attacks import Square
from keras_trn.attacks import attack_ensemble
from keras_trn.threat_models import Blackbox

ATTACKS = {
    "square": lambda **config: Square(0.2, queries=30, **config),
    "deep_fool": lambda **config: DeepFool(1.0, steps=2, **config),
}
RANDOM_ATTACKS = {name: make for name, make in ATTACKS.items() if name != "deep_fool"}
every_attack = pytest.mark.parametrize("make", ATTACKS.values(), ids=ATTACKS)
every_random_attack = pytest.mark.parametrize("make", RANDOM_ATTACKS.values(), ids=RANDOM_ATTACKS)


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
    for attack in (Square(0.3), DeepFool(2.0)):
        adversarial = attack(classifier, images, labels)
        assert np.mean(predictions(classifier, adversarial) == labels) < 0.2


# --- Seeds ----------------------------------------------------------------------------


def test_the_seed_of_keras_governs_attacks_without_one(classifier, few):
    images, labels = few
    attack = ATTACKS["square"]()
    results = []
    for seed in (3, 3, 4):
        keras.utils.set_random_seed(seed)
        results.append(attack(classifier, images, labels).numpy())
    np.testing.assert_array_equal(results[0], results[1])
    assert np.any(results[0] != results[2])


@every_random_attack
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
    images, _ = few
    classifier = classifier_of_two_classes()
    attack = Square(0.3, seed=0)
    attack(classifier, images)
    # Of images that are wrong already, none is attacked.
    attack(classifier, images, 1 - predictions(classifier, images))
    kernel, _ = classifier.weights
    kernel.assign(-kernel)
    fresh = Square(0.3, seed=0)
    np.testing.assert_array_equal(attack(classifier, images), fresh(classifier, images))


def test_square_needs_no_gradient(classifier, few):
    attack = Square(0.2, queries=30, seed=0)
    blackbox = Blackbox()
    assert blackbox.supports(attack)
    np.testing.assert_array_equal(
        attack(blackbox.target(classifier), *few), attack(classifier, *few)
    )


# --- Strength -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "largest_accuracy"),
    [
        (Square(0.2, queries=300, seed=0), 0.1),
        (DeepFool(1.5, steps=10), 0.05),
    ],
    ids=["square", "deep_fool"],
)
def test_attack_breaks_a_trained_classifier(attack, largest_accuracy, classifier, digits):
    images, labels = digits[0][:120], digits[1][:120]
    adversarial = attack(classifier, images, labels)
    assert np.mean(predictions(classifier, adversarial) == labels) <= largest_accuracy


def test_deep_fool_succeeds_as_often_as_that_of_foolbox(classifier, digits):
    epsilon = 0.5
    images, labels = tf.constant(digits[0][:120]), tf.constant(digits[1][:120])
    adversarial = DeepFool(epsilon)(classifier, images, labels)
    _, _, is_adversarial = foolbox.attacks.L2DeepFoolAttack(steps=50, overshoot=0.02)(
        foolbox.TensorFlowModel(classifier, bounds=(0, 1)), images, labels, epsilons=epsilon
    )
    successes = predictions(classifier, adversarial) != labels
    assert abs(np.mean(successes) - np.mean(is_adversarial)) <= 0.02


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


# --- Square and the shape of images ---------------------------------------------------


@pytest.mark.parametrize("side", [10, 12, 16])
def test_square_in_l2_works_on_images_that_are_large_enough(side):
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [keras.Input((side, side, 3)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    images = np.random.uniform(size=(6, side, side, 3)).astype("float32")
    labels = predictions(classifier, images)
    adversarial = Square(2.0, norm="l2", queries=100, seed=0)(classifier, images, labels)
    assert np.isfinite(adversarial).all()
    lengths = distances(adversarial - images, "l2")
    assert np.all(lengths > 0) and lengths.max() <= 2.0 + 1e-5
    assert np.mean(predictions(classifier, adversarial) == labels) < 0.5


@pytest.mark.parametrize(
    ("shape", "norm"),
    [((8, 8), "l2"), ((13, 13), "l2"), ((4, 4), "linf"), ((1, 1), "linf"), ((8, 16), "linf")],
    ids=str,
)
def test_square_refuses_images_that_its_squares_do_not_fit_in(shape, norm):
    classifier = keras.Sequential(
        [keras.Input((*shape, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    with pytest.raises(ValueError, match=f"received images of {shape[0]} x {shape[1]}.*SPSA"):
        Square(0.2, norm=norm)(classifier, np.zeros((2, *shape, 1), "float32"))


# --- Configs, names and errors --------------------------------------------------------


def test_attacks_in_the_manner_of_auto_attack():
    attacks = attack_ensemble(0.5, norm="l2", steps=7, queries=9, seed=3)
    assert [attack.name for attack in attacks] == ["APGD-CE", "APGD-DLR", "Square"]
    assert {(attack.epsilon, attack.norm, attack.seed) for attack in attacks} == {(0.5, "l2", 3)}
    assert [attack.gradient_free for attack in attacks] == [False, False, True]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Square(0.1, queries=1.5), "queries must be a whole number"),
        (lambda: DeepFool(1.0, steps=True), "steps must be a whole number"),
        (lambda: DeepFool(1.0, overshoot=-1), "overshoot must be a number from 0 to 1"),
    ],
    ids=range(3),
)
def test_malformed_argument_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
