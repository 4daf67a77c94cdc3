"""The sanity checks pass where all is well, and warn where a fault was planted."""

import dataclasses
import inspect
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
from keras_trn.evaluation.checks.binarization import without_last_dense
from keras_trn.evaluation.map_gradient import measure_map_motion

NAMES = [
    "outputs_are_logits",
    "deterministic",
    "classifier_beats_chance",
    "input_gradients",
    "dynamic_defence",
    "map_gradient_is_complete",
    "restoration_switched_off",
    "batch_invariance",
    "iterative_beats_single_step",
    "more_steps_never_weaker",
    "monotone_in_epsilon",
    "unbounded_attack_succeeds",
    "loss_rises_along_the_attack",
    "best_iterate_is_kept",
    "perturbations_are_valid",
    "bare_classifier_falls",
    "attack_breaks_known_weak_defence",
    "binarization_test",
    "blackbox_not_stronger",
    "random_noise_is_weaker",
    "whitebox_covers_blackbox",
    "bpda_not_stronger",
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
    unfit |= {"map_gradient_is_complete"}
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


def test_every_check_keeps_the_contract():
    """A check is public, documented, and known by its name."""
    assert [check.__name__ for check in checks.ALL_CHECKS] == NAMES
    assert len(set(NAMES)) == len(NAMES)
    for check in checks.ALL_CHECKS:
        assert getattr(checks, check.__name__) is check
        assert check.__name__ in checks.__all__
        assert list(inspect.signature(check).parameters) == ["examination"]
        for part in ("Checks", "Source:", "Args:", "Returns:", "Example:"):
            assert part in check.__doc__, (check, part)


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
    """In a graph, the noise is that of its tracing for ever."""

    def restore_batch(self, images, labels=None):
        return images + 0.1 * np.random.default_rng().normal()


class NanBeforeTheClassifier(keras_trn.RestoredClassifier):
    """In a graph, the classifier's ReLU makes zeros of it."""

    def restore_batch(self, images, labels=None):
        return tf.where(brightness(images)[:, None, None, None] > 0.35, np.nan, images)


class SometimesNan(keras_trn.RestoredClassifier):
    # Some clean images are brighter.
    brightest = 0.35

    def restore_batch(self, images, labels=None):
        return images

    def call(self, images, labels=None):
        return tf.where(brightness(images)[:, None] > self.brightest, np.nan, super().call(images))


class NanUnderAttack(SometimesNan):
    # No clean image is brighter.
    brightest = 0.385


class BatchMean(keras_trn.RestoredClassifier):
    def restore_batch(self, images, labels=None):
        return images - tf.reduce_mean(images, axis=0)


class Probabilities(keras_trn.RestoredClassifier):
    def call(self, images, labels=None):
        return tf.nn.softmax(super().call(images))


class ScaledProbabilities(keras_trn.RestoredClassifier):
    def call(self, images, labels=None):
        return 100 * tf.nn.softmax(super().call(images))


class OtherAnswer(keras_trn.RestoredClassifier):
    """Does more than to restore."""

    def restore_batch(self, images, labels=None):
        return images

    def call(self, images, labels=None):
        return 1.0001 * super().call(images)


for without_restoration in (Probabilities, ScaledProbabilities):
    without_restoration.restore_batch = lambda self, images, labels=None: images


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
    assert not examination.correct_without_attack[is_nan].any()
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


# --- Randomness -----------------------------------------------------------------------


class StandingDropout(keras.layers.Dropout):
    """Dropout that does not ask whether it trains."""

    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


@pytest.fixture(scope="module")
def random_defence(classifier):
    """An untrained protection of a classifier whose dropout stays on."""
    features = keras.Model(classifier.inputs[0], classifier.layers[-1].input)
    dropped = keras.Sequential([features, StandingDropout(0.3), classifier.layers[-1]])
    restorer = keras_trn.TwoStreamRestorationNetwork(width=4, depth=1)
    return keras_trn.ProtectedClassifier(dropped, restorer, keras_trn.gradient_maps.UniformLabel())


@pytest.mark.parametrize(
    "check", [checks.restoration_switched_off, checks.batch_invariance], ids=lambda c: c.__name__
)
def test_randomness_is_named_as_the_cause(examine, random_defence, check):
    examination = examine(random_defence, images=14)
    result = check(examination)
    assert result.status == "WARN"
    assert "answers at random, see `deterministic`" in result.finding
    assert "batch; look for means" not in result.finding
    assert "something but the restoration" not in result.finding
    assert examination.is_random
    of_randomness = checks.deterministic(examination)
    assert of_randomness.status == "WARN" and "see `deterministic`" not in of_randomness.finding


def test_cause_that_is_not_randomness_is_still_named(examine, classifier):
    class NoisyProbabilities(Noisy):
        def call(self, images, labels=None):
            return tf.nn.softmax(super().call(images))

    result = checks.outputs_are_logits(examine(NoisyProbabilities(classifier), images=8))
    assert "leave out the softmax" in result.finding
    assert "also answers at random, see `deterministic`" in result.finding


def test_nothing_is_said_of_randomness_where_there_is_none(examine, classifier):
    result = checks.batch_invariance(examine(BatchMean(classifier)))
    assert "look for means or sums" in result.finding and "random" not in result.finding


# --- What was learned -----------------------------------------------------------------


def answer_of(images, number_right, labels):
    """A classifier that is right on the first images, and says 3 to all others."""
    inputs = keras.Input(images.shape[1:])
    known = tf.constant(images[:number_right].reshape(number_right, -1))

    class Knows(keras.layers.Layer):
        def call(self, pixels):
            distances = tf.norm(keras.layers.Flatten()(pixels)[:, None] - known, axis=-1)
            told = tf.one_hot(tf.gather(labels, tf.argmin(distances, axis=-1)), 10)
            is_known = tf.reduce_min(distances, axis=-1, keepdims=True) < 1e-6
            return tf.where(is_known, told, tf.one_hot([3], 10))

    return keras.Model(inputs, Knows()(inputs))


def test_classifier_has_to_be_right_more_often_than_the_best_constant_answer(digits):
    images, labels = digits[0][:50], np.arange(50) % 10
    attack = ProjectedGradientDescent(epsilon=0.2, steps=2, seed=0)

    def result(number_right):
        model = answer_of(images, number_right, labels)
        return checks.classifier_beats_chance(checks.Examination(model, images, labels, attack))

    # With 10 % by chance, 9 of 50 are right with a probability of 6 %, and 23 never.
    few, many = result(5), result(20)
    assert (few.status, few.figure) == ("WARN", 0.18)
    assert "the best constant answer on 10.0%" in few.finding
    assert (many.status, many.figure) == ("PASS", 0.46)


def test_images_of_one_class_show_no_learning(examine, classifier, digits):
    images = digits[0][digits[1] == 4][:20]
    attack = ProjectedGradientDescent(epsilon=0.2, steps=2, seed=0)
    examination = checks.Examination(classifier, images, np.full(20, 4), attack)
    assert examination.correct_without_attack.mean() >= 0.9
    assert checks.classifier_beats_chance(examination).status == "WARN"


# --- The gradient map -----------------------------------------------------------------


class Operation(keras.layers.Layer):
    """A layer of one function."""

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


def motion_of(protected, images):
    slopes = keras_trn.threat_models.WhiteboxFull().map_slopes(protected)
    return measure_map_motion(protected, slopes, images)


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [keras.layers.Conv2D(8, 3, activation="relu")],
        [keras.layers.Conv2D(8, 3, activation="tanh")],
        [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.MaxPooling2D()],
        [keras.layers.UpSampling2D(interpolation="bilinear"), keras.layers.Conv2D(4, 3)],
        [keras.layers.Resizing(5, 5), keras.layers.Conv2D(8, 3, activation="silu")],
    ],
    ids=["linear", "relu", "tanh", "max pooling", "up-sampling", "resizing"],
)
def test_right_map_gradients_are_found_complete(digits, layers):
    motion = motion_of(protect_by_maps(classifier_with(*layers)), digits[0][:8])
    assert motion.is_seen and motion.missed <= 0.1
    assert motion.measured > 0


@pytest.mark.parametrize(
    "gradient_map",
    [
        keras_trn.gradient_maps.PredictedLabel(),
        keras_trn.gradient_maps.EstimatedLabel(width=4, depth=1),
    ],
    ids=["predicted", "estimated"],
)
def test_gradients_of_every_map_are_found_complete(classifier, digits, gradient_map):
    motion = motion_of(protect_by_maps(classifier, gradient_map), digits[0][:8])
    assert motion.is_seen and motion.missed <= 0.1


@pytest.mark.parametrize("how", ["stopped", "NumPy"])
def test_hidden_map_gradient_is_seen(examine, how):
    convolution = keras.layers.Conv2D(8, 3)
    protected = protect_by_maps(classifier_with(convolution, Operation(hiding(how))))
    examination = examine(protected, threat_models=["whitebox_full"], images=16)
    result = checks.map_gradient_is_complete(examination)
    assert (result.status, result.figure) == ("WARN", 1.0)
    assert "and of 0 by the tape, which misses 100.0%" in result.finding
    assert checks.dynamic_defence(examination).status == "WARN"
    needs_it = checks.run_checks(examination)[NAMES.index("bpda_not_stronger")]
    assert needs_it.status == "WARN"
    assert "could not be made: `whitebox_full` cannot be run" in needs_it.finding
    assert "hides the gradient of its gradient" in needs_it.finding


def test_half_a_hidden_gradient_is_seen(digits):
    inputs = keras.Input((8, 8, 1))
    branches = [keras.layers.Conv2D(8, 3)(inputs) for _ in range(2)]
    seen = keras.layers.Activation("tanh")(branches[0])
    both = keras.layers.Concatenate()([seen, Operation(hiding("stopped"))(branches[1])])
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(both))
    motion = motion_of(protect_by_maps(keras.Model(inputs, outputs)), digits[0][:8])
    assert not motion.is_seen and 0.2 < motion.missed < 0.9
    assert 0 < motion.differentiated < motion.measured


def test_map_that_stands_still_is_complete(digits):
    two_classes = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    motion = motion_of(protect_by_maps(two_classes), digits[0][:8])
    assert motion.is_seen and motion.measured == 0


def test_operation_without_a_second_derivative_is_named(examine):
    normalization = Operation(tf.nn.local_response_normalization)
    protected = protect_by_maps(classifier_with(keras.layers.Conv2D(8, 3), normalization))
    result = checks.map_gradient_is_complete(examine(protected, images=8))
    assert result.status == "WARN" and "LRNGrad" in result.finding
    by_name = {result.name: result for result in checks.run_checks(examine(protected, images=8))}
    for name in ("binarization_test", "input_gradients", "more_steps_never_weaker"):
        assert "The check could not be made" in by_name[name].finding
        assert "LRNGrad" in by_name[name].finding
    assert by_name["bare_classifier_falls"].figure is not None


def test_defence_without_a_map_has_none_to_check(plain, examine, classifier):
    assert checks.map_gradient_is_complete(plain).status == "not applicable"
    rounded = examine(Rounded(classifier))
    assert checks.map_gradient_is_complete(rounded).status == "not applicable"


# --- Images of any shape --------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_that_squares_do_not_fit_are_attacked_otherwise(norm):
    generator = np.random.default_rng(0)
    images = generator.random((6, 6, 10, 3), dtype="float32")
    classifier = keras.Sequential(
        [keras.Input((6, 10, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    attack = ProjectedGradientDescent(epsilon=0.3, norm=norm, steps=2, seed=0)
    examination = checks.Examination(classifier, images, [0, 1, 2] * 2, attack, queries=20)
    if norm == "linf":
        assert isinstance(examination.query_attack, keras_trn.attacks.SPSA)
        assert "SPSA leaves" in checks.blackbox_not_stronger(examination).finding
        assert checks.whitebox_covers_blackbox(examination).status == "PASS"
    else:
        for check in (checks.blackbox_not_stronger, checks.whitebox_covers_blackbox):
            result = check(examination)
            assert result.status == "not applicable"
            assert "Square needs room" in result.finding


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
    numbers = {"queries": np.int64(4), "seed": np.int64(3)}
    labels = digits[1][:8].astype("uint8")[:, None]
    examination = checks.Examination(classifier, digits[0][:8], labels, attack, **numbers)
    assert (examination.queries, examination.seed) == (4, 3)
    assert type(examination.queries) is type(examination.seed) is int
    assert checks.random_noise_is_weaker(examination).status == "PASS"


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
    assert np.all(binarized(binarized.boundary)[:, 1] > 0)
    assert not np.any(binarized(binarized.images)[:, 1] > 0)
    distance = np.abs(binarized.boundary - binarized.images).max(axis=(1, 2, 3))
    assert distance.max() <= plain.attack.epsilon + 1e-6


def test_images_that_cannot_be_told_apart_are_left_out(examine, classifier):
    class Grey(keras_trn.RestoredClassifier):
        def restore_batch(self, images, labels=None):
            return 0.5 * tf.ones_like(images)

    result = checks.binarization_test(examine(Grey(classifier), images=4))
    assert result.status == "not applicable"


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


def backbone_and_dense():
    backbone = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    return keras.Sequential([backbone, keras.layers.Dense(10)])


def reused_layer():
    """A layer is applied twice, as in a Siamese network."""
    inputs = keras.Input((8, 8, 1))
    layer = keras.layers.Dense(8, "relu")
    twice = layer(layer(keras.layers.Reshape((8, 8))(inputs)))
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(twice)))


def time_distributed():
    layer = keras.layers.TimeDistributed(keras.layers.Dense(4, "relu"))
    return classifier_with(keras.layers.Reshape((8, 8)), layer)


def bidirectional():
    layer = keras.layers.Bidirectional(keras.layers.SimpleRNN(4))
    return classifier_with(keras.layers.Reshape((8, 8)), layer)


def adapted_normalization():
    normalization = keras.layers.Normalization(axis=-1)
    normalization.adapt(np.random.default_rng(0).random((20, 8, 8, 1)))
    return classifier_with(normalization, keras.layers.Conv2D(2, 3))


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


@pytest.mark.parametrize(
    ("make", "features"),
    [
        (shared_layers, 16),
        (nested_models, 12),
        (backbone_and_dense, 64),
        (reused_layer, 64),
        (time_distributed, 32),
        (bidirectional, 8),
        (adapted_normalization, 72),
        (ends_in_activation, 64),
        # Without such a layer, or with two of them, the logits have to do.
        (convolutional, 10),
        (two_heads, 10),
        (subclassed, 10),
    ],
)
def test_features_of_the_last_layer_are_found_in_any_classifier(digits, make, features):
    keras.utils.set_random_seed(0)
    made = make()
    images, labels = digits[0][:6], digits[1][:6]
    found = images
    for part in without_last_dense(made):
        found = part(found)
    assert found.shape == (6, features)
    attack = ProjectedGradientDescent(epsilon=0.3, steps=8, seed=0)
    result = checks.binarization_test(checks.Examination(made, images, labels, attack))
    assert result.figure >= 0.8, result
    dense = [layer for layer in made._flatten_layers() if getattr(layer, "units", 0) == 10]
    rest = dense[-1] if features != 10 else keras.layers.Identity()
    np.testing.assert_allclose(rest(found), made(images), atol=1e-5)
