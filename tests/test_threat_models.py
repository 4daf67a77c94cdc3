"""Each threat model differentiates what it says, and nothing else."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from keras_trn import threat_models
from keras_trn.map_derivative import short_message
from keras_trn.random_states import seed_states
from keras_trn.random_states import with_fixed_randomness
from tests.helpers import random_classifier

EPSILON = 0.2


@keras.saving.register_keras_serializable(package="tests")
class Rounded(keras_trn.RestoredClassifier):
    """Restores by rounding, whose gradient is zero."""

    def restore_batch(self, images, labels=None):
        return tf.round(images * 3) / 3


@keras.saving.register_keras_serializable(package="tests")
class Noisy(keras_trn.RestoredClassifier):
    """Adds noise that is drawn anew each time."""

    def restore_batch(self, images, labels=None):
        return tf.clip_by_value(images + tf.random.normal(tf.shape(images), stddev=0.2), 0.0, 1.0)


@keras.saving.register_keras_serializable(package="tests")
class Seeded(keras_trn.RestoredClassifier):
    """Adds noise from two seed generators, and rounds the image if asked to."""

    def __init__(self, classifier, is_differentiable=True, **kwargs):
        super().__init__(classifier, **kwargs)
        self.is_differentiable = is_differentiable
        self.generators = [keras.random.SeedGenerator(seed) for seed in (1, 2)]

    def restore_batch(self, images, labels=None):
        for generator in self.generators:
            images += keras.random.normal(tf.shape(images), stddev=0.2, seed=generator)
        images = images if self.is_differentiable else tf.round(images * 3) / 3
        return tf.clip_by_value(images, 0.0, 1.0)


@pytest.fixture(scope="module")
def some(digits):
    images, labels = digits
    return images[:100], labels[:100]


@pytest.fixture(scope="module")
def protected(classifier, digits):
    """A protected classifier whose restorer changes images; tests must not change it."""
    protected = keras_trn.ProtectedClassifier(
        classifier,
        keras_trn.TwoStreamRestorationNetwork(width=4, depth=1),
        keras_trn.gradient_maps.EstimatedLabel(width=4, depth=1),
    )
    optimizer = keras.optimizers.SGD(0.01)
    protected.compile(optimizer, attack=keras_trn.attacks.FastGradientMethod(epsilon=0.2))
    protected.fit(*digits, epochs=3, verbose=0)
    return protected


def gradient(target, images, labels):
    images = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = target(images)
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    found = tape.gradient(loss, images)
    return None if found is None else found.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bpda", "whitebox_stopgrad", "whitebox_full", "blackbox"])
def test_attacker_who_runs_the_defence_sees_its_answers(name, protected, some):
    target = threat_models.get(name).target(protected)
    np.testing.assert_array_equal(target(some[0]), protected(some[0]))


def test_oblivious_attacker_sees_the_classifier_alone(protected, classifier):
    assert threat_models.Oblivious().target(protected) is protected.classifier
    assert threat_models.Oblivious().target(classifier) is classifier


@pytest.mark.slow
def test_gradients_of_the_threat_models_differ(protected, some):
    gradients = {
        name: gradient(threat_models.get(name).target(protected), *some)
        for name in (
            "oblivious",
            "transfer_from_estimator",
            "transfer_without_map",
            "bpda",
            "whitebox_stopgrad",
            "whitebox_full",
        )
    }
    for first in gradients:
        for second in gradients:
            if first < second:
                difference = np.abs(gradients[first] - gradients[second]).max()
                assert difference > 1e-4, (first, second)


def test_stopgrad_is_the_gradient_with_constant_maps(protected, some):
    images, labels = some
    # As the attacker takes them: a graph would round otherwise.
    maps = protected.gradient_map(tf.constant(images), classifier=protected.classifier)

    def with_constant_maps(images):
        return protected.classifier(protected.restorer(images, maps), training=False)

    target = threat_models.WhiteboxStopgrad().target(protected)
    np.testing.assert_allclose(
        gradient(target, images, labels),
        gradient(with_constant_maps, images, labels),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.slow
def test_full_gradient_is_that_of_finite_differences(protected, some):
    # Away from black and white, where pixels are clipped; wrong labels, as for the true ones the
    # loss of a sure classifier has next to no slope.
    images, labels = 0.25 + 0.5 * some[0], (some[1] + 1) % 10
    full = threat_models.WhiteboxFull().target(protected)
    stopgrad = threat_models.WhiteboxStopgrad().target(protected)
    direction = np.random.default_rng(0).normal(size=images.shape).astype("float32")

    def loss(images):
        logits = np.asarray(full(images), "float64")
        shifted = logits - logits.max(-1, keepdims=True)
        return np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(labels)), labels]

    def slope(target):
        return (gradient(target, images, labels) * direction).sum(axis=(1, 2, 3))

    step = 2e-4
    measured = (loss(images + step * direction) - loss(images - step * direction)) / (2 * step)
    # The median, as a few images lie at a kink of the ReLU.
    assert np.median(np.abs(measured)) > 1
    assert np.median(np.abs(slope(full) / measured - 1)) < 0.02
    assert np.median(np.abs(slope(stopgrad) / measured - 1)) > 0.05


def test_bpda_is_the_classifiers_gradient_at_the_restored_image(classifier, some):
    images, labels = some
    rounded = Rounded(classifier)
    assert gradient(rounded, images, labels) is None
    target = threat_models.BPDA().target(rounded)
    at_restored = gradient(classifier, rounded.restore_batch(images), labels)
    np.testing.assert_allclose(gradient(target, images, labels), at_restored, atol=1e-5)


def test_attack_on_what_has_no_gradient_does_nothing_and_bpda_breaks_it(classifier, some):
    images, labels = some
    rounded = Rounded(classifier)
    attack = keras_trn.attacks.ProjectedGradientDescent(EPSILON, steps=10, seed=0)

    def accuracy(threat_model):
        adversarial = attack(threat_models.get(threat_model).target(rounded), images, labels)
        return np.mean(np.argmax(rounded(adversarial), -1) == labels)

    assert accuracy("whitebox_full") > 0.7
    assert accuracy("bpda") < 0.1


def test_blackbox_has_no_gradient(protected, some):
    target = threat_models.Blackbox().target(protected)
    assert gradient(target, *some) is None


def test_attack_is_traced_once_for_a_threat_model_and_a_defence(classifier, some):
    images, labels = some
    traces = []

    class Counted(keras_trn.attacks.FastGradientMethod):
        def craft(self, *args):
            traces.append(args)
            return super().craft(*args)

    attack, bpda = Counted(EPSILON), threat_models.BPDA()
    rounded = Rounded(classifier)
    for _ in range(3):
        attack(bpda.target(rounded), images, labels)
    assert len(traces) == 1


def test_expectation_averages_a_random_defence(classifier, some):
    images, _ = some
    noisy = Noisy(classifier)
    once = threat_models.WhiteboxFull().target(noisy)
    often = threat_models.WhiteboxFull(samples=20).target(noisy)

    def spread(target):
        return np.std([target(images).numpy() for _ in range(4)], axis=0).mean()

    assert spread(often) < spread(once) / 3


@pytest.mark.slow
def test_expectation_strengthens_an_attack_on_a_random_defence(classifier, some):
    images, labels = some
    noisy = Noisy(classifier)
    keras.utils.set_random_seed(0)
    attack = keras_trn.attacks.ProjectedGradientDescent(EPSILON / 2, steps=10, seed=0)

    def accuracy(samples):
        target = threat_models.WhiteboxFull(samples=samples).target(noisy)
        adversarial = attack(target, images, labels)
        runs = [tf.argmax(noisy(adversarial), axis=-1) == labels for _ in range(10)]
        return np.mean(runs)

    assert accuracy(20) < accuracy(1) - 0.03


def test_transfer_attacks_the_other_model(classifier, some):
    other = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    assert threat_models.Transfer(other).target(classifier) is other
    with pytest.raises(ValueError, match=r"Transfer\(another_classifier\)"):
        threat_models.get("transfer")
    with pytest.raises(ValueError, match="Keras model that the attacker has"):
        threat_models.Transfer("resnet")


def test_threat_models_apply_where_they_differ(classifier, protect):
    protected = protect(classifier)
    single_stream = protect(classifier, two_streams=False)
    jpeg = keras_trn.baselines.JpegCompression(classifier)
    applies = {
        name: [
            threat_models.get(name).applies_to(model)
            for model in (classifier, jpeg, single_stream, protected)
        ]
        for name in (
            "transfer_from_estimator",
            "transfer_without_map",
            "bpda",
            "whitebox_stopgrad",
            "whitebox_full",
            "fixed_randomness",
        )
    }
    assert applies == {
        "transfer_from_estimator": [False, False, False, True],
        "transfer_without_map": [False, False, False, True],
        "bpda": [False, True, True, True],
        "whitebox_stopgrad": [False, False, False, True],
        "whitebox_full": [True, False, True, True],
        "fixed_randomness": [True, True, True, True],
    }


# --- The parts of a defence --------------------------------------------------------------


def test_estimator_is_attacked_at_its_first_restoration(protected, some):
    images, labels = some
    target = threat_models.TransferFromEstimator().target(protected)
    restored = protected.gradient_map.restore_first(tf.constant(images))
    assert np.abs(restored - images).max() > 1e-3
    expected = protected.classifier(restored, training=False)
    np.testing.assert_allclose(target(images), expected, atol=1e-5)
    assert np.abs(gradient(target, images, labels)).max() > 0


def test_estimator_is_attacked_behind_the_gate_of_a_calibration(classifier, protect, some):
    protected = protect(classifier)
    correction = protected.gradient_map.first_restorer.correction
    correction.kernel.assign(tf.ones_like(correction.kernel))
    open_gates = threat_models.TransferFromEstimator().target(protected)(some[0])
    protected.gradient_map.gate_threshold = 100.0
    closed = threat_models.TransferFromEstimator().target(protected)(some[0])
    assert np.abs(open_gates - closed).max() > 1e-2
    np.testing.assert_allclose(closed, classifier(some[0], training=False), atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_restorer_is_attacked_with_a_map_of_zeros(channels, protect, some):
    images = np.repeat(some[0][:8], channels, axis=-1)
    layers = [keras.layers.Flatten(), keras.layers.Dense(10)]
    protected = protect(keras.Sequential([keras.Input((8, 8, channels)), *layers]))
    correction = protected.restorer.correction
    correction.kernel.assign(tf.random.stateless_normal(correction.kernel.shape, (0, 1)))
    target = threat_models.TransferWithoutMap().target(protected)
    zeros = np.zeros((8, 8, 8, 3 * channels), "float32")
    expected = protected.classifier(protected.restorer(images, zeros), training=False)
    np.testing.assert_allclose(target(images), expected, atol=1e-5)
    assert np.abs(target(images) - protected(images)).max() > 1e-3


def test_only_a_protected_classifier_has_parts(classifier, protect):
    @keras.saving.register_keras_serializable(package="tests")
    class Other(keras_trn.RestoredClassifier):
        gradient_map = "of another kind"

        def restore_batch(self, images, labels=None, constant_maps=False):
            return images

    models = {
        "uniform": protect(classifier, keras_trn.gradient_maps.UniformLabel()),
        "true": protect(classifier, keras_trn.gradient_maps.TrueLabel()),
        "other": Other(classifier),
    }
    applies = {
        name: [
            threat_models.TransferFromEstimator().applies_to(model),
            threat_models.TransferWithoutMap().applies_to(model),
        ]
        for name, model in models.items()
    }
    assert applies == {"uniform": [False, True], "true": [False] * 2, "other": [False] * 2}


# --- Known random numbers ----------------------------------------------------------------


def test_known_numbers_are_the_same_in_each_call_and_each_graph(classifier, some):
    images, _ = some
    seeded = Seeded(classifier)
    target = threat_models.FixedRandomness().target(seeded)
    first = target(images)
    assert np.abs(seeded(images) - seeded(images)).max() > 0.1
    np.testing.assert_array_equal(target(images), first)
    compiled = tf.function(target, autograph=False)
    for _ in range(2):
        np.testing.assert_allclose(compiled(images), first, atol=1e-4)
    # The two generators differ, and no two pixels get the same noise.
    shape = (4, 8, 8, 1)
    restored = with_fixed_randomness(seeded, seeded.restore_batch)(tf.fill(shape, 0.5)).numpy()
    assert len(np.unique(restored)) > 150


def test_known_numbers_leave_the_state_of_the_generators(classifier, some):
    seeded = Seeded(classifier)
    seeded(some[0])
    before = [np.asarray(state) for state in seed_states(seeded)]
    assert len(before) == 2
    target = threat_models.FixedRandomness().target(seeded)
    for call in (target, tf.function(target, autograph=False)):
        call(some[0])
        for state, expected in zip(seed_states(seeded), before, strict=True):
            np.testing.assert_array_equal(state, expected)


def test_known_numbers_are_found_in_layers_of_the_classifier():
    classifier = random_classifier()
    assert len(seed_states(keras_trn.baselines.BitDepthReduction(classifier))) == 1


@pytest.mark.parametrize("is_differentiable", [True, False])
def test_known_numbers_have_a_gradient_for_every_restoration(classifier, some, is_differentiable):
    seeded = Seeded(classifier, is_differentiable)
    target = threat_models.FixedRandomness().target(seeded)
    first, second = (gradient(target, *some) for _ in range(2))
    assert np.abs(first).max() > 0
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="'true' or 'predicted', received 'guessed'"):
        threat_models.Oblivious(labels="guessed")
    with pytest.raises(ValueError, match="samples must be a whole number"):
        threat_models.BPDA(samples=0)
    with pytest.raises(ValueError, match="Unknown threat model 'whitebox'; there are 'oblivious'"):
        threat_models.get("whitebox")


# --- Copies, and defences that change ---------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "threat_model",
    [
        threat_models.TransferWithoutMap(),
        threat_models.BPDA(),
        threat_models.WhiteboxStopgrad(),
        threat_models.WhiteboxFull(samples=2),
        threat_models.FixedRandomness(),
        threat_models.Blackbox(labels="predicted"),
        threat_models.Oblivious(),
    ],
    ids=lambda threat_model: threat_model.name,
)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_used_threat_model_can_be_copied(threat_model, copied, classifier, protect, some):
    protected = protect(classifier, keras_trn.gradient_maps.UniformLabel())
    target = threat_model.target(protected)
    other = copied(threat_model)
    assert other.get_config() == threat_model.get_config()
    np.testing.assert_allclose(other.target(protected)(some[0]), target(some[0]), atol=1e-5)


def test_transfer_can_be_copied_with_its_classifier(classifier, some):
    transfer = threat_models.Transfer(classifier, name="copied")
    transfer.target(classifier)
    for other in (copy.deepcopy(transfer), pickle.loads(pickle.dumps(transfer))):
        assert other.name == "copied"
        expected = classifier(some[0])
        np.testing.assert_allclose(other.target(None)(some[0]), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bpda", "whitebox_stopgrad", "whitebox_full", "blackbox"])
def test_target_is_another_one_once_the_defence_has_changed(name, protect, some):
    changing = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(8, "relu", name="changing"),
            keras.layers.Dense(10),
        ]
    )
    protected = protect(changing, keras_trn.gradient_maps.UniformLabel())
    threat_model = threat_models.get(name)
    target = threat_model.target(protected)
    assert threat_model.target(protected) is target
    changing.get_layer("changing").activation = keras.activations.softplus
    np.testing.assert_allclose(threat_model.target(protected)(some[0]), protected(some[0]), 1e-5)
    if name != "whitebox_full":
        assert threat_model.target(protected) is not target


# --- What cannot be differentiated -------------------------------------------------------


class Operation(keras.layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


def fake_quantization(inputs):
    return tf.quantization.fake_quant_with_min_max_vars(inputs, -2.0, 2.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (tf.nn.local_response_normalization, "LRNGrad"),
        (lambda x: tf.nn.max_pool_with_argmax(x, 2, 2, "SAME")[0], "MaxPoolGradWithArgmax"),
        (
            lambda x: tf.nn.dilation2d(
                x, tf.zeros([2, 2, 4]), [1] * 4, "SAME", "NHWC", dilations=[1] * 4
            ),
            "Dilation2DBackpropInput",
        ),
        (fake_quantization, "FakeQuantWithMinMaxVarsGradient"),
    ],
)
def test_full_white_box_names_what_has_no_second_derivative(function, operation, protect, some):
    layers = [keras.layers.Conv2D(4, 3), Operation(function), keras.layers.Flatten()]
    classifier = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(10)])
    protected = protect(classifier, keras_trn.gradient_maps.UniformLabel())
    full = threat_models.WhiteboxFull()
    with pytest.raises(ValueError, match=rf"`whitebox_full` cannot be run.*{operation}"):
        full.target(protected)
    # The bare classifier has no gradient map.
    assert full.target(classifier) is classifier
    for name in ("bpda", "whitebox_stopgrad", "blackbox"):
        assert threat_models.get(name).unsupported_reason(protected) is None
        target = threat_models.get(name).target(protected)
        np.testing.assert_allclose(target(some[0]), protected(some[0]), atol=1e-5)


def test_ordinary_defence_is_supported(classifier, protect):
    full = threat_models.WhiteboxFull()
    protected = protect(classifier, keras_trn.gradient_maps.PredictedLabel())
    assert full.unsupported_reason(protected) is None
    for without_map in (protect(classifier, two_streams=False), classifier):
        assert full.unsupported_reason(without_map) is None
        assert full.map_derivative(without_map) is None


def test_derivative_is_that_of_the_map(classifier, protect, some):
    protected = protect(classifier, keras_trn.gradient_maps.PredictedLabel())
    derivative = threat_models.WhiteboxFull().map_derivative(protected)
    images = 0.25 + 0.5 * some[0][:4]
    np.testing.assert_allclose(
        derivative.maps(images), protected.estimate_gradient_maps(images), atol=1e-5
    )
    weights = np.random.default_rng(0).normal(size=images.shape).astype("float32")
    with tf.GradientTape() as tape:
        tape.watch(image := tf.constant(images))
        total = tf.reduce_sum(weights * derivative.maps(image))
    expected = tape.gradient(total, image)
    np.testing.assert_allclose(derivative.vjp(images, weights), expected, atol=1e-4)


def test_message_of_an_error_is_shortened():
    error = ValueError("Traceback:\n  line 1\nThe image is too small.")
    assert short_message(error) == "ValueError, The image is too small"


def test_numbers_of_numpy_are_pythons():
    config = threat_models.WhiteboxFull(samples=np.int64(3)).get_config()
    assert config["samples"] == 3 and type(config["samples"]) is int


def kinds_of_threat_models():
    kinds = [kind for kind in vars(threat_models).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, threat_models.ThreatModel)]
    return [kind for kind in kinds if kind.name not in ("", "transfer")]


@pytest.mark.parametrize("kind", kinds_of_threat_models(), ids=lambda kind: kind.name)
def test_threat_model_without_a_model_of_its_own_can_be_saved(kind):
    threat_model = kind(labels="predicted")
    serialized = keras.saving.serialize_keras_object(threat_model)
    loaded = keras.saving.deserialize_keras_object(serialized)
    assert type(loaded) is kind and loaded.get_config() == threat_model.get_config()
