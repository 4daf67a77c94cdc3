"""Every sanity check passes on something sound, and warns of a planted fault."""

import dataclasses
import functools
import itertools
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from keras_trn.attacks import BasicIterativeMethod
from keras_trn.attacks import FastGradientMethod
from keras_trn.attacks import MomentumIterativeMethod
from keras_trn.attacks import ProjectedGradientDescent
from keras_trn.attacks import Restarts
from keras_trn.attacks import Square
from keras_trn.evaluation import checks
from keras_trn.evaluation.checks.binarization import before_last_dense
from keras_trn.evaluation.checks.binarization import binarize
from keras_trn.evaluation.checks.registry import checks_table
from keras_trn.evaluation.map_gradient import measure_slopes

DOCS = Path(__file__).parent.parent / "docs"
STEPS = 8


@pytest.fixture(scope="module")
def examine(classifier, digits):
    """Makes an examination with few images and queries, once for the same arguments."""

    @functools.cache
    def make(defence, attack, images, threat_models, queries):
        defence = classifier if defence is None else defence
        defence = defence(classifier) if isinstance(defence, type) else defence
        images, labels = digits[0][:images], digits[1][:images]
        attack = attack(epsilon=0.2, steps=STEPS, seed=0) if isinstance(attack, type) else attack
        return checks.Examination(defence, images, labels, attack, threat_models, queries)

    def examine(
        defence=None, attack=ProjectedGradientDescent, images=32, threat_models=(), queries=40
    ):
        return make(defence, attack, images, tuple(threat_models), queries)

    return examine


# --- Faulty defences ----------------------------------------------------------------------


class Unrestored(keras_trn.RestoredClassifier):
    def restore_batch(self, images, labels=None):
        return images


class Rounded(keras_trn.RestoredClassifier):
    """Masks its gradient by rounding."""

    def restore_batch(self, images, labels=None):
        return tf.round(images * 7) / 7


class Binary(keras_trn.RestoredClassifier):
    """Masks its gradient by taking signs."""

    def restore_batch(self, images, labels=None):
        return (tf.sign(images - 0.3) + 1) / 2


class Noisy(keras_trn.RestoredClassifier):
    def restore_batch(self, images, labels=None):
        return images + 0.1 * tf.random.normal(tf.shape(images))


class NoisyByNumpy(keras_trn.RestoredClassifier):
    """A graph repeats the noise of its tracing."""

    def restore_batch(self, images, labels=None):
        return images + 0.1 * np.random.default_rng().normal()


class NanBeforeTheClassifier(keras_trn.RestoredClassifier):
    """In a graph, the classifier's ReLU turns it into zeros."""

    def restore_batch(self, images, labels=None):
        return tf.where(brightness(images)[:, None, None, None] > 0.35, np.nan, images)


class SometimesNan(Unrestored):
    # Some clean images are brighter.
    brightest = 0.35

    def call(self, images, labels=None):
        return tf.where(brightness(images)[:, None] > self.brightest, np.nan, super().call(images))


class NanUnderAttack(SometimesNan):
    # No clean image is brighter.
    brightest = 0.385


class BatchMean(keras_trn.RestoredClassifier):
    def restore_batch(self, images, labels=None):
        return images - tf.reduce_mean(images, axis=0)


class Probabilities(Unrestored):
    scale = 1

    def call(self, images, labels=None):
        return self.scale * tf.nn.softmax(super().call(images))


class ScaledProbabilities(Probabilities):
    scale = 100


class OtherAnswer(Unrestored):
    def call(self, images, labels=None):
        return 1.0001 * super().call(images)


def brightness(images):
    return tf.reduce_mean(images, axis=[1, 2, 3])


class Operation(keras.layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


def hiding(how):
    """The hyperbolic tangent, whose gradient hides its own gradient."""

    @tf.custom_gradient
    def tanh(inputs):
        outputs = tf.tanh(inputs)

        def gradient(upstream):
            if how == "stopped":
                return tf.stop_gradient(upstream * (1 - outputs**2))
            pulled = tf.numpy_function(lambda u, o: u * (1 - o**2), [upstream, outputs], tf.float32)
            return tf.ensure_shape(pulled, upstream.shape)

        return outputs, gradient

    return tanh


def classifier_with(*layers):
    """An untrained classifier of digits."""
    keras.utils.set_random_seed(0)
    head = [keras.layers.Flatten(), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, *head])


def protect_by_maps(classifier, gradient_map=None):
    restorer = keras_trn.TwoStreamRestorationNetwork(width=4, depth=1)
    gradient_map = gradient_map or keras_trn.gradient_maps.UniformLabel()
    return keras_trn.ProtectedClassifier(classifier, restorer, gradient_map)


@functools.cache
def hidden(how="stopped"):
    """A defence whose map looks constant."""
    return protect_by_maps(classifier_with(keras.layers.Conv2D(8, 3), Operation(hiding(how))))


@functools.cache
def untrained():
    return classifier_with()


# --- Faulty attacks -----------------------------------------------------------------------


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
    # What `craft` returns would be brought back.
    def perturb(self, logits, images, labels, epsilon, random_seed):
        return super().perturb(logits, images, labels, 1.2 * epsilon, random_seed)


class LeavesTheRange(ProjectedGradientDescent):
    def perturb(self, logits, images, labels, epsilon, random_seed):
        return images - epsilon


class IgnoresEpsilon(ProjectedGradientDescent):
    def perturb(self, logits, images, labels, epsilon, random_seed):
        return super().perturb(logits, images, labels, 0 * epsilon + 0.2, random_seed)


class FearsEpsilon(ProjectedGradientDescent):
    """Does less where it may do more."""

    def craft(self, logits, images, labels, epsilon, random_seed):
        epsilon = tf.maximum(0.3 - epsilon, 0.0)
        return super().craft(logits, images, labels, epsilon, random_seed)


class Forgetful(ProjectedGradientDescent):
    """Returns to its start if it takes many steps; it needs Python's number of steps."""

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
            fooled = tf.reshape(tf.argmax(logits(middle), -1) != labels, [-1, 1, 1, 1])
            far, near = tf.where(fooled, middle, far), tf.where(fooled, near, middle)
        return far


# --- Every check --------------------------------------------------------------------------

# What to examine for each check to warn.
PLANTED = {
    "outputs_are_logits": [
        {"defence": defence}
        for defence in (
            NanBeforeTheClassifier,
            SometimesNan,
            NanUnderAttack,
            Probabilities,
            ScaledProbabilities,
        )
    ],
    "deterministic": [{"defence": Noisy}, {"defence": NoisyByNumpy}],
    "classifier_beats_chance": [{"defence": untrained}],
    "input_gradients": [{"defence": Rounded}, {"defence": Binary}, {"defence": SometimesNan}],
    "dynamic_defence": [{"defence": hidden, "threat_models": ["whitebox_full"]}],
    "map_gradient_is_complete": [
        {"defence": hidden, "threat_models": ["whitebox_full"]},
        {"defence": lambda: hidden("NumPy"), "images": 8},
    ],
    "restoration_switched_off": [{"defence": OtherAnswer}],
    "batch_invariance": [{"defence": BatchMean}],
    "iterative_beats_single_step": [{"attack": Backwards}],
    "more_steps_never_weaker": [{"attack": ForgetfulWhenDoubled}, {"attack": Slow}],
    "monotone_in_epsilon": [{"attack": FearsEpsilon}],
    "unbounded_attack_succeeds": [{"attack": Backwards}],
    "loss_rises_along_the_attack": [{"attack": Backwards}],
    "best_iterate_is_kept": [{"attack": Forgetful}],
    "perturbations_are_valid": [
        {"attack": LeavesTheBall},
        {"attack": LeavesTheRange},
        {"attack": IgnoresEpsilon},
        {"attack": BelowEightBits},
    ],
    "bare_classifier_falls": [{"attack": Backwards}, {"attack": Idle}],
    # Its fault lies in `bpda`, see below.
    "attack_breaks_known_weak_defence": [],
    "binarization_test": [{"attack": Idle}, {"defence": Rounded}, {"defence": Binary}],
    "blackbox_not_stronger": [{"attack": Idle}],
    "random_noise_is_weaker": [{"attack": Idle}],
    "whitebox_covers_blackbox": [{"attack": Idle}],
    "bpda_not_stronger": [{"defence": Rounded}, {"defence": Binary}],
}
# Which checks need a restoration to pass.
OF_RESTORATIONS = {
    "dynamic_defence",
    "map_gradient_is_complete",
    "restoration_switched_off",
    "bpda_not_stronger",
}


@pytest.fixture(scope="module")
def plain(examine):
    return examine()


def test_every_check_has_a_planted_fault():
    missing = set(checks.ALL_CHECKS) - set(PLANTED)
    assert not missing, (
        f"Nothing shows that {sorted(missing)} can warn. Add an entry to PLANTED for each: a list "
        'of arguments of `examine` for which the check must warn, such as [{"attack": Idle}].'
    )
    assert not set(PLANTED) - set(checks.ALL_CHECKS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "faulty"),
    [pytest.param(n, case, id=f"{n}-{i}") for n in PLANTED for i, case in enumerate(PLANTED[n])],
)
def test_planted_fault_is_seen(examine, name, faulty):
    defence = faulty.get("defence")
    made = {} if defence is None or isinstance(defence, type) else {"defence": defence()}
    result = checks.ALL_CHECKS[name](examine(**{**faulty, **made}))
    assert result.status == "WARN", result
    assert "could not be made" not in result.finding


@pytest.mark.slow
def test_sound_classifier_passes(plain):
    called = []
    results = checks.run_checks(plain, progress=called.append)
    assert [result.name for result in results] == called
    assert set(called) == set(checks.ALL_CHECKS)
    for result in results:
        expected = "not applicable" if result.name in OF_RESTORATIONS else "PASS"
        assert result.status == expected, result
        assert (result.figure is None) == (result.name in OF_RESTORATIONS), result
        is_about_attack = checks.ALL_CHECKS[result.name].subject != "defence"
        assert result.attack == (plain.attack.name if is_about_attack else None)
        assert result.finding.endswith("."), result
    saved = json.loads(json.dumps([dataclasses.asdict(result) for result in results]))
    assert [checks.CheckResult(**fields) for fields in saved] == results


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OF_RESTORATIONS))
def test_sound_restoration_passes(examine, sound, name):
    result = checks.ALL_CHECKS[name](examine(sound, images=16, threat_models=["whitebox_full"]))
    assert result.status == "PASS", result


@pytest.fixture(scope="module")
def sound(classifier):
    return protect_by_maps(classifier)


@pytest.mark.slow
def test_sound_restoration_passes_all_checks_but_for_what_the_attack_misses(examine, sound):
    results = checks.run_checks(examine(sound, images=16, threat_models=["whitebox_full"]))
    # PGD keeps no best iterate, and an ensemble finds more than one attack.
    may_warn = {"best_iterate_is_kept", "whitebox_covers_blackbox", "more_steps_never_weaker"}
    for result in results:
        assert "could not be made" not in result.finding, result
        assert result.status == "PASS" or result.name in may_warn, result


# --- The registry -------------------------------------------------------------------------


def test_check_is_made_by_one_decorator(plain, monkeypatch):
    monkeypatch.setattr(checks.registry, "ALL_CHECKS", {})

    @checks.check(finds="images that are black", subject="every attack")
    def images_are_bright(examination, attack):
        """Checks that images are bright.

        The figure is the mean pixel.
        """
        mean = float(np.mean(examination.images))
        return checks.Finding(mean > 0.9, mean, f"{attack.name} gets a mean of {mean:.1f}", "why")

    (result,) = checks.run_checks(plain)
    assert (result.name, result.status) == ("images_are_bright", "WARN")
    assert result.finding == f"{plain.attack.name} gets a mean of {result.figure:.1f}: why."
    assert images_are_bright.title == "Checks that images are bright."


def test_checks_are_documented():
    assert checks_table() in (DOCS / "evaluating.md").read_text(encoding="utf-8")
    page = (DOCS / "api/checks.md").read_text(encoding="utf-8")
    for name, check in checks.ALL_CHECKS.items():
        assert getattr(checks, name) is check
        assert f"::: {check.module}\n" in page
        assert check.title.startswith("Checks") and "." in check.title
    with pytest.raises(AttributeError, match="no attribute 'no_such_check'"):
        _ = checks.no_such_check


@pytest.mark.slow
def test_check_that_raises_is_a_warning(examine):
    class Broken(ProjectedGradientDescent):
        def craft(self, *arguments):
            raise RuntimeError("no luck.")

    results = {result.name: result for result in checks.run_checks(examine(attack=Broken))}
    broken = results["bare_classifier_falls"]
    assert broken.status == "WARN" and broken.figure is None
    assert broken.finding == "The check could not be made: RuntimeError, no luck."
    assert results["deterministic"].status == "PASS"


def test_bpda_that_does_not_ignore_the_restoration_is_seen(plain, monkeypatch):
    whitebox = keras_trn.threat_models.WhiteboxFull
    monkeypatch.setattr(keras_trn.threat_models.BPDA, "_logits", whitebox._logits)
    result = checks.attack_breaks_known_weak_defence(plain)
    assert result.status == "WARN" and result.figure > 0.5


# --- Several attacks ----------------------------------------------------------------------


@pytest.mark.slow
def test_checks_of_every_attack_examine_all_of_them(classifier, digits):
    pgd = ProjectedGradientDescent(epsilon=0.2, steps=2, seed=0)
    attacks = [
        FastGradientMethod(epsilon=0.2),
        Restarts(pgd, restarts=2),
        BasicIterativeMethod(epsilon=0.2, steps=4),
        Square(epsilon=0.2, queries=4),
        LeavesTheBall(epsilon=0.2, steps=3),
    ]
    examination = checks.Examination(classifier, digits[0][:8], digits[1][:8], attacks, queries=4)
    # Restarts are examined as a whole, and the attack that they repeat step by step.
    assert examination.attack.name == "PGD-2" and len(examination.other_attacks) == 5
    results = checks.run_checks(examination)
    of = {name: [r.attack for r in results if r.name == name] for name in checks.ALL_CHECKS}
    others = ["FGSM", "PGD-2 x2", "BIM-4", "Square", "PGD-3"]
    assert of["perturbations_are_valid"] == ["PGD-2", *others]
    assert of["best_iterate_is_kept"] == ["PGD-2", "BIM-4", "PGD-3"]
    assert of["monotone_in_epsilon"] == ["PGD-2", "PGD-2 x2", "BIM-4", "PGD-3"]
    assert of["binarization_test"] == ["PGD-2"] and of["deterministic"] == [None]
    invalid = [r for r in results if r.name == "perturbations_are_valid" and r.status == "WARN"]
    assert [result.attack for result in invalid] == ["PGD-3"]


def test_single_step_attack_is_replaced_in_checks_of_the_main_attack(classifier, digits):
    fgsm = FastGradientMethod(epsilon=1.5, norm="l2")
    examination = checks.Examination(classifier, digits[0][:8], digits[1][:8], fgsm)
    assert isinstance(examination.attack, ProjectedGradientDescent)
    assert (examination.attack.epsilon, examination.attack.norm) == (1.5, "l2")
    with pytest.raises(ValueError, match="draws its epsilon from"):
        checks.Examination(classifier, digits[0], digits[1], FastGradientMethod((0.1, 0.2)))
    with pytest.raises(ValueError, match="needs an attack, and received none"):
        checks.Examination(classifier, digits[0], digits[1], [])


def test_l2_attack_passes(examine):
    attack = ProjectedGradientDescent(epsilon=1.5, norm="l2", steps=STEPS, seed=0)
    examination = examine(attack=attack)
    for name in (
        "perturbations_are_valid",
        "unbounded_attack_succeeds",
        "random_noise_is_weaker",
        "bare_classifier_falls",
        "iterative_beats_single_step",
    ):
        assert checks.ALL_CHECKS[name](examination).status == "PASS"
    assert examination.unbounded_epsilon(attack) == 8


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_small_and_oblong_images_are_attacked_by_queries(norm):
    images = np.random.default_rng(0).random((6, 6, 10, 3), dtype="float32")
    classifier = keras.Sequential(
        [keras.Input((6, 10, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    attack = ProjectedGradientDescent(epsilon=0.3, norm=norm, steps=2, seed=0)
    examination = checks.Examination(classifier, images, [0, 1, 2] * 2, attack, queries=20)
    assert "Square leaves" in checks.blackbox_not_stronger(examination).finding
    assert checks.whitebox_covers_blackbox(examination).status in ("PASS", "WARN")


@pytest.mark.slow
def test_image_that_only_an_attack_on_a_part_breaks_is_seen(examine, classifier, monkeypatch):
    examination = examine(protect_by_maps(classifier), attack=Idle, images=8)
    assert examination.parts == ["oblivious", "transfer_without_map"]
    assert examine(Rounded, images=8).parts == ["oblivious"]
    assert examine(images=8).parts == []
    correct = examination.correct_without_attack
    monkeypatch.setattr(
        examination,
        "correct",
        lambda threat_model, *_, **__: correct & (threat_model != "transfer_without_map"),
    )
    result = checks.whitebox_covers_blackbox(examination)
    assert result.status == "WARN" and result.figure == pytest.approx(correct.mean())


# --- Randomness, chance, and NaN ----------------------------------------------------------


class StandingDropout(keras.layers.Dropout):
    """Dropout that is always on."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


@pytest.mark.slow
def test_randomness_is_named_as_the_cause(examine, classifier):
    features = keras.Model(classifier.inputs[0], classifier.layers[-1].input)
    dropped = keras.Sequential([features, StandingDropout(0.3), classifier.layers[-1]])
    examination = examine(protect_by_maps(dropped), images=14)
    for check in (checks.restoration_switched_off, checks.batch_invariance):
        result = check(examination)
        assert result.status == "WARN"
        assert "answers at random, see `deterministic`" in result.finding
        assert "look for means" not in result.finding and "something other" not in result.finding
    assert "see `deterministic`" not in checks.deterministic(examination).finding


def test_cause_that_is_not_randomness_is_still_named(examine):
    class NoisyProbabilities(Noisy):
        def call(self, images, labels=None):
            return tf.nn.softmax(super().call(images))

    result = checks.outputs_are_logits(examine(NoisyProbabilities, images=8))
    assert "leave out the softmax" in result.finding
    assert "also answers at random, see `deterministic`" in result.finding
    of_batch = checks.batch_invariance(examine(BatchMean))
    assert "look for means or sums" in of_batch.finding and "random" not in of_batch.finding


@pytest.mark.slow
def test_masked_gradients_do_not_stop_the_evaluation_as_a_whole(examine):
    # One of the attackers with gradients ignores the mask.
    assert checks.unbounded_attack_succeeds(examine(Rounded)).status == "PASS"
    assert checks.input_gradients(examine(Rounded)).figure == 1


def test_nan_counts_as_wrong(examine):
    examination = examine(SometimesNan)
    is_nan = np.isnan(examination.logits(examination.images)).any(axis=-1)
    assert is_nan.any() and not is_nan.all()
    assert not examination.correct_without_attack[is_nan].any()
    assert checks.outputs_are_logits(examination).figure >= is_nan.mean() - 1e-6


def test_classifier_must_beat_the_best_constant_answer_by_more_than_chance(digits):
    images, labels = digits[0][:50], np.arange(50) % 10
    attack = ProjectedGradientDescent(epsilon=0.2, steps=2, seed=0)

    def result(number_correct):
        model = classifier_with()
        examination = checks.Examination(model, images, labels, attack)
        answers = np.where(np.arange(50) < number_correct, labels, (labels + 1) % 10)
        examination.classified_correctly = lambda images, model: answers == labels
        return checks.classifier_beats_chance(examination)

    # With 10 % by chance, 9 of 50 are correct with a probability of 6 %, and 23 never.
    few, many = result(9), result(23)
    assert (few.status, few.figure) == ("WARN", 0.18)
    assert "the best constant answer 10.0%" in few.finding
    assert (many.status, many.figure) == ("PASS", 0.46)


# --- The gradient map ---------------------------------------------------------------------


def slopes_of(protected, images):
    derivative = keras_trn.threat_models.WhiteboxFull().map_derivative(protected)
    return measure_slopes(protected, derivative, images)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "gradient_map"),
    [
        ([], None),
        ([keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.MaxPooling2D()], None),
        ([keras.layers.Resizing(5, 5), keras.layers.Conv2D(8, 3, activation="silu")], None),
        ([keras.layers.Conv2D(8, 3, activation="relu")], keras_trn.gradient_maps.PredictedLabel()),
        (
            [keras.layers.Conv2D(8, 3, activation="relu")],
            keras_trn.gradient_maps.EstimatedLabel(width=4, depth=1),
        ),
    ],
    ids=["linear", "max pooling", "resizing", "predicted", "estimated"],
)
def test_correct_derivatives_are_complete(digits, layers, gradient_map):
    slopes = slopes_of(protect_by_maps(classifier_with(*layers), gradient_map), digits[0][:8])
    assert slopes.is_complete and slopes.missed <= 0.1
    assert slopes.numerical > 0


def test_hidden_derivative_leaves_the_white_box_out(examine):
    examination = examine(hidden(), threat_models=["whitebox_full"])
    result = checks.map_gradient_is_complete(examination)
    assert result.figure == 1.0
    assert "and of 0 by automatic differentiation, which misses 100.0%" in result.finding
    needs_it = checks.bpda_not_stronger.attempt(examination)
    assert needs_it.status == "WARN"
    assert "could not be made: `whitebox_full` cannot be run" in needs_it.finding
    assert "hides the gradient of its gradient" in needs_it.finding


def test_half_a_hidden_derivative_is_seen(digits):
    inputs = keras.Input((8, 8, 1))
    branches = [keras.layers.Conv2D(8, 3)(inputs) for _ in range(2)]
    seen = keras.layers.Activation("tanh")(branches[0])
    both = keras.layers.Concatenate()([seen, Operation(hiding("stopped"))(branches[1])])
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(both))
    slopes = slopes_of(protect_by_maps(keras.Model(inputs, outputs)), digits[0][:8])
    assert not slopes.is_complete and 0.2 < slopes.missed < 0.9
    assert 0 < slopes.automatic < slopes.numerical


def test_constant_map_is_complete(digits):
    two_classes = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    slopes = slopes_of(protect_by_maps(two_classes), digits[0][:8])
    assert slopes.is_complete and slopes.numerical == 0


@pytest.mark.slow
def test_operation_without_a_second_derivative_is_named(examine):
    normalization = Operation(tf.nn.local_response_normalization)
    protected = protect_by_maps(classifier_with(keras.layers.Conv2D(8, 3), normalization))
    examination = examine(protected, images=8)
    assert "LRNGrad" in checks.map_gradient_is_complete(examination).finding
    for check in (checks.binarization_test, checks.input_gradients, checks.more_steps_never_weaker):
        finding = check.attempt(examination).finding
        assert "The check could not be made" in finding and "LRNGrad" in finding
    assert checks.bare_classifier_falls(examination).figure is not None


# --- The examination ----------------------------------------------------------------------


def test_runs_are_remembered(plain):
    assert plain.adversarial("whitebox_full") is plain.adversarial("whitebox_full", plain.attack)
    assert plain.adversarial("whitebox_full") is plain.adversarial("whitebox_full", epsilon=0.2)
    assert plain.target("whitebox_full") is plain.target("whitebox_full")


@pytest.mark.slow
def test_stages_are_of_one_run_and_share_a_graph(examine):
    traces = []

    class Traced(ProjectedGradientDescent):
        def craft(self, *arguments):
            traces.append(self.steps)
            return super().craft(*arguments)

    examination = examine(attack=Traced)
    attack = examination.attack
    stages = [stage.numpy() for stage in examination.stages(attack)]
    doubled = examination.with_twice_the_steps(attack)
    # One graph for the attack itself, and one for all other numbers of steps.
    assert len(stages) == 4 and len(traces) == 2
    two_steps = 2 * 2.5 / STEPS * 0.2
    for before, after in itertools.pairwise(stages):
        assert 0 < np.abs(after - before).max() <= two_steps + 1e-6
    images, labels = examination.images, examination.labels
    for steps, size, found in [(2, 2.5 / STEPS, stages[0]), (2 * STEPS, None, doubled)]:
        other = ProjectedGradientDescent(0.2, steps=steps, relative_step_size=size, seed=0)
        expected = other(examination.target("whitebox_full"), images, labels)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [BasicIterativeMethod, ProjectedGradientDescent, MomentumIterativeMethod]
)
def test_stages_run_the_graph_of_the_attack_itself(classifier, digits, kind, monkeypatch):
    traces = []
    craft = kind.craft

    @functools.wraps(craft)
    def traced(self, *arguments):
        traces.append(self.name)
        return craft(self, *arguments)

    monkeypatch.setattr(kind, "craft", traced)
    attack = kind(epsilon=0.2, steps=STEPS)
    examination = checks.Examination(classifier, digits[0][:8], digits[1][:8], attack)
    examination.adversarial("whitebox_full")
    stages = examination.stages(examination.attack)
    examination.with_twice_the_steps(examination.attack)
    assert len(stages) == 4 and len(traces) == 1


def test_one_step_is_the_fast_gradient_method(examine):
    for attack in (FastGradientMethod(0.2), FastGradientMethod(1.5, norm="l2")):
        examination = examine()
        expected = attack(examination.defence, examination.images, examination.labels)
        np.testing.assert_allclose(examination.one_step(attack), expected, atol=1e-5)


def test_nothing_goes_stale_when_a_layer_changes(digits):
    changing = classifier_with(keras.layers.Conv2D(8, 3, activation="relu", name="changing"))
    attack = ProjectedGradientDescent(epsilon=0.2, steps=2, seed=0)
    examination = checks.Examination(changing, digits[0][:8], digits[1][:8], attack, queries=4)
    before = examination.logits(examination.images)
    adversarial = examination.adversarial("whitebox_full")
    changing.get_layer("changing").activation = keras.activations.softplus
    after = examination.logits(examination.images)
    np.testing.assert_allclose(after, changing(digits[0][:8]), atol=1e-5)
    assert np.abs(after - before).max() > 1e-2
    assert examination.adversarial("whitebox_full") is not adversarial


def test_numbers_of_numpy_do(classifier, digits):
    attack = ProjectedGradientDescent(epsilon=np.float32(0.2), steps=np.int64(2))
    labels = digits[1][:8].astype("uint8")[:, None]
    examination = checks.Examination(
        classifier, digits[0][:8], labels, attack, queries=np.int64(4), seed=np.int64(3)
    )
    assert type(examination.queries) is type(examination.seed) is int
    assert examination.attack.seed == 3
    assert checks.random_noise_is_weaker(examination).status == "PASS"


def test_examined_classifier_is_not_frozen(digits):
    classifier = classifier_with(keras.layers.Conv2D(2, 3))
    attack = ProjectedGradientDescent(epsilon=0.2, steps=2, seed=0)
    examination = checks.Examination(classifier, digits[0][:8], digits[1][:8], attack)
    checks.attack_breaks_known_weak_defence(examination)
    assert all(layer.trainable for layer in classifier.layers)


# --- The binarization test ----------------------------------------------------------------


def test_guaranteed_adversarial_images_exist(plain):
    binarized = binarize(plain)
    assert len(binarized.images) == len(plain.images)
    assert binarized.is_adversarial(binarized.boundary).all()
    assert not binarized.is_adversarial(binarized.images).any()
    np.testing.assert_array_equal(binarized(binarized.boundary)[:, 1] > 0, True)
    distance = np.abs(binarized.boundary - binarized.images).max(axis=(1, 2, 3))
    assert distance.max() <= plain.attack.epsilon + 1e-6


def test_images_that_cannot_be_separated_are_left_out(examine):
    class Grey(keras_trn.RestoredClassifier):
        def restore_batch(self, images, labels=None):
            return 0.5 * tf.ones_like(images)

    assert checks.binarization_test(examine(Grey, images=4)).status == "not applicable"


def shared_layers():
    """A classifier that shares its layers with another one, which used them first."""
    layers = [keras.layers.Flatten(), keras.layers.Dense(16, "relu"), keras.layers.Dense(10)]
    for _ in range(2):
        outputs = inputs = keras.Input((8, 8, 1))
        for layer in layers:
            outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def nested_models():
    """A classifier that is made of models, two deep."""
    backbone = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(16, "relu")]
    )
    inputs = keras.Input((16,))
    outputs = keras.layers.Dense(10)(keras.layers.Dense(12, "relu")(inputs))
    head = keras.Sequential([keras.Input((16,)), keras.Model(inputs, outputs)])
    return keras.Sequential([keras.Input((8, 8, 1)), keras.Sequential([backbone, head])])


def reused_layer():
    """A layer is applied twice, as in a Siamese network."""
    inputs = keras.Input((8, 8, 1))
    layer = keras.layers.Dense(8, "relu")
    twice = layer(layer(keras.layers.Reshape((8, 8))(inputs)))
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(twice)))


def ends_in_activation():
    head = [keras.layers.Dense(10), keras.layers.Activation("linear"), keras.layers.Reshape((10,))]
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), *head])


def convolutional():
    head = [keras.layers.Conv2D(10, 3), keras.layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((8, 8, 1)), *head])


def two_heads():
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(inputs)
    heads = [keras.layers.Dense(10)(flat), keras.layers.Dense(10)(flat)]
    return keras.Model(inputs, keras.layers.Add()(heads))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(10)

    def call(self, images):
        return self.dense(self.flatten(images))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 8, 8, 1), "float32"))
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "features"),
    [
        (nested_models, 12),
        (reused_layer, 64),
        (ends_in_activation, 64),
        # Otherwise, the logits must do.
        (shared_layers, 10),
        (convolutional, 10),
        (two_heads, 10),
        (subclassed, 10),
    ],
)
def test_input_of_the_last_layer_is_found(digits, make, features):
    keras.utils.set_random_seed(0)
    made = make()
    images, labels = digits[0][:6], digits[1][:6]
    found = images
    for part in before_last_dense(made, images):
        found = part(found)
    assert found.shape == (6, features)
    attack = ProjectedGradientDescent(epsilon=0.3, steps=8, seed=0)
    result = checks.binarization_test(checks.Examination(made, images, labels, attack))
    assert result.figure >= 0.8, result
