"""The autoencoder draws images of any size, and learns in front of a frozen classifier."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from keras_trn import RestorationAutoencoder
from tests.helpers import random_images
from tests.helpers import randomize


def make_network(images, **options):
    network = RestorationAutoencoder(**{"width": 8, "depth": 2, **options})
    network.build(images.shape)
    randomize(network, scale=0.3)
    return network


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [2, 4, 8])
@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 9, 3), (1, 5, 2)])
def test_restored_images_have_the_shape_and_the_range_of_images(shape, block_size):
    images = random_images(2, *shape)
    restored = make_network(images, block_size=block_size)(images)
    assert restored.shape == images.shape and restored.dtype == tf.float32
    assert 0 <= restored.numpy().min() < restored.numpy().max() <= 1


def test_untrained_network_draws_gray_images():
    images = random_images(2, 8, 8, 1)
    gray = RestorationAutoencoder(width=8)(images)
    np.testing.assert_array_equal(gray, np.full_like(images, 0.5))


def test_restored_image_does_not_depend_on_the_batch():
    images = random_images(4, 9, 7, 3)
    network = make_network(images)
    np.testing.assert_allclose(network(images)[:1], network(images[:1]), atol=1e-5)


def test_every_weight_is_used():
    images = random_images(2, 8, 8, 3)
    network = make_network(images)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(network(images, training=True))
    assert None not in tape.gradient(total, network.trainable_variables)


def test_saved_network_loads_with_identical_outputs(tmp_path):
    images = random_images(2, 8, 8, 3)
    network = make_network(images, block_size=2, depth=1, name="some_name")
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded(images), network(images))
    assert loaded.name == "some_name"


def test_mixed_precision_returns_float32():
    images = random_images(2, 8, 8, 1)
    network = make_network(images, dtype="mixed_float16")
    assert network(images).dtype == tf.float32
    assert RestorationAutoencoder.from_config(network.get_config()).dtype_policy.name == (
        "mixed_float16"
    )


def test_network_built_for_unknown_sides_takes_every_size():
    network = RestorationAutoencoder(width=4)
    network.build((None, None, None, 3))
    randomize(network)
    for side in (5, 8, 12):
        assert network(random_images(1, side, side + 1, 3)).shape == (1, side, side + 1, 3)


@pytest.mark.parametrize("block_size", [1, 3, 6])
def test_blocks_that_are_no_power_of_two_are_refused(block_size):
    with pytest.raises(ValueError, match=f"power of two, received {block_size}"):
        RestorationAutoencoder(block_size=block_size)


@pytest.mark.slow
def test_fit_updates_the_statistics_of_the_restorer_alone(normalized_classifier, digits):
    images, labels = digits[0][:64], digits[1][:64]
    frozen = [weight.numpy() for weight in normalized_classifier.weights]
    protected = keras_trn.ProtectedClassifier(
        normalized_classifier, RestorationAutoencoder(width=8, depth=1, block_size=2)
    )
    before = [weight.numpy() for weight in protected.restorer.non_trainable_weights]
    attack = keras_trn.attacks.FastGradientMethod(0.1)
    protected.compile(attack=attack, threat_model="whitebox_full")
    protected.fit(images, labels, verbose=0)
    after = [weight.numpy() for weight in protected.restorer.non_trainable_weights]
    assert not any(map(np.array_equal, before, after))
    protected.evaluate(images, labels, verbose=0)
    for weight, other in zip(protected.restorer.non_trainable_weights, after, strict=True):
        np.testing.assert_array_equal(weight, other)
    for weight, other in zip(normalized_classifier.weights, frozen, strict=True):
        np.testing.assert_array_equal(weight, other)


@pytest.fixture
def normalized_classifier():
    """A classifier with batch normalization."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


@pytest.mark.slow
def test_training_attacks_the_function_that_learns(normalized_classifier, digits):
    images, labels = digits[0][:32], digits[1][:32]
    restorer = RestorationAutoencoder(width=8, depth=1, block_size=2)
    protected = keras_trn.ProtectedClassifier(normalized_classifier, restorer)
    randomize(restorer)
    modes = []
    call = restorer.call

    def recorded(images, training=None):
        modes.append(training)
        return call(images, training=training)

    restorer.call = recorded
    attack = keras_trn.attacks.FastGradientMethod(0.1)
    two_samples = keras_trn.threat_models.WhiteboxFull(samples=2)
    protected.compile(attack=attack, threat_model=two_samples)
    protected.train_on_batch(images, labels)
    # Traced once in the attack, and once to learn.
    assert modes == [True, True]
    modes.clear()
    protected.test_on_batch(images, labels)
    protected.predict(images, verbose=0)
    assert modes and not any(modes)
