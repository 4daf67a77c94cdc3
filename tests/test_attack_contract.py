"""Every attack keeps one contract, whoever wrote it and whatever it runs on."""

import copy
import functools
import itertools
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_trn import attacks

NORMS = {"linf": np.inf, "l2": 2, "l1": 1}
EPSILONS = {"linf": 0.3, "l2": 2.0, "l1": 12.0}
STEPS = {"steps": 5}
PGD = attacks.ProjectedGradientDescent

# Each attack with settings that take little time: functions of epsilon and seed.
ATTACKS = {
    "fgsm": attacks.FastGradientMethod,
    "fgsm_l2": functools.partial(attacks.FastGradientMethod, norm="l2"),
    "bim": functools.partial(attacks.BasicIterativeMethod, **STEPS),
    "bim_l2": functools.partial(attacks.BasicIterativeMethod, norm="l2", **STEPS),
    "pgd": functools.partial(PGD, **STEPS),
    "bim_l1": functools.partial(attacks.BasicIterativeMethod, norm="l1", **STEPS),
    "pgd_l1": functools.partial(PGD, norm="l1", **STEPS),
    "pgd_l2": functools.partial(PGD, norm="l2", **STEPS),
    "mim": functools.partial(attacks.MomentumIterativeMethod, **STEPS),
    "mim_l2": functools.partial(attacks.MomentumIterativeMethod, norm="l2", decay=0.5, **STEPS),
    "noise": attacks.RandomNoise,
    "noise_l2": functools.partial(attacks.RandomNoise, norm="l2"),
    "noise_l1": functools.partial(attacks.RandomNoise, norm="l1"),
    "spsa": functools.partial(attacks.SPSA, samples=8, **STEPS),
    "cw": functools.partial(attacks.CarliniWagner, steps=20, search_steps=3, learning_rate=0.3),
    "apgd": functools.partial(attacks.AutoProjectedGradientDescent, **STEPS),
    "apgd_l2": functools.partial(attacks.AutoProjectedGradientDescent, norm="l2", **STEPS),
    "apgd_l1": functools.partial(attacks.AutoProjectedGradientDescent, norm="l1", steps=10),
    "apgd_dlr": functools.partial(
        attacks.AutoProjectedGradientDescent, loss="difference_of_logits_ratio", **STEPS
    ),
    "square": functools.partial(attacks.Square, queries=40),
    "square_l2": functools.partial(attacks.Square, norm="l2", queries=40),
    "fab": functools.partial(attacks.FastAdaptiveBoundary, targets=2, **STEPS),
    "fab_l2": functools.partial(attacks.FastAdaptiveBoundary, norm="l2", targets=2, **STEPS),
    "fab_untargeted": functools.partial(attacks.FastAdaptiveBoundary, targets=None, **STEPS),
    "deep_fool": functools.partial(attacks.DeepFool, steps=10),
    "restarts": lambda *epsilon, seed=None: attacks.Restarts(PGD(*epsilon, steps=2, seed=seed), 2),
    "restarts_of_square": lambda *epsilon, seed=None: attacks.Restarts(
        attacks.Square(*epsilon, queries=15, seed=seed), 2
    ),
    "fgsm_rs": functools.partial(
        attacks.NoisyFastGradientMethod, noise=1.0, step_size=1.25, projected=True
    ),
    "expectation": lambda *epsilon, seed=None: attacks.ExpectationOverTransformation(
        PGD(*epsilon, steps=3, seed=seed), 2
    ),
    "ensemble": lambda *epsilon, seed=None: attacks.AttackEnsemble(
        [PGD(*epsilon, steps=3), attacks.SPSA(*epsilon, steps=2, samples=8)], seed=seed
    ),
    "mixture": lambda *epsilon, seed=None: attacks.Mixture(
        [PGD(*epsilon, steps=3, seed=seed), attacks.FastGradientMethod(*epsilon, seed=seed)]
    ),
    "mixture_with_square": lambda *epsilon, seed=None: attacks.Mixture(
        [PGD(*epsilon, steps=3, seed=seed), attacks.Square(*epsilon, queries=15, seed=seed)]
    ),
}
# Every other exported attack must keep the contract with its default settings.
_LISTED = {type(make(0.2)) for make in ATTACKS.values()} | {attacks.Attack}
ATTACKS |= {
    name: value
    for name, value in vars(attacks).items()
    if isinstance(value, type) and issubclass(value, attacks.Attack) and value not in _LISTED
}
every_attack = pytest.mark.parametrize("name", ATTACKS)


def make(name, epsilon=None, seed=7):
    attack = ATTACKS[name](0.2, seed=seed)
    if epsilon is None:
        epsilon = EPSILONS[norm_of(attack)]
    return ATTACKS[name](epsilon, seed=seed)


# Tracing takes most of the time: what only calls an attack shares it.
shared = functools.cache(make)


def norm_of(attack):
    return attack.norm or "linf"


def distances(perturbation, attack):
    flat = np.reshape(perturbation, (len(perturbation), -1))
    return np.linalg.norm(flat, ord=NORMS[norm_of(attack)], axis=-1)


def accuracy(classifier, images, labels):
    return np.mean(np.argmax(classifier(images), axis=-1) == labels)


@pytest.fixture
def some(digits):
    return digits[0][:24], digits[1][:24]


@pytest.mark.slow
@every_attack
def test_images_stay_in_the_ball_and_the_range_and_fool_the_classifier(name, classifier, some):
    images, labels = some
    attack = shared(name)
    adversarial = attack(classifier, images, labels)
    assert adversarial.dtype == tf.float32 and adversarial.shape == images.shape
    assert np.min(adversarial) >= 0 and np.max(adversarial) <= 1
    lengths = distances(adversarial - images, attack)
    epsilon = EPSILONS[norm_of(attack)]
    assert 0.1 * epsilon < lengths.max() <= epsilon + 1e-5
    if not name.startswith("noise"):
        assert accuracy(classifier, adversarial, labels) <= 0.6


@pytest.mark.slow
@every_attack
def test_each_image_has_its_own_epsilon(name, classifier, some):
    images, labels = some
    attack = shared(name)
    epsilons = np.tile([0.0, 0.02, 0.1, 0.2], 6)
    adversarial = attack(classifier, images, labels, epsilon=epsilons)
    lengths = distances(adversarial - images, attack)
    assert np.all(lengths <= epsilons + 1e-5) and lengths[3::4].max() > 0
    np.testing.assert_array_equal(adversarial[::4], images[::4])
    np.testing.assert_array_equal(attack(classifier, images, labels, epsilon=0), images)


@pytest.mark.slow
@every_attack
def test_a_seed_gives_one_result(name, classifier, some):
    images, labels = some
    attack = shared(name)
    first = attack(classifier, images, labels, seed=1).numpy()
    np.testing.assert_array_equal(attack(classifier, images, labels, seed=1), first)
    if name.startswith("mixture"):
        return
    changed = np.any(attack(classifier, images, labels, seed=2) != first)
    assert changed == attack.is_random


@pytest.mark.slow
@every_attack
def test_labels_default_to_those_predicted(name, classifier, some):
    images, _ = some
    attack = shared(name)
    predicted = np.argmax(classifier(images), axis=-1)
    # Compilers may round two graphs differently, which moves a pixel whose slope is almost 0.
    expected, received = attack(classifier, images, predicted), attack(classifier, images)
    assert np.mean(np.abs(received - expected) > 1e-4) < 0.01


@every_attack
def test_result_does_not_depend_on_the_batch(name, classifier, some):
    images, labels = some
    attack = shared(name)
    if attack.is_random or name.startswith("mixture"):
        pytest.skip("random numbers follow from the place in the batch")
    whole = attack(classifier, images, labels)
    parts = np.concatenate([attack(classifier, images[i::2], labels[i::2]) for i in (0, 1)])
    expected = np.concatenate([whole[0::2], whole[1::2]])
    assert np.mean(np.abs(parts - expected) > 1e-4) < 0.01


@pytest.mark.slow
@every_attack
def test_attack_runs_in_a_graph_or_says_why_not(name, classifier, some):
    images, labels = some[0][:8], some[1][:8]
    attack = shared(name)
    in_graph = tf.function(lambda images, labels: attack(classifier, images, labels))
    if not attack.runs_in_graph:
        with pytest.raises(RuntimeError, match=r"NumPy, and not inside a graph.*Projected.*\("):
            in_graph(images, labels)
        return
    adversarial = in_graph(images, labels)
    assert np.all(distances(adversarial - images, attack) <= EPSILONS[norm_of(attack)] + 1e-5)
    np.testing.assert_allclose(adversarial, attack(classifier, images, labels), atol=1e-3)


@pytest.mark.slow
@every_attack
def test_a_function_is_traced_once_and_weights_stay(name, some):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    before = [variable.numpy() for variable in model.variables]
    calls = itertools.count()

    def logits(images):
        next(calls)
        return model(images, training=False)

    images, labels = some
    attack = make(name)
    attack(logits, images[:3], labels[:3])
    number = next(calls)
    for size in (1, 5):
        attack(logits, images[:size].astype("float64"), labels[:size])
    # A graph asks nothing of Python.
    assert next(calls) == number + 1
    attack(model, images[:3], labels[:3])
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.slow
@every_attack
def test_configs_and_copies_make_the_same_attack(name, classifier, some):
    images, labels = some[0][:4], some[1][:4]
    attack = shared(name)
    expected = attack(classifier, images, labels)
    saved = keras.saving.serialize_keras_object(attack)
    copies = [
        type(attack).from_config(attack.get_config()),
        keras.saving.deserialize_keras_object(saved),
        pickle.loads(pickle.dumps(attack)),
        copy.deepcopy(attack),
    ]
    for other in copies:
        assert type(other) is type(attack)
        assert repr(other) == repr(attack) and other.name == attack.name
        assert other.get_config() == attack.get_config()
    np.testing.assert_array_equal(copies[-1](classifier, images, labels), expected)
    ranged = make(name, (0.1, 0.2), seed=None)
    assert repr(ranged.with_largest_epsilon()) == repr(make(name, 0.2, seed=None))
    assert repr(ranged.with_seed(7)) == repr(make(name, (0.1, 0.2)))
    assert repr(attack.with_seed(9)) == repr(attack)


@every_attack
def test_capabilities_hold(name):
    attack = make(name)
    if attack.is_iterative:
        size = attack.variant(relative_step_size=0.1).step_size(1.0)
        doubled = attack.variant(steps=2 * attack.steps, relative_step_size=0.1)
        assert doubled.steps == 2 * attack.steps
        assert size == doubled.step_size(1.0) == 0.1
    # Only an attack that asks for no gradient may be run on logits alone.
    assert attack.gradient_free == (name in {"square", "square_l2", "spsa", "restarts_of_square"})


ZERO_IMAGES = np.zeros((2, 8, 8, 1), "float32")
MALFORMED = {
    "uint8": ((ZERO_IMAGES.astype("uint8"),), r"received uint8 .*astype\('float32'\) / 255"),
    "255": ((ZERO_IMAGES + 255,), r"values from 255 to 255.*images / 255"),
    "rank_3": ((ZERO_IMAGES[..., 0],), "channel axis"),
    "nan": ((ZERO_IMAGES * np.nan,), "NaN or infinity in 2 of 2"),
    "empty": ((ZERO_IMAGES[:0],), "no images"),
    "strings": ((ZERO_IMAGES, ["cat", "dog"]), "Labels must be whole numbers .*StringLookup"),
    "floats": ((ZERO_IMAGES, [0.0, 1.0]), r"float.*astype\('int64'\)"),
    "too_many_labels": ((ZERO_IMAGES, [0, 1, 2]), "2 images but 3 labels"),
    "negative_label": ((ZERO_IMAGES, [0, -1]), "received labels from -1 to 0"),
    "large_label": ((ZERO_IMAGES, [0, 10]), r"Labels must lie in \[0, 10\)"),
    "negative_epsilon": ((ZERO_IMAGES, None, -0.1), "epsilon of an .* attack must be a number"),
    "several_epsilons": ((ZERO_IMAGES, None, [0.1] * 3), "2 images but 3 epsilons"),
}


@every_attack
def test_malformed_input_is_refused(name, classifier):
    for arguments, message in MALFORMED.values():
        with pytest.raises(ValueError, match=message):
            shared(name)(classifier, *arguments)


@every_attack
def test_classifiers_without_two_classes_are_refused(name, some):
    images, labels = some
    means = {"at least two classes": [1, 2], "logits of shape": [1, 2, 3]}
    for message, axes in means.items():
        classifier = functools.partial(tf.reduce_mean, axis=axes)
        for given in ((images,), (images, labels)):
            with pytest.raises(ValueError, match=message):
                shared(name)(classifier, *given)


class Brighten(attacks.Attack):
    """A user's attack, which leaves the ball, runs in NumPy and refuses some images."""

    runs_in_graph = False
    is_random = False

    def __init__(self, epsilon, strength=9.0, **kwargs):
        super().__init__(epsilon, **kwargs)
        self.strength = strength

    def craft(self, logits, images, labels, epsilon, random_seed):
        return images.numpy() + self.strength

    def check_image_shape(self, image_shape):
        if image_shape[0] != image_shape[1]:
            raise ValueError(f"received images of {image_shape}")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("wrap", [lambda a: a, attacks.Restarts, lambda a: attacks.Mixture([a])])
def test_attack_of_a_user_keeps_the_contract(norm, wrap, classifier, some):
    user = Brighten(0.1, norm=norm, strength=8.0, seed=1)
    attack = wrap(user)
    adversarial = attack(classifier, some[0])
    assert np.min(adversarial) >= 0 and np.max(adversarial) <= 1
    lengths = distances(adversarial - some[0], user)
    assert 0 < lengths.max() <= 0.1 + 1e-5
    assert user.get_config() == {"epsilon": 0.1, "norm": norm, "seed": 1, "strength": 8.0}
    assert not attack.runs_in_graph
    with pytest.raises(RuntimeError, match=r"Brighten.* runs in NumPy"):
        tf.function(lambda images: attack(classifier, images))(some[0])
    with pytest.raises(ValueError, match="received images of"):
        attack.check_image_shape((8, 9, 1))
