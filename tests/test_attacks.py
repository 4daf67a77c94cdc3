"""Attacks agree with CleverHans, and take epsilons and seeds in all forms."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

from keras_trn.attacks import Attack
from keras_trn.attacks import BasicIterativeMethod
from keras_trn.attacks import FastGradientMethod
from keras_trn.attacks import Mixture
from keras_trn.attacks import MomentumIterativeMethod
from keras_trn.attacks import ProjectedGradientDescent
from keras_trn.attacks import RandomNoise

CLEVERHANS_NORMS = {"linf": np.inf, "l2": 2}
EPSILONS = {"linf": 0.2, "l2": 1.0}
STEPS = {"steps": 3}
SINGLE_ATTACKS = {
    "fgsm": (FastGradientMethod, {}),
    "bim": (BasicIterativeMethod, STEPS),
    "pgd": (ProjectedGradientDescent, STEPS),
    "mim": (MomentumIterativeMethod, STEPS),
    "noise": (RandomNoise, {}),
}
every_norm = pytest.mark.parametrize("norm", EPSILONS)
every_attack = pytest.mark.parametrize(
    ("attack_class", "config"), SINGLE_ATTACKS.values(), ids=SINGLE_ATTACKS
)


def distances(perturbation, norm):
    flat = np.reshape(perturbation, (len(perturbation), -1))
    return np.linalg.norm(flat, ord=CLEVERHANS_NORMS[norm], axis=-1)


def mixture(epsilon=0.2):
    return Mixture([FastGradientMethod(epsilon), ProjectedGradientDescent(epsilon, steps=3)])


@pytest.fixture
def linear():
    """A classifier whose gradient is nowhere zero and the same everywhere."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )


@pytest.fixture
def grey():
    """Images so far from black and white that no perturbation here is clipped."""
    return np.full((6, 8, 8, 1), 0.5, "float32")


# --- Agreement with CleverHans --------------------------------------------------------


@pytest.fixture
def unsure(classifier):
    """The classifier with small logits, at which rounding spoils no digit of CleverHans' loss."""
    return lambda images: 0.1 * classifier(images)


@every_norm
def test_fast_gradient_method_is_that_of_cleverhans(norm, unsure, digits):
    images, labels = digits[0][:32], digits[1][:32]
    expected = fast_gradient_method(
        unsure,
        images,
        EPSILONS[norm],
        CLEVERHANS_NORMS[norm],
        clip_min=0.0,
        clip_max=1.0,
        y=labels,
    )
    adversarial = FastGradientMethod(EPSILONS[norm], norm=norm)(unsure, images, labels)
    np.testing.assert_allclose(adversarial, expected, rtol=0, atol=1e-6)


@every_norm
def test_basic_iterative_method_is_that_of_cleverhans(norm, unsure, digits):
    images, labels = digits[0][:32], digits[1][:32]
    attack = BasicIterativeMethod(EPSILONS[norm], norm=norm, steps=5, relative_step_size=0.4)
    expected = projected_gradient_descent(
        unsure,
        images,
        eps=EPSILONS[norm],
        eps_iter=0.4 * EPSILONS[norm],
        nb_iter=5,
        norm=CLEVERHANS_NORMS[norm],
        clip_min=0.0,
        clip_max=1.0,
        y=labels,
        rand_init=False,
    )
    adversarial = attack(unsure, images, labels)
    np.testing.assert_allclose(adversarial, expected, rtol=0, atol=1e-6)


@every_norm
@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_momentum_iterative_method_is_that_of_cleverhans(norm, decay, unsure, digits):
    images, labels = digits[0][:32], digits[1][:32]
    attack = MomentumIterativeMethod(
        EPSILONS[norm], norm=norm, steps=5, relative_step_size=0.4, decay=decay
    )
    expected = momentum_iterative_method(
        unsure,
        images,
        eps=EPSILONS[norm],
        eps_iter=0.4 * EPSILONS[norm],
        nb_iter=5,
        norm=CLEVERHANS_NORMS[norm],
        clip_min=0.0,
        clip_max=1.0,
        y=labels,
        decay_factor=decay,
        sanity_checks=False,
    )
    adversarial = attack(unsure, images, labels)
    np.testing.assert_allclose(adversarial, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
@every_norm
@pytest.mark.parametrize("attack", [BasicIterativeMethod, ProjectedGradientDescent])
def test_attacks_are_as_strong_on_a_classifier_that_is_sure(norm, attack, classifier, digits):
    """CleverHans itself does not move where a gradient is shorter than 1e-6."""
    images, labels = digits[0][:100], digits[1][:100]
    attack = attack(EPSILONS[norm], norm=norm, seed=0)

    def accuracy(scale):
        adversarial = attack(lambda images: scale * classifier(images), images, labels)
        return np.mean(np.argmax(classifier(adversarial), -1) == labels)

    assert abs(accuracy(30.0) - accuracy(0.3)) <= 0.02


@every_norm
def test_momentum_without_memory_is_the_basic_iterative_method(norm, linear, grey):
    images, labels = grey, np.arange(6)
    # So small that no pixel is clipped, which the two do in a different order.
    without_memory = MomentumIterativeMethod(0.1, norm=norm, steps=3, decay=0)
    basic = BasicIterativeMethod(0.1, norm=norm, steps=3)
    np.testing.assert_allclose(
        without_memory(linear, images, labels), basic(linear, images, labels), atol=1e-5
    )


# --- Distances and epsilon ------------------------------------------------------------


@pytest.mark.slow
@every_norm
@every_attack
def test_each_image_has_its_own_epsilon(attack_class, config, norm, linear, grey):
    epsilons = [0.0, 0.05, 0.1, 0.2, 0.3, 0.4]
    adversarial = attack_class(0.01, norm=norm, **config)(linear, grey, epsilon=epsilons)
    np.testing.assert_allclose(distances(adversarial - grey, norm), epsilons, atol=1e-5)


@pytest.mark.slow
@every_norm
@every_attack
def test_epsilon_of_a_call_overrides_that_of_the_attack(attack_class, config, norm, linear, grey):
    adversarial = attack_class((0.0, 0.01), norm=norm, **config)(linear, grey, epsilon=0.3)
    np.testing.assert_allclose(distances(adversarial - grey, norm), 0.3, atol=1e-5)


@pytest.mark.slow
@every_norm
@every_attack
def test_epsilon_is_drawn_from_its_range_for_each_image(attack_class, config, norm, linear, grey):
    attack = attack_class((0.1, 0.3), norm=norm, **config)
    drawn = distances(attack(linear, grey) - grey, norm)
    assert drawn.min() >= 0.1 - 1e-5 and drawn.max() <= 0.3 + 1e-5
    assert len(np.unique(drawn.round(4))) == len(grey)


@every_norm
def test_random_start_fills_the_ball(norm, linear):
    images = np.full((64, 8, 8, 1), 0.5, "float32")
    attack = ProjectedGradientDescent(0.4, norm=norm, steps=1, relative_step_size=0, seed=0)
    starts = attack(linear, images) - images
    lengths = distances(starts, norm)
    assert 0.35 < lengths.mean() < lengths.max() <= 0.4 + 1e-5
    assert np.abs(np.mean(starts)) < 0.02
    assert len(np.unique(np.round(starts, 6), axis=0)) == 64


@every_norm
def test_random_noise_is_as_long_as_it_may_be(norm, linear, grey):
    noisy = RandomNoise(0.3, norm=norm)(linear, grey)
    np.testing.assert_allclose(distances(noisy - grey, norm), 0.3, atol=1e-5)


# --- Seeds ----------------------------------------------------------------------------

RANDOM_ATTACKS = {
    "random_start": lambda seed: ProjectedGradientDescent(0.2, steps=1, seed=seed),
    "random_start_l2": lambda seed: ProjectedGradientDescent(1.0, norm="l2", steps=1, seed=seed),
    "random_epsilon": lambda seed: FastGradientMethod((0.1, 0.3), seed=seed),
    "random_signs": lambda seed: RandomNoise(0.2, seed=seed),
    "random_direction": lambda seed: RandomNoise(1.0, norm="l2", seed=seed),
}
every_random_attack = pytest.mark.parametrize("make", RANDOM_ATTACKS.values(), ids=RANDOM_ATTACKS)


@pytest.mark.slow
@every_random_attack
def test_the_seed_of_a_call_fixes_all_that_is_random(make, linear, grey):
    attack = make(seed=None)
    first = attack(linear, grey, seed=7)
    np.testing.assert_array_equal(attack(linear, grey, seed=7), first)
    np.testing.assert_array_equal(make(seed=1)(linear, grey, seed=7), first)
    mixture = Mixture([make(seed=None)])
    np.testing.assert_array_equal(mixture(linear, grey, seed=7), mixture(linear, grey, seed=7))


@every_random_attack
def test_without_a_seed_each_call_differs(make, linear, grey):
    attack = make(seed=None)
    assert np.any(attack(linear, grey) != attack(linear, grey))


@pytest.mark.slow
@every_random_attack
def test_the_seed_of_keras_governs_attacks_without_one(make, linear, grey):
    attack = make(seed=None)
    attack(linear, grey)
    keras.utils.set_random_seed(3)
    first = attack(linear, grey).numpy()
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(attack(linear, grey), first)
    keras.utils.set_random_seed(4)
    assert np.any(attack(linear, grey) != first)


@pytest.mark.slow
@every_random_attack
def test_the_seed_of_keras_gives_new_attacks_one_result(make, linear, grey):
    results = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        results.append(make(seed=None)(linear, grey).numpy())
    np.testing.assert_array_equal(*results)


# --- Labels ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [[3, 1, 4, 1], np.array([3, 1, 4, 1], "uint8"), tf.constant([[3], [1], [4], [1]])],
    ids=["list", "uint8_array", "column_tensor"],
)
def test_labels_come_in_any_container(labels, classifier, digits):
    images = digits[0][:4]
    attack = FastGradientMethod(0.2)
    expected = attack(classifier, images, labels=np.array([3, 1, 4, 1]))
    np.testing.assert_array_equal(attack(classifier, images, labels=labels), expected)


# --- Graphs ---------------------------------------------------------------------------


def test_graph_is_as_small_for_many_steps_as_for_few(linear):
    def size(steps):
        attack = BasicIterativeMethod(0.2, steps=steps)
        graph = tf.function(lambda images: attack(linear, images), autograph=False)
        concrete = graph.get_concrete_function(tf.TensorSpec((None, 8, 8, 1)))
        return len(concrete.graph.as_graph_def().node)

    assert size(2) == size(50)


@pytest.mark.slow
@every_attack
def test_attack_works_with_xla(attack_class, config, classifier, digits):
    images, labels = digits[0][:8], digits[1][:8]
    attack = attack_class(1.0, norm="l2", **config, seed=0)

    @tf.function(jit_compile=True)
    def attack_in_graph(images, labels):
        return attack(classifier, images, labels)

    adversarial = attack_in_graph(images, labels)
    # Rounding differs between compilers, and adds up over the steps of a perturbation of length 1.
    np.testing.assert_allclose(adversarial, attack(classifier, images, labels), atol=1e-3)


@pytest.mark.slow
def test_attack_inside_a_graph_differs_from_call_to_call(linear, grey):
    attack = ProjectedGradientDescent((0.1, 0.3), steps=1)
    attack_in_graph = tf.function(lambda images: attack(linear, images))
    assert np.any(attack_in_graph(grey) != attack_in_graph(grey))


def test_attack_inside_a_graph_refuses_malformed_images(linear):
    attack_in_graph = tf.function(lambda images: FastGradientMethod(0.1)(linear, images))
    with pytest.raises(ValueError, match="floating point"):
        attack_in_graph(np.zeros((2, 8, 8, 1), "uint8"))


def test_attack_follows_a_classifier_whose_weights_change(linear, grey):
    attack = FastGradientMethod(0.1)
    labels = np.zeros(len(grey), "int64")
    before = attack(linear, grey, labels)
    kernel, _ = linear.weights
    kernel.assign(-kernel)
    after = attack(linear, grey, labels)
    assert np.any(after != before)
    np.testing.assert_array_equal(after, FastGradientMethod(0.1)(linear, grey, labels))


def test_classifier_is_attacked_in_inference_mode(digits):
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    images, labels = digits[0][:8], digits[1][:8]
    attack = BasicIterativeMethod(0.2, steps=3)
    before = [variable.numpy() for variable in classifier.variables]
    first = attack(classifier, images, labels)
    np.testing.assert_array_equal(attack(classifier, images, labels), first)
    for variable, value in zip(classifier.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


# --- Mixtures -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 5, 6, 7])
def test_mixture_gives_each_attack_its_share(batch_size, linear, grey):
    epsilons = np.array([0.1, 0.2, 0.3])
    attack = Mixture([FastGradientMethod(epsilon) for epsilon in epsilons])
    images = grey[:1].repeat(batch_size, axis=0)
    lengths = distances(attack(linear, images) - images, "linf")
    counts = np.isclose(lengths[:, None], epsilons).sum(axis=0)
    assert counts.sum() == batch_size and np.all(np.diff(lengths) >= -1e-6)
    assert np.all(counts >= batch_size // 3) and np.all(counts <= -(-batch_size // 3))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2])
def test_fewer_images_than_attacks_of_a_mixture_run_through_every_layer(batch_size):
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    images = np.random.default_rng(0).random((batch_size, 8, 8, 3), "float32")
    epsilons = np.array([0.1, 0.2, 0.3, 0.4])
    attack = Mixture([FastGradientMethod(epsilon) for epsilon in epsilons])
    turns = set()
    for seed in range(12):
        perturbation = attack(network, images, np.zeros(batch_size, "int64"), seed=seed) - images
        turns |= set(np.searchsorted(epsilons, distances(perturbation, "linf") - 1e-4))
    assert turns == {0, 1, 2, 3}


def test_seeds_of_its_attacks_fix_a_mixture(linear, grey):
    mixture = Mixture(
        [
            FastGradientMethod((0.0, 0.3), seed=0),
            RandomNoise((0.0, 0.3), seed=1),
            RandomNoise(0.1, seed=2),
        ]
    )
    images = grey[:1].repeat(8, axis=0)
    first = mixture(linear, images)
    np.testing.assert_array_equal(mixture(linear, images), first)


def test_mixture_in_a_mixture_counts_as_its_attacks(linear, grey):
    attacks = [FastGradientMethod(epsilon) for epsilon in (0.1, 0.2, 0.3)]
    nested = Mixture([Mixture(attacks[:2]), attacks[2]])
    assert nested.name == Mixture(attacks).name
    expected = Mixture(attacks)(linear, grey, seed=1)
    np.testing.assert_array_equal(nested(linear, grey, seed=1), expected)


def test_each_attack_of_a_mixture_keeps_its_own_norm(linear, grey):
    attack = Mixture([FastGradientMethod(0.1), BasicIterativeMethod(0.5, norm="l2", steps=3)])
    perturbation = attack(linear, grey) - grey
    np.testing.assert_allclose(distances(perturbation[:3], "linf"), 0.1, atol=1e-6)
    np.testing.assert_allclose(distances(perturbation[3:], "l2"), 0.5, atol=1e-5)


def test_epsilon_of_a_call_overrides_those_of_a_mixture(linear, grey):
    attack = Mixture([FastGradientMethod(0.1), FastGradientMethod((0.1, 0.2))])
    adversarial = attack(linear, grey, epsilon=0.4)
    np.testing.assert_allclose(distances(adversarial - grey, "linf"), 0.4, atol=1e-6)


def test_mixture_at_full_strength_takes_the_upper_ends(linear, grey):
    attack = Mixture([FastGradientMethod((0.0, 0.2)), FastGradientMethod((0.0, 0.4))])
    adversarial = attack.with_largest_epsilon()(linear, grey)
    np.testing.assert_allclose(
        distances(adversarial - grey, "linf"), [0.2] * 3 + [0.4] * 3, atol=1e-6
    )


@pytest.mark.parametrize("attacks", [[], ["fgsm"], [FastGradientMethod(0.1), None]], ids=str)
def test_mixture_refuses_what_is_no_attack(attacks):
    with pytest.raises(ValueError, match="at least one attack"):
        Mixture(attacks)


def test_mixture_refuses_an_epsilon_that_one_of_its_norms_does_not_allow(linear, grey):
    attack = Mixture([FastGradientMethod(1.0, norm="l2"), FastGradientMethod(0.1)])
    with pytest.raises(ValueError, match="epsilon of an linf attack"):
        attack(linear, grey, epsilon=2.0)


# --- Configs and names ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (FastGradientMethod(0.1), "FGSM"),
        (BasicIterativeMethod(0.1, steps=7), "BIM-7"),
        (ProjectedGradientDescent(0.1), "PGD-20"),
        (MomentumIterativeMethod(0.1), "MIM-20"),
        (mixture(), "FGSM + PGD-3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_name_for_tables(attack, name):
    assert attack.name == name


# --- Errors ---------------------------------------------------------------------------


@every_attack
@pytest.mark.parametrize("norm", ["l3", "inf", 2, None])
def test_unknown_norm_is_refused(attack_class, config, norm):
    expected = rf"norm of {attack_class.__name__} must be 'linf' or 'l2'.*, received {norm!r}"
    with pytest.raises(ValueError, match=expected):
        attack_class(0.1, norm=norm, **config)


@pytest.mark.parametrize("norm", EPSILONS)
@pytest.mark.parametrize(
    "epsilon", [-0.1, float("nan"), float("inf"), "0.1", None, True, (-0.1, 0.1)], ids=str
)
def test_epsilon_that_is_no_distance_is_refused(norm, epsilon):
    with pytest.raises(ValueError, match=f"epsilon of an {norm} attack must be a number"):
        FastGradientMethod(epsilon, norm=norm)


@pytest.mark.parametrize("epsilon", [1.1, 8, (0.5, 8)], ids=str)
def test_epsilon_beyond_the_image_range_is_refused_for_linf_alone(epsilon):
    with pytest.raises(ValueError, match="number from 0 to 1, received"):
        FastGradientMethod(epsilon)
    FastGradientMethod(epsilon, norm="l2")


@pytest.mark.parametrize("epsilon", [(0.3, 0.1), (0.1,), (0.1, 0.2, 0.3), ()], ids=str)
def test_epsilon_that_is_no_range_is_refused(epsilon):
    with pytest.raises(ValueError, match=r"pair \(low, high\) with low <= high"):
        FastGradientMethod(epsilon)


@pytest.mark.parametrize("epsilon", [-0.1, 1.5, [0.1, -0.1, 0.1, 0.1, 0.1, 0.1]], ids=str)
def test_epsilon_of_a_call_is_checked_too(epsilon, linear, grey):
    with pytest.raises(ValueError, match="epsilon of an linf attack must be a number"):
        FastGradientMethod(0.1)(linear, grey, epsilon=epsilon)


def test_wrong_number_of_epsilons_is_refused(linear, grey):
    with pytest.raises(ValueError, match=r"6 images.*4|4.*6 images"):
        FastGradientMethod(0.1)(linear, grey, epsilon=[0.1, 0.2, 0.1, 0.2])


@pytest.mark.parametrize(
    "attack_class", [BasicIterativeMethod, ProjectedGradientDescent, MomentumIterativeMethod]
)
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, received 0"),
        ({"steps": -1}, "steps must be a whole number"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"steps": "10"}, "steps must be a whole number"),
        ({"relative_step_size": -0.1}, "relative_step_size must be a number from 0 to 1"),
        ({"relative_step_size": 2}, "relative_step_size must be a number from 0 to 1"),
    ],
    ids=str,
)
def test_bad_steps_are_refused(attack_class, config, message):
    with pytest.raises(ValueError, match=message):
        attack_class(0.1, **config)


@pytest.mark.parametrize("decay", [-0.1, 1.1, "1"])
def test_bad_decay_is_refused(decay):
    with pytest.raises(ValueError, match="decay must be a number from 0 to 1"):
        MomentumIterativeMethod(0.1, decay=decay)


def test_the_base_says_what_a_subclass_must_write(linear, grey):
    with pytest.raises(NotImplementedError, match="Attack does not define `craft`"):
        Attack(0.1)(linear, grey)
