"""Keras' own settings change no answer, or an error says which one is in the way."""

import json
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from defences import learned
from test_numpy_numbers import ATTACK_ARGUMENTS

import keras_trn
from keras_trn.keras_settings import check_backend
from keras_trn.keras_settings import float32_numbers

ATTACKS = keras_trn.attacks
LAYERS = keras_trn.layers
MAPS = keras_trn.gradient_maps
BASELINES = keras_trn.baselines


# --- Backend --------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As where Keras has not been imported, and no variable and no file says anything."""
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return tmp_path


def refusal():
    with pytest.raises(ImportError) as raised:
        check_backend()
    return str(raised.value).splitlines()[-1]


@pytest.mark.parametrize("backend", ["torch", "jax", "openvino"])
def test_variable_that_asks_for_another_backend_is_named(backend, fresh, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    said = refusal()
    assert f"the environment variable KERAS_BACKEND asks for the backend '{backend}'" in said
    assert "needs the TensorFlow backend" in said
    assert "os.environ['KERAS_BACKEND'] = 'tensorflow'` before the first import of keras" in said


def test_file_that_asks_for_another_backend_is_named(fresh):
    (fresh / "keras.json").write_text(json.dumps({"backend": "jax", "floatx": "float32"}))
    assert f"the file {fresh / 'keras.json'} asks for the backend 'jax'" in refusal()


def test_file_in_the_home_folder_is_found(fresh, monkeypatch):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(fresh))
    (fresh / ".keras").mkdir()
    (fresh / ".keras" / "keras.json").write_text(json.dumps({"backend": "torch"}))
    assert f"the file {fresh / '.keras' / 'keras.json'} asks for the backend 'torch'" in refusal()


def test_variable_has_the_last_word_as_for_keras(fresh, monkeypatch):
    (fresh / "keras.json").write_text(json.dumps({"backend": "torch"}))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    check_backend()
    monkeypatch.setenv("KERAS_BACKEND", "")
    assert "keras.json" in refusal()


@pytest.mark.parametrize("text", [None, "", "not JSON", "[]", "{}", '{"floatx": "float16"}'])
def test_file_that_says_nothing_of_a_backend_is_no_obstacle(text, fresh):
    if text is not None:
        (fresh / "keras.json").write_text(text)
    check_backend()


def test_keras_with_another_backend_has_to_be_imported_anew(fresh, monkeypatch):
    imported = types.SimpleNamespace(config=types.SimpleNamespace(backend=lambda: "jax"))
    monkeypatch.setitem(sys.modules, "keras", imported)
    said = refusal()
    assert "already imported with the backend 'jax'; it cannot change" in said
    assert "Restart Python" in said
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert "'jax', as the environment variable KERAS_BACKEND asks for it;" in refusal()


def test_keras_that_was_imported_with_tensorflow_is_all_right_whatever_is_said(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    check_backend()


# --- Numbers and channels -------------------------------------------------------------


def numbers(floatx):
    """What `floatx` in keras.json does: to Keras' own numbers, and to new layers."""
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)


SETTINGS = {
    "channels_first": lambda: keras.config.set_image_data_format("channels_first"),
    "floatx=float16": lambda: numbers("float16"),
    "floatx=bfloat16": lambda: numbers("bfloat16"),
    "floatx=float64": lambda: numbers("float64"),
    "mixed_float16": lambda: keras.config.set_dtype_policy("mixed_float16"),
    "policy=float64": lambda: keras.config.set_dtype_policy("float64"),
    "policy=bfloat16": lambda: keras.config.set_dtype_policy("bfloat16"),
}


@pytest.fixture(autouse=True)
def restore_settings():
    config = keras.config
    before = config.image_data_format(), config.floatx(), config.dtype_policy()
    yield
    config.set_image_data_format(before[0])
    config.set_floatx(before[1])
    config.set_dtype_policy(before[2])


def under(*names):
    """Runs a test under some of the settings: `set_up` changes Keras to them."""
    return pytest.mark.parametrize("set_up", [SETTINGS[name] for name in names], ids=names)


every_setting = under(*SETTINGS)
# One of each kind, for what takes long.
some_settings = under("channels_first", "floatx=float16")


# What is found under the default settings.
_EXPECTED = {}


def check_same(set_up, name, compute, rtol=0.0):
    """Computes arrays with Keras' own settings and with others, and compares them."""
    if name not in _EXPECTED:
        _EXPECTED[name] = compute()
    set_up()
    received, expected = compute(), _EXPECTED[name]
    assert len(received) == len(expected)
    for array, right in zip(received, expected, strict=True):
        assert np.asarray(array).dtype == np.asarray(right).dtype
        np.testing.assert_allclose(array, right, rtol=rtol, atol=rtol)


def make_classifier():
    """A classifier that says for itself what it computes in."""
    keras.utils.set_random_seed(0)
    options = {"data_format": "channels_last", "dtype": "float32"}
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), dtype="float32"),
            keras.layers.Conv2D(4, 3, strides=2, activation="relu", **options),
            keras.layers.Flatten(**options),
            keras.layers.Dense(10, dtype="float32"),
        ]
    )


def protected_classifier(classifier):
    restorer = keras_trn.TwoStreamRestorationNetwork(4, 1, dtype="float32")
    gradient_map = MAPS.EstimatedLabel(width=4, depth=1)
    return keras_trn.ProtectedClassifier(classifier, restorer, gradient_map)


@pytest.mark.slow
@some_settings
@pytest.mark.parametrize("name", ["protected", "adversarial_training"])
def test_training_leads_to_the_same_whatever_the_settings(name, set_up, digits, tmp_path):
    images, labels = digits[0][:32], digits[1][:32]

    def train():
        learner = learned(name, make_classifier(), dtype="float32")
        history = learner.fit(
            images, labels, validation_data=(images, labels), epochs=2, shuffle=False, verbose=0
        )
        learner.save(tmp_path / "learner.keras")
        loaded = keras.models.load_model(tmp_path / "learner.keras")
        evaluated = learner.evaluate(images, labels, verbose=0, return_dict=True)
        restore = getattr(learner, "restore", learner.predict)
        return [
            *map(np.array, history.history.values()),
            *(np.array(evaluated[name]) for name in sorted(evaluated)),
            *learner.get_weights(),
            learner.predict(images, verbose=0),
            learner.predict_on_batch(images),
            loaded.predict(images, verbose=0),
            restore(images),
        ]

    check_same(set_up, name, train)


@pytest.mark.slow
@under("channels_first", "floatx=float16", "floatx=float64", "mixed_float16")
def test_preset_predicts_the_same_whatever_the_settings(set_up):
    images = np.random.default_rng(0).random((4, 28, 28, 1), dtype="float32")

    def predict():
        protected = keras_trn.ProtectedClassifier.from_preset("trn_fashion_mnist")
        return [protected.predict(images, verbose=0), protected(images), protected.restore(images)]

    check_same(set_up, "preset", predict)


@pytest.mark.slow
@some_settings
@pytest.mark.parametrize("name", ATTACK_ARGUMENTS)
def test_attack_crafts_the_same_whatever_the_settings(name, set_up, digits):
    def craft():
        attack = getattr(ATTACKS, name)(0.25, seed=0, **ATTACK_ARGUMENTS[name])
        return [attack(make_classifier(), digits[0][:4], digits[1][:4])]

    check_same(set_up, name, craft)


@pytest.mark.slow
@every_setting
def test_gradient_maps_are_the_same_whatever_the_settings(set_up, digits):
    images, labels = tf.constant(digits[0][:4]), tf.constant(digits[1][:4])

    def estimate():
        classifier = make_classifier()
        maps = [MAPS.PredictedLabel(), MAPS.UniformLabel(), MAPS.TrueLabel()]
        maps.append(MAPS.EstimatedLabel(width=4, depth=1))
        maps[-1].build_for((8, 8, 1), 10)
        return [one(images, classifier=classifier, labels=labels) for one in maps]

    check_same(set_up, "maps", estimate)


@pytest.mark.slow
@every_setting
def test_filters_are_the_same_whatever_the_settings(set_up, digits):
    filters = [
        BASELINES.JpegCompression,
        BASELINES.BitDepthReduction,
        BASELINES.MedianSmoothing,
        BASELINES.TotalVariationMinimization,
    ]

    def restore():
        baselines = [make_filter(make_classifier()) for make_filter in filters]
        images = digits[0][:4]
        results = [
            (baseline.restore(images), baseline.predict(images, verbose=0))
            for baseline in baselines
        ]
        return [result for pair in results for result in pair]

    check_same(set_up, "filters", restore)


@pytest.mark.slow
@every_setting
def test_layers_are_the_same_whatever_the_settings(set_up):
    features = np.random.default_rng(0).normal(size=(2, 5, 7, 4)).astype("float32")

    def compute():
        keras.utils.set_random_seed(0)
        block = LAYERS.ResidualBlock(dtype="float32")
        block(features)
        block.second.kernel.assign(block.first.kernel)
        layers = [block, LAYERS.AttackGate, LAYERS.PixelShuffle, LAYERS.PixelUnshuffle]
        layers = [layer(dtype="float32") if isinstance(layer, type) else layer for layer in layers]
        fused = LAYERS.FusionBlock(dtype="float32")([features, features[::-1]])
        return [*(layer(features) for layer in layers), *fused]

    check_same(set_up, "layers", compute)


@pytest.mark.slow
@every_setting
def test_measurement_is_the_same_whatever_the_settings(set_up, digits):
    data = tf.data.Dataset.from_tensor_slices((digits[0][:24], digits[1][:24])).batch(24)
    attack = ATTACKS.FastGradientMethod(0.2)
    measures = ["accuracy", "agreement", "attacked_psnr", "restored_ssim"]

    def measure():
        classifier = make_classifier()
        defences = {"bare": classifier, "jpeg": BASELINES.JpegCompression(classifier)}
        cells = keras_trn.evaluation.measure(defences, data, [attack], verbose=0)
        return [np.array([cell.get(name, 0.0) for name in measures]) for cell in cells]

    check_same(set_up, "measurement", measure)


# --- What follows the settings on purpose, and what they cannot be ---------------------


def test_new_restorer_computes_as_the_global_policy_says():
    keras.config.set_dtype_policy("mixed_bfloat16")
    restorer = keras_trn.TwoStreamRestorationNetwork(4, 1)
    images = np.random.default_rng(0).random((2, 8, 8, 1), dtype="float32")
    assert restorer(images, gradient_maps=images).dtype == "float32"
    assert restorer.image_stem.compute_dtype == "bfloat16"
    assert {weight.dtype for weight in restorer.weights} == {"float32"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_restorer_with_half_precision_in_its_weights_is_refused(dtype):
    keras.config.set_dtype_policy(dtype)
    with pytest.raises(ValueError, match=f"weights in {dtype}.*set_dtype_policy.*floatx"):
        keras_trn.TwoStreamRestorationNetwork()
    with pytest.raises(ValueError, match=f"'mixed_{dtype}'"):
        keras_trn.TwoStreamRestorationNetwork(dtype=dtype)
    assert keras_trn.TwoStreamRestorationNetwork(dtype="float32").dtype_policy.name == "float32"


@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.Conv2D(4, 3, padding="same"),
        lambda: keras.layers.MaxPooling2D(padding="same"),
        lambda: keras.Sequential([keras.layers.ZeroPadding2D()]),
    ],
)
def test_classifier_that_takes_the_channels_first_is_refused(layer):
    keras.config.set_image_data_format("channels_first")
    classifier = keras.Sequential(
        [keras.Input((8, 8, 1)), layer(), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    with pytest.raises(ValueError, match=r"data_format='channels_first'.*image_data_format"):
        keras_trn.ProtectedClassifier(classifier)


def test_flattening_with_the_channels_first_does_no_harm(digits):
    keras.config.set_image_data_format("channels_first")
    classifier = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    protected = protected_classifier(classifier)
    np.testing.assert_allclose(protected(digits[0]), classifier(digits[0]), atol=1e-6)


def test_float32_is_taken_for_a_while_and_given_back():
    numbers("float16")
    with pytest.raises(KeyError), float32_numbers():
        assert keras.config.floatx() == "float32"
        raise KeyError
    assert keras.config.floatx() == "float16"
    assert keras.config.dtype_policy().name == "float16"
