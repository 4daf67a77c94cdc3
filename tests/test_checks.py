"""The sanity checks pass where all is well, and warn where a fault was planted."""

import dataclasses
import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from keras_trn.attacks import ProjectedGradientDescent
from keras_trn.evaluation import checks
from keras_trn.evaluation.checks.binarization import binarize

NAMES = [
    "outputs_are_logits",
    "deterministic",
    "input_gradients",
    "dynamic_defence",
    "blackbox_not_stronger",
    "iterative_beats_single_step",
    "more_steps_never_weaker",
    "monotone_in_epsilon",
    "unbounded_attack_succeeds",
    "random_noise_is_weaker",
    "whitebox_covers_blackbox",
    "loss_rises_along_the_attack",
    "best_iterate_is_kept",
    "perturbations_are_valid",
    "bare_classifier_falls",
    "attack_breaks_known_weak_defence",
    "binarization_test",
    "bpda_not_stronger",
    "restoration_switched_off",
    "batch_invariance",
]
STEPS = 12


@pytest.fixture(scope="module")
def examine(classifier, digits):
    """Makes an examination, with few images and queries."""

    def examine(defence=classifier, attack=None, images=48, **kwargs):
        attack = attack or ProjectedGradientDescent(epsilon=0.25, steps=STEPS, seed=0)
        kwargs.setdefault("queries", 40)
        return checks.Examination(defence, digits[0][:images], digits[1][:images], attack, **kwargs)

    return examine


@pytest.fixture(scope="module")
def plain(examine):
    return examine()


@pytest.fixture(scope="module")
def protected(classifier, digits):
    keras.utils.set_random_seed(0)
    protected = keras_trn.ProtectedClassifier(
        classifier,
        keras_trn.TwoStreamRestorationNetwork(width=4, depth=1),
        keras_trn.gradient_maps.PredictedLabel(),
    )
    attack = keras_trn.attacks.FastGradientMethod(epsilon=0.2)
    protected.compile(attack=attack, jit_compile=False)
    protected.fit(*digits, epochs=2, verbose=0)
    return protected


# --- All is well ----------------------------------------------------------------------


def test_ordinary_classifier_passes(plain):
    called = []
    results = checks.run_checks(plain, progress=called.append)
    assert [result.name for result in results] == NAMES == called
    unfit = {"dynamic_defence", "bpda_not_stronger", "restoration_switched_off"}
    for result in results:
        expected = "not applicable" if result.name in unfit else "PASS"
        assert result.status == expected, result
        assert (result.figure is None) == (result.name in unfit), result
        assert result.finding.endswith("."), result
    assert json.loads(json.dumps([dataclasses.asdict(result) for result in results]))


@pytest.mark.slow
def test_protected_classifier_passes_but_for_what_the_attack_misses(examine, protected):
    examination = examine(
        protected, images=24, queries=20, threat_models=["oblivious", "whitebox_full"]
    )
    results = {result.name: result for result in checks.run_checks(examination)}
    # PGD keeps no best iterate, and an ensemble finds more than one attack.
    may_warn = {"best_iterate_is_kept", "whitebox_covers_blackbox", "more_steps_never_weaker"}
    for name, result in results.items():
        assert "could not be made" not in result.finding, result
        assert result.status == "PASS" or name in may_warn, result


def test_l2_attack_passes(examine):
    attack = ProjectedGradientDescent(epsilon=1.5, norm="l2", steps=STEPS, seed=0)
    examination = examine(attack=attack)
    for check in (
        checks.perturbations_are_valid,
        checks.unbounded_attack_succeeds,
        checks.random_noise_is_weaker,
        checks.bare_classifier_falls,
    ):
        assert check(examination).status == "PASS", check(examination)
    assert examination.unbounded_epsilon == 8


# --- Faults of the defence ------------------------------------------------------------


class Rounded(keras_trn.RestoredClassifier):
    """Masks its gradient by rounding."""

    def restorations(self, images, labels=None):
        return tf.round(images * 7) / 7


class Binary(keras_trn.RestoredClassifier):
    """Masks its gradient by taking signs."""

    def restorations(self, images, labels=None):
        return (tf.sign(images - 0.3) + 1) / 2


class Noisy(keras_trn.RestoredClassifier):
    def restorations(self, images, labels=None):
        return images + 0.1 * tf.random.normal(tf.shape(images))


class NoisyByNumpy(keras_trn.RestoredClassifier):
    """In a graph, the noise is that of its tracing for ever."""

    def restorations(self, images, labels=None):
        return images + 0.1 * np.random.default_rng().normal()


class NanBeforeTheClassifier(keras_trn.RestoredClassifier):
    """In a graph, the classifier's ReLU makes zeros of it."""

    def restorations(self, images, labels=None):
        return tf.where(brightness(images)[:, None, None, None] > 0.35, np.nan, images)


class SometimesNan(keras_trn.RestoredClassifier):
    # Some clean images are brighter.
    brightest = 0.35

    def restorations(self, images, labels=None):
        return images

    def call(self, images, labels=None):
        return tf.where(brightness(images)[:, None] > self.brightest, np.nan, super().call(images))


class NanUnderAttack(SometimesNan):
    # No clean image is brighter.
    brightest = 0.385


class BatchMean(keras_trn.RestoredClassifier):
    def restorations(self, images, labels=None):
        return images - tf.reduce_mean(images, axis=0)


class Probabilities(keras_trn.RestoredClassifier):
    def call(self, images, labels=None):
        return tf.nn.softmax(super().call(images))


class ScaledProbabilities(keras_trn.RestoredClassifier):
    def call(self, images, labels=None):
        return 100 * tf.nn.softmax(super().call(images))


class OtherAnswer(keras_trn.RestoredClassifier):
    """Does more than to restore."""

    def restorations(self, images, labels=None):
        return images

    def call(self, images, labels=None):
        return 1.0001 * super().call(images)


for without_restoration in (Probabilities, ScaledProbabilities):
    without_restoration.restorations = lambda self, images, labels=None: images


def brightness(images):
    return tf.reduce_mean(images, axis=[1, 2, 3])


@pytest.mark.parametrize("defence", [Rounded, Binary])
def test_masked_gradients_are_seen(examine, classifier, defence):
    examination = examine(defence(classifier))
    for check in (checks.input_gradients, checks.binarization_test, checks.bpda_not_stronger):
        assert check(examination).status == "WARN", check(examination)
    assert checks.input_gradients(examination).figure == 1
    # The attackers with gradients are taken together, and one of them ignores the mask.
    assert checks.unbounded_attack_succeeds(examination).status == "PASS"


@pytest.mark.parametrize(
    ("defence", "check"),
    [
        (Noisy, checks.deterministic),
        (NoisyByNumpy, checks.deterministic),
        (NanBeforeTheClassifier, checks.outputs_are_logits),
        (SometimesNan, checks.outputs_are_logits),
        (NanUnderAttack, checks.outputs_are_logits),
        (Probabilities, checks.outputs_are_logits),
        (ScaledProbabilities, checks.outputs_are_logits),
        (SometimesNan, checks.input_gradients),
        (BatchMean, checks.batch_invariance),
        (OtherAnswer, checks.restoration_switched_off),
    ],
)
def test_faulty_defence_is_seen(examine, classifier, defence, check):
    result = check(examine(defence(classifier)))
    assert result.status == "WARN"
    assert "could not be made" not in result.finding
    assert result.figure > 0


def test_nan_counts_as_wrong(examine, classifier):
    examination = examine(SometimesNan(classifier))
    is_nan = np.isnan(examination.logits(examination.images)).any(axis=-1)
    assert is_nan.any() and not is_nan.all()
    assert not examination.right_as_they_are[is_nan].any()
    assert checks.outputs_are_logits(examination).figure >= is_nan.mean() - 1e-6


def test_defence_that_takes_gradients_needs_the_full_white_box(examine, protected):
    assert checks.dynamic_defence(examine(protected)).status == "WARN"
    known = examine(protected, threat_models=["bpda", "whitebox_full"])
    assert checks.dynamic_defence(known).status == "PASS"


# --- Faults of the attack -------------------------------------------------------------


class Backwards(ProjectedGradientDescent):
    def craft(self, logits, *arguments):
        return super().craft(lambda images: -logits(images), *arguments)


class Idle(ProjectedGradientDescent):
    """Finds nothing but its random start."""

    def craft(self, logits, *arguments):
        def without_gradient(images):
            zero = 0.0 * tf.reduce_sum(images, axis=[1, 2, 3])
            return tf.stop_gradient(logits(images)) + zero[:, None]

        return super().craft(without_gradient, *arguments)


class LeavesTheBall(ProjectedGradientDescent):
    def craft(self, logits, images, labels, epsilon, random_seed):
        return super().craft(logits, images, labels, 1.2 * epsilon, random_seed)


class LeavesTheRange(ProjectedGradientDescent):
    def craft(self, logits, images, labels, epsilon, random_seed):
        return images - epsilon


class IgnoresEpsilon(ProjectedGradientDescent):
    def craft(self, logits, images, labels, epsilon, random_seed):
        return super().craft(logits, images, labels, 0 * epsilon + 0.2, random_seed)


class FearsEpsilon(ProjectedGradientDescent):
    """Does less where it may do more."""

    def craft(self, logits, images, labels, epsilon, random_seed):
        epsilon = tf.maximum(0.3 - epsilon, 0.0)
        return super().craft(logits, images, labels, epsilon, random_seed)


class Forgetful(ProjectedGradientDescent):
    """Returns where it came from, if it takes many steps."""

    steps_to_remember = STEPS - 1

    def craft(self, logits, images, labels, epsilon, random_seed):
        if self.steps > self.steps_to_remember:
            return images
        return super().craft(logits, images, labels, epsilon, random_seed)


class ForgetfulWhenDoubled(Forgetful):
    steps_to_remember = STEPS


class Slow(ProjectedGradientDescent):
    def step_size(self, epsilon):
        return 0.02 * epsilon


class BelowEightBits(ProjectedGradientDescent):
    """Moves each image over the decision boundary by less than 8 bits can tell."""

    def craft(self, logits, images, labels, epsilon, random_seed):
        far, near = super().craft(logits, images, labels, epsilon, random_seed), images
        for _ in range(12):
            middle = (far + near) / 2
            fooled = tf.argmax(logits(middle), -1) != labels
            fooled = tf.reshape(fooled, [-1, 1, 1, 1])
            far, near = tf.where(fooled, middle, far), tf.where(fooled, near, middle)
        return far


@pytest.mark.parametrize(
    ("attack", "warned"),
    [
        (Backwards, ["bare_classifier_falls", "loss_rises_along_the_attack"]),
        (Backwards, ["unbounded_attack_succeeds", "iterative_beats_single_step"]),
        (Idle, ["blackbox_not_stronger", "random_noise_is_weaker", "whitebox_covers_blackbox"]),
        (Idle, ["binarization_test", "bare_classifier_falls"]),
        (LeavesTheBall, ["perturbations_are_valid"]),
        (LeavesTheRange, ["perturbations_are_valid"]),
        (IgnoresEpsilon, ["perturbations_are_valid"]),
        (FearsEpsilon, ["monotone_in_epsilon"]),
        (Forgetful, ["best_iterate_is_kept"]),
        (ForgetfulWhenDoubled, ["more_steps_never_weaker"]),
        (Slow, ["more_steps_never_weaker"]),
        (BelowEightBits, ["perturbations_are_valid"]),
    ],
)
def test_faulty_attack_is_seen(examine, attack, warned):
    examination = examine(attack=attack(epsilon=0.2, steps=STEPS, seed=0))
    for name in warned:
        result = getattr(checks, name)(examination)
        assert result.status == "WARN", result


def test_bpda_that_does_not_ignore_the_restoration_is_seen(plain, monkeypatch):
    whitebox = keras_trn.threat_models.WhiteboxFull
    monkeypatch.setattr(keras_trn.threat_models.BPDA, "_logits", whitebox._logits)
    result = checks.attack_breaks_known_weak_defence(plain)
    assert result.status == "WARN" and result.figure > 0.5


def test_check_that_raises_is_a_warning(examine):
    class Broken(ProjectedGradientDescent):
        def craft(self, *arguments):
            raise RuntimeError("no luck.")

    results = checks.run_checks(examine(attack=Broken(epsilon=0.2, seed=0)))
    by_name = {result.name: result for result in results}
    broken = by_name["bare_classifier_falls"]
    assert broken.status == "WARN" and broken.figure is None
    assert broken.finding == "The check could not be made: RuntimeError, no luck."
    assert by_name["deterministic"].status == "PASS"


# --- The examination ------------------------------------------------------------------


def test_runs_are_remembered(plain):
    assert plain.adversarial("whitebox_full") is plain.adversarial("whitebox_full", plain.attack)
    assert plain.adversarial("whitebox_full") is plain.adversarial("whitebox_full", epsilon=0.25)
    assert plain.target("whitebox_full") is plain.target("whitebox_full")


def test_stages_are_of_one_way(plain):
    stages = [plain.adversarial("whitebox_full", stage).numpy() for stage in plain.stages]
    assert [stage.steps for stage in plain.stages] == [3, 6, 9, 12]
    three_steps = 3 * 2.5 / STEPS * 0.25
    for before, after in itertools.pairwise(stages):
        assert 0 < np.abs(after - before).max() <= three_steps + 1e-6


def test_attack_without_a_seed_is_given_one(examine):
    examination = examine(attack=ProjectedGradientDescent(epsilon=0.2, steps=2), seed=5)
    assert examination.attack.seed == 5


def test_examined_classifier_stays_as_it_was(classifier, plain):
    trainable = [layer.trainable for layer in classifier.layers]
    classifier.layers[0].trainable = not trainable[0]
    checks.attack_breaks_known_weak_defence(plain)
    assert [layer.trainable for layer in classifier.layers] == [not trainable[0], *trainable[1:]]
    classifier.layers[0].trainable = trainable[0]


@pytest.mark.parametrize(
    "attack",
    [
        ProjectedGradientDescent(epsilon=(0.1, 0.2)),
        keras_trn.attacks.FastGradientMethod(epsilon=0.2),
        keras_trn.attacks.SPSA(epsilon=0.2),
    ],
)
def test_unfit_attack_is_refused(examine, attack):
    with pytest.raises(ValueError, match="several steps along gradients with one epsilon"):
        examine(attack=attack)


# --- The binarization test ------------------------------------------------------------


def test_guaranteed_adversarial_images_exist(plain):
    binarized = binarize(plain)
    assert len(binarized.images) == len(plain.images)
    assert np.all(binarized.logits(binarized.boundary)[:, 1] > 0)
    assert not np.any(binarized.logits(binarized.images)[:, 1] > 0)
    distance = np.abs(binarized.boundary - binarized.images).max(axis=(1, 2, 3))
    assert distance.max() <= plain.attack.epsilon + 1e-6


def test_images_that_cannot_be_told_apart_are_left_out(examine, classifier):
    class Grey(keras_trn.RestoredClassifier):
        def restorations(self, images, labels=None):
            return 0.5 * tf.ones_like(images)

    result = checks.binarization_test(examine(Grey(classifier), images=4))
    assert result.status == "not applicable"
