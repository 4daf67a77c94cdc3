"""NumPy's numbers do all that Python's do, up to the saved file, wherever a number is taken."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_trn

ATTACKS = keras_trn.attacks
MAPS = keras_trn.gradient_maps
BASELINES = keras_trn.baselines
LAYERS = keras_trn.layers


def as_numpy(value):
    """The same number as NumPy has it."""
    return np.int64(value) if isinstance(value, int) else np.float32(value)


def as_numpy_arrays(value):
    """The same number as an array of no dimension, as reductions and `np.asarray` give it."""
    return np.asarray(as_numpy(value))


as_numbers = pytest.mark.parametrize("number", [as_numpy, as_numpy_arrays, tf.constant])

# Attacks with numbers that float32 holds exactly, so that they come back as they went.
ATTACK_ARGUMENTS = {
    "SPSA": {"steps": 2, "samples": 2, "delta": 0.25, "relative_step_size": 0.5},
    "AutoProjectedGradientDescent": {"steps": 3},
    "BasicIterativeMethod": {"steps": 2, "relative_step_size": 0.5},
    "CarliniWagner": {"steps": 2, "search_steps": 2, "learning_rate": 0.5, "confidence": 0.25},
    "DeepFool": {"steps": 2, "overshoot": 0.25},
    "FastAdaptiveBoundary": {"steps": 2, "targets": 2, "restarts": 2},
    "MomentumIterativeMethod": {"steps": 2, "relative_step_size": 0.5, "decay": 0.5},
    "NoisyFastGradientMethod": {"noise": 2.0, "step_size": 0.5},
    "ProjectedGradientDescent": {"steps": 2, "relative_step_size": 0.5},
    "Square": {"queries": 3},
}
COMPOSED = {"AttackEnsemble", "ExpectationOverTransformation", "Mixture", "Restarts"}
# Every other exported attack takes numbers for epsilon and seed alone.
ATTACK_ARGUMENTS |= {
    name: {}
    for name in ATTACKS.__all__
    if isinstance(getattr(ATTACKS, name), type)
    and name not in {*ATTACK_ARGUMENTS, *COMPOSED, "Attack"}
}
every_attack = pytest.mark.parametrize("name", ATTACK_ARGUMENTS)


def make_attack(name, number, **arguments):
    arguments = {"epsilon": 0.25, "seed": 7, **ATTACK_ARGUMENTS[name], **arguments}
    return getattr(ATTACKS, name)(**{key: number(value) for key, value in arguments.items()})


def unchanged(value):
    return value


def assert_same_configs(received, expected):
    """The configurations are equal, and JSON takes them."""
    assert json.loads(json.dumps(received)) == json.loads(json.dumps(expected))


@pytest.fixture(scope="module")
def linear():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )


# --- Attacks --------------------------------------------------------------------------


@as_numbers
@every_attack
def test_attack_keeps_pythons_numbers(name, number):
    attack = make_attack(name, number)
    assert_same_configs(attack.get_config(), make_attack(name, unchanged).get_config())
    assert repr(attack) == repr(make_attack(name, unchanged))


@pytest.mark.slow
@every_attack
def test_attack_with_numpy_numbers_crafts_the_same(name, linear, digits):
    images, labels = digits[0][:6], digits[1][:6]
    expected = make_attack(name, unchanged)(linear, images, labels)
    received = make_attack(name, as_numpy)(linear, images, labels)
    np.testing.assert_array_equal(received, expected)
    saved = keras.saving.serialize_keras_object(make_attack(name, as_numpy))
    loaded = keras.saving.deserialize_keras_object(json.loads(json.dumps(saved)))
    assert repr(loaded) == repr(make_attack(name, unchanged))


@pytest.mark.slow
@every_attack
def test_epsilon_and_seed_of_a_call_may_be_numpy_numbers(name, linear, digits):
    images, labels = digits[0][:4], digits[1][:4]
    attack = make_attack(name, unchanged, epsilon=0.5)
    expected = attack(linear, images, labels, epsilon=0.25, seed=3).numpy()
    for epsilon in (np.float32(0.25), np.array(0.25), np.full(4, 0.25, "float32"), [0.25] * 4):
        received = attack(linear, images, labels, epsilon=epsilon, seed=np.int64(3))
        np.testing.assert_array_equal(received, expected, err_msg=repr(epsilon))


@pytest.mark.slow
@every_attack
def test_range_of_epsilons_may_be_an_array(name, linear, digits):
    expected = getattr(ATTACKS, name)((0.0, 0.25), seed=3, **ATTACK_ARGUMENTS[name])
    for epsilon in (np.array([0, 0.25]), (np.float32(0), np.array(0.25)), [0, 0.25]):
        attack = getattr(ATTACKS, name)(epsilon, seed=np.int64(3), **ATTACK_ARGUMENTS[name])
        assert attack.epsilon == (0.0, 0.25)
        assert_same_configs(attack.get_config(), expected.get_config())
    images = digits[0][:4]
    np.testing.assert_array_equal(attack(linear, images), expected(linear, images))
    assert attack.with_largest_epsilon().epsilon == 0.25


def test_copies_of_an_attack_take_numpy_numbers():
    attack = ATTACKS.ProjectedGradientDescent(0.25).with_seed(np.int64(5))
    assert attack.seed == 5 and type(attack.seed) is int


@pytest.mark.slow
@as_numbers
def test_restarts_and_mixtures_take_numpy_numbers(number, linear, digits):
    def make(number):
        attack = ATTACKS.Restarts(make_attack("ProjectedGradientDescent", number), number(2))
        return attack, ATTACKS.Mixture([attack, make_attack("FastGradientMethod", number)])

    images = digits[0][:4]
    for made, expected in zip(make(number), make(unchanged), strict=True):
        assert made.name == expected.name
        assert_same_configs(*map(keras.saving.serialize_keras_object, (made, expected)))
        crafted = made(linear, images, epsilon=np.float32(0.125), seed=np.int64(1)).numpy()
        assert 0 < np.abs(crafted - images).max() <= 0.125 + 1e-6


def test_auto_attack_takes_numpy_numbers():
    attack = ATTACKS.auto_attack("fast", np.float32(0.25), seed=np.int64(6))
    assert repr(attack) == repr(ATTACKS.auto_attack("fast", 0.25, seed=6))


# --- Networks, layers, gradient maps and baselines ----------------------------------------

# What is made, and its numbers.
PARTS = {
    "network": (
        keras_trn.TwoStreamRestorationNetwork,
        {"width": 4, "depth": 1, "block_size": 2, "gate_threshold": 0.5},
    ),
    "estimated label": (
        MAPS.EstimatedLabel,
        {
            "width": 4,
            "depth": 1,
            "block_size": 2,
            "position": 0.25,
            "restored_loss_weight": 0.5,
            "gate_threshold": 0.5,
        },
    ),
    "residual block": (LAYERS.ResidualBlock, {"kernel_size": 5}),
    "unshuffle": (LAYERS.PixelUnshuffle, {"block_size": 2}),
    "shuffle": (LAYERS.PixelShuffle, {"block_size": 2}),
}


@as_numbers
@pytest.mark.parametrize(("make", "arguments"), PARTS.values(), ids=PARTS)
def test_parts_keep_pythons_numbers(make, arguments, number):
    part = make(**{key: number(value) for key, value in arguments.items()}, name="part")
    assert_same_configs(part.get_config(), make(**arguments, name="part").get_config())


@as_numbers
@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (BASELINES.JpegCompression, {"quality": 50}),
        (BASELINES.BitDepthReduction, {"bits": 2}),
        (BASELINES.MedianSmoothing, {"size": 5}),
        (BASELINES.TotalVariationMinimization, {"weight": 2.5}),
    ],
)
def test_filters_keep_pythons_numbers(make, arguments, number, linear, digits):
    ((key, value),) = arguments.items()
    baseline, expected = (make(linear, given, name="filter") for given in (number(value), value))
    assert type(baseline.get_config()[key]) is type(value)
    assert_same_configs(baseline.get_config(), expected.get_config())
    images = digits[0][:2]
    np.testing.assert_array_equal(baseline.restore(images), expected.restore(images))


def single_stream():
    return keras_trn.SingleStreamRestorationNetwork(np.int64(4), np.int64(1), np.int64(2))


def two_streams():
    return keras_trn.TwoStreamRestorationNetwork(np.int64(4), np.int64(1), np.int64(2))


COMPILED = {
    "protected": (
        lambda classifier: keras_trn.ProtectedClassifier(
            classifier, two_streams(), MAPS.EstimatedLabel(np.int64(4), np.int64(1))
        ),
        {"fresh_share": 0.5},
    ),
    "single stream": (
        lambda classifier: keras_trn.ProtectedClassifier(classifier, single_stream()),
        {"fresh_share": 0.5},
    ),
    "adversarial training": (BASELINES.AdversariallyTrainedClassifier, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("make", "arguments"), COMPILED.values(), ids=COMPILED)
def test_model_compiled_with_numpy_numbers_survives_saving(
    make, arguments, linear, digits, tmp_path
):
    images, labels = digits[0][:8], digits[1][:8]
    model = make(linear)
    arguments = {"benign_share": 0.5, **arguments}
    model.compile(
        keras.optimizers.SGD(0.25),
        attack=ATTACKS.FastGradientMethod((np.float32(0.125), np.float32(0.25)), seed=np.int64(1)),
        steps_per_execution=np.int64(1),
        jit_compile=False,
        **{key: as_numpy(value) for key, value in arguments.items()},
    )
    model.fit(images, labels, batch_size=np.int64(8), epochs=np.int64(1), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for key, value in arguments.items():
        assert getattr(loaded, key) == value
    assert repr(loaded.attack) == repr(ATTACKS.FastGradientMethod((0.125, 0.25), seed=1))
    np.testing.assert_array_equal(
        loaded.predict(images, batch_size=np.int64(8), verbose=0),
        model.predict(images, batch_size=8, verbose=0),
    )


@pytest.mark.slow
def test_restore_and_maps_take_a_numpy_batch_size(linear, digits):
    protected = COMPILED["protected"][0](linear)
    images = digits[0][:5]
    for batch_size in (np.int64(2), np.asarray(2), np.uint8(2)):
        np.testing.assert_allclose(
            protected.restore(images, batch_size=batch_size), protected.restore(images), atol=1e-6
        )
        maps = protected.estimate_gradient_maps(images, batch_size=batch_size)
        assert maps.shape == (5, 8, 8, 3)


@pytest.mark.slow
def test_calibration_keeps_pythons_numbers(linear, digits):
    protected = COMPILED["protected"][0](linear)
    calibrations = []
    for number in (as_numpy, unchanged):
        protected.calibrate(digits[0][:16], benign_agreement=number(0.5))
        calibrations.append(protected.get_config()["calibration"])
    assert_same_configs(*calibrations)
    assert calibrations[0]["benign_agreement"] == 0.5


@pytest.mark.parametrize(
    ("make", "weights"),
    [
        (keras_trn.losses.RestorationLoss, {"pixel": 2.5, "classification": 0.5}),
        (keras_trn.losses.AdversarialLoss, {"pixel": 2.5, "adversarial": 0.5}),
    ],
)
def test_loss_keeps_pythons_numbers(make, weights):
    loss = make(**{name: np.float32(value) for name, value in weights.items()})
    assert json.loads(json.dumps(loss.get_config())) == weights


@pytest.mark.slow
def test_baseline_of_equal_size_takes_a_numpy_number():
    network, shape = two_streams(), (None, np.int64(8), np.int64(8), np.int64(1))
    network.build(shape, shape)
    parameters = network.count_params()
    make = keras_trn.SingleStreamRestorationNetwork.with_parameters
    received, expected = (
        {**make(number, shape).get_config(), "name": "baseline"}
        for number in (np.int64(parameters), parameters)
    )
    assert_same_configs(received, expected)


# --- Data, threat models and reports --------------------------------------------------


@pytest.fixture
def test_data(digits):
    return tf.data.Dataset.from_tensor_slices((digits[0][:24], digits[1][:24])).batch(24)


def test_data_take_a_numpy_batch_size_and_seed():
    received = keras_trn.datasets.load("digits", batch_size=np.int64(32), seed=np.int64(3))
    expected = keras_trn.datasets.load("digits", batch_size=32, seed=3)
    for part, expected_part in zip(received, expected, strict=True):
        (images, labels), (expected_images, expected_labels) = (
            next(iter(data.take(1))) for data in (part, expected_part)
        )
        np.testing.assert_array_equal(images, expected_images)
        np.testing.assert_array_equal(labels, expected_labels)


@pytest.mark.parametrize(
    "name",
    [
        "TransferFromEstimator",
        "TransferWithoutMap",
        "BPDA",
        "WhiteboxStopgrad",
        "WhiteboxFull",
        "Blackbox",
    ],
)
def test_threat_model_keeps_pythons_numbers(name):
    threat_model = getattr(keras_trn.threat_models, name)(samples=np.int64(2))
    assert json.loads(json.dumps(threat_model.get_config()))["samples"] == 2


@pytest.mark.slow
def test_cached_examples_take_numpy_numbers(linear, tmp_path):
    _, validation, _ = keras_trn.datasets.load("digits", batch_size=32)

    def cached(folder, number):
        dataset = keras_trn.cache_adversarial_examples(
            linear,
            validation.take(2),
            make_attack("FastGradientMethod", number),
            tmp_path / folder,
            batch_size=number(16),
            rounds=number(2),
            shard_size=number(32),
            seed=number(5),
            verbose=0,
        )
        return [inputs["adversarial"].numpy() for inputs, _ in dataset]

    for received, expected in zip(
        cached("numpy", as_numpy), cached("python", unchanged), strict=True
    ):
        np.testing.assert_array_equal(received, expected)


@pytest.mark.slow
def test_measurement_with_numpy_numbers_is_that_with_pythons(linear, test_data):
    def measured(number, epsilons):
        cells = keras_trn.evaluation.measure(
            {"bare": linear, "rounded": BASELINES.BitDepthReduction(linear, number(2))},
            test_data,
            [make_attack("ProjectedGradientDescent", number), make_attack("Square", number)],
            threat_models=["oblivious", keras_trn.threat_models.BPDA(samples=number(1))],
            epsilons=epsilons,
            verbose=0,
        )
        return [{key: cell[key] for key in cell if key != "seconds"} for cell in cells]

    received = measured(as_numpy, np.array([0.125, 0.5], "float32"))
    expected = measured(unchanged, [0.125, 0.5])
    assert_same_configs(received, expected)
    assert received == expected
