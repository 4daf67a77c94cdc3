"""What several test files share: a small trained classifier, and real digits."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# Several processes share one GPU, where there is one.
os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
# Each core has a process of its own, and small images gain nothing from more threads.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import keras
import pytest
import tensorflow as tf

import keras_trn

# The files that take longest, longest first.
LONGEST = (
    "test_tutorials.py",
    "test_doc_examples.py",
    "test_evaluation.py",
    "test_cluster.py",
    "test_survival.py",
    "test_preset_experiments.py",
    "test_checks.py",
    "test_tutorials_of_photographs.py",
)


def pytest_collection_modifyitems(items):
    """Starts with the files that take longest, lest one process waits for the other."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


def pytest_runtest_setup(item):
    """Skips what needs the larger data sets where they are not at hand."""
    if item.get_closest_marker("real_data") and "TFDS_DATA_DIR" not in os.environ:
        pytest.skip("TFDS_DATA_DIR is not set, and tests download nothing")
    if item.get_closest_marker("gpu") and not tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow sees no GPU on this machine")


@pytest.fixture(scope="session")
def digits():
    """The test split of the digits: 360 images and their labels, as arrays."""
    _, _, test = keras_trn.datasets.load("digits")
    return keras_trn.datasets.to_arrays(test)


@pytest.fixture(scope="session")
def classifier(digits):
    """A small convolutional classifier of digits; tests must not change it."""
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            # Strides, not max pooling: XLA passes the gradient of tied pixels to another of them.
            keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    classifier.compile(
        optimizer=keras.optimizers.Adam(3e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    train, _, _ = keras_trn.datasets.load("digits", batch_size=64)
    classifier.fit(train, epochs=15, shuffle=False, verbose=0)
    _, accuracy = classifier.evaluate(*digits, batch_size=360, verbose=0)
    assert accuracy >= 0.95, f"The shared classifier reaches only {accuracy:.1%}."
    return classifier


@pytest.fixture
def protect():
    """Makes a small compiled protected classifier, which trains in a few seconds."""

    def protect(classifier, gradient_map=None, attack=None, two_streams=True, **compile_kwargs):
        make = (
            keras_trn.TwoStreamRestorationNetwork
            if two_streams
            else keras_trn.SingleStreamRestorationNetwork
        )
        restorer = make(width=4, depth=1, dtype=compile_kwargs.pop("dtype", None))
        if gradient_map is None and two_streams:
            gradient_map = keras_trn.gradient_maps.EstimatedLabel(width=4, depth=1)
        protected = keras_trn.ProtectedClassifier(classifier, restorer, gradient_map)
        attack = attack or keras_trn.attacks.FastGradientMethod(epsilon=0.2)
        compile_kwargs.setdefault("optimizer", keras.optimizers.SGD(0.01))
        compile_kwargs.setdefault("jit_compile", False)
        protected.compile(attack=attack, **compile_kwargs)
        return protected

    return protect


@pytest.fixture
def mixed_float16():
    """Runs a test under the global policy mixed_float16."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(policy)
