"""Oblong images, images of any number of channels, and images whose size is not fixed."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from defences import learned
from test_numpy_numbers import ATTACK_ARGUMENTS

import keras_trn
from keras_trn.evaluation import plots
from keras_trn.evaluation.report import PictureRow
from tests.helpers import random_images

ATTACKS = keras_trn.attacks
MAPS = keras_trn.gradient_maps
BASELINES = keras_trn.baselines
# Sizes that differ from batch to batch: oblong, odd, and smaller than a block of JPEG.
SIZES = [(11, 14), (14, 11), (3, 5)]
every_number_of_channels = pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])


def make_classifier(channels):
    """A classifier of images of any size."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((None, None, channels)),
            keras.layers.Conv2D(4, 3, padding="same", activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )


def batches_of_every_size(channels):
    """A pipeline whose batches differ in size."""

    def batches():
        for size in SIZES:
            yield random_images(4, *size, channels), np.arange(4)

    signature = (tf.TensorSpec((None, None, None, channels)), tf.TensorSpec((None,), tf.int64))
    return tf.data.Dataset.from_generator(batches, output_signature=signature)


# --- Attacks -------------------------------------------------------------------------


def make_attack(name):
    if name == "CarliniWagner":
        # It returns the clean image unless it finds one that is misclassified.
        return ATTACKS.CarliniWagner(5.0, steps=20, search_steps=4)
    return getattr(ATTACKS, name)(0.5, seed=0, **ATTACK_ARGUMENTS[name])


def assert_inside(adversarial, images, attack):
    change = (adversarial.numpy() - images).reshape(len(images), -1)
    distances = np.abs(change).max(-1) if attack.norm == "linf" else np.linalg.norm(change, axis=-1)
    assert distances.max() > 0
    # Without a projection, noise and step add up.
    reach = 1 if attack.stays_in_ball else attack.noise + attack.step_size
    assert distances.max() <= reach * attack.epsilon + 1e-5
    assert adversarial.numpy().min() >= 0 and adversarial.numpy().max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("channels", [2, 13])
@pytest.mark.parametrize("name", ATTACK_ARGUMENTS)
def test_attack_takes_images_of_any_shape(name, channels):
    classifier = make_classifier(channels)
    attack = make_attack(name)
    for size in SIZES:
        images = random_images(4, *size, channels)
        assert_inside(attack(classifier, images), images, attack)


# --- What learns ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("protected", 2),
        ("HGD", 4),
        ("APE-GAN", 13),
        ("adversarial_training", 2),
    ],
)
def test_training_takes_batches_of_different_sizes(name, channels, tmp_path):
    learner = learned(name, make_classifier(channels))
    data = batches_of_every_size(channels)
    before = [weight.numpy() for weight in learner.trainable_variables]
    history = learner.fit(data, validation_data=data, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())
    assert not all(map(np.array_equal, before, learner.trainable_variables))
    assert np.isfinite(learner.evaluate(data, verbose=0)).all()
    together = learner.predict(data, verbose=0)
    alone = [learner.predict(images, verbose=0) for images, _ in data]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    np.testing.assert_allclose(loaded.predict(data, verbose=0), together, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [2, 13])
def test_maps_and_restorations_have_the_shape_of_the_images(channels):
    protected = learned("protected", make_classifier(channels))
    for size in SIZES:
        images = random_images(3, *size, channels)
        np.testing.assert_array_equal(protected.restore(images), images)
        maps = protected.estimate_gradient_maps(images)
        assert maps.shape == (3, *size, 3 * channels)
        for index in range(2):
            # The map and its squashed copy; the noise estimate of an untrained network is 0.
            one = maps[..., index * channels : (index + 1) * channels]
            assert np.abs(one).max() > 0.1


def test_restorations_of_different_sizes_do_not_fit_into_one_array():
    baseline = BASELINES.BitDepthReduction(make_classifier(1))
    with pytest.raises(
        ValueError, match=r"sizes of 3 x 5, 11 x 14 and 14 x 11 .* one batch at a time"
    ):
        baseline.restore(batches_of_every_size(1))


# --- Pictures -------------------------------------------------------------------------


@pytest.fixture
def axis():
    return keras_trn.visualization.new_figure().subplots()


@pytest.mark.parametrize("size", [(5, 7), (1, 7), (5, 1), (1, 1)])
@every_number_of_channels
def test_image_of_any_shape_is_shown(axis, size, channels):
    image = random_images(1, *size, channels)[0]
    keras_trn.visualization.show_image(axis, image, predicted=1, label=1)
    (shown,) = axis.images
    expected = image if channels == 3 else image.mean(-1)
    np.testing.assert_array_equal(shown.get_array(), expected)
    assert shown.get_clim() == (0, 1)
    axis.figure.canvas.draw()


@every_number_of_channels
def test_map_of_any_shape_is_shown(axis, channels):
    gradient_map = random_images(1, 5, 7, channels)[0] - 0.5
    keras_trn.visualization.show_map(axis, gradient_map)
    np.testing.assert_allclose(axis.images[0].get_array(), gradient_map.mean(-1), atol=1e-7)
    axis.figure.canvas.draw()


def test_restorations_without_a_gradient_map_are_shown_in_three_columns(axis):
    restorer = keras_trn.RestorationAutoencoder(4, 1, 2)
    protected = keras_trn.ProtectedClassifier(make_classifier(3), restorer)
    images = random_images(2, 6, 9, 3)
    figure = keras_trn.visualization.plot_restorations(
        protected, images, np.array([1, 2]), ATTACKS.FastGradientMethod(0.1)
    )
    assert len(figure.axes) == 2 * 3
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), images[0], atol=1e-7)
    restored = protected.restore(figure.axes[1].images[0].get_array()[None])
    np.testing.assert_allclose(figure.axes[2].images[0].get_array(), restored[0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [2, 4])
def test_restorations_are_shown_whatever_the_channels(axis, channels):
    protected, images = (
        learned("protected", make_classifier(channels)),
        random_images(2, 6, 9, channels),
    )
    figure = keras_trn.visualization.plot_restorations(
        protected, images, np.array([1, 2]), ATTACKS.FastGradientMethod(0.1)
    )
    shown = [axis.images[0].get_array() for axis in figure.axes]
    assert {picture.shape for picture in shown} == {(6, 9)}
    np.testing.assert_allclose(shown[0], images[0].mean(-1), atol=1e-7)
    figure.canvas.draw()


@every_number_of_channels
def test_report_shows_pictures_whatever_the_channels(axis, channels):
    images = random_images(2, 6, 9, channels)
    states = ["attacked", "restored"]
    report = keras_trn.evaluation.Report(
        defences=["bare"],
        evaluated="bare",
        cells=[],
        checks={},
        settings={},
        environment={},
        seconds=0.0,
        pictures=[PictureRow("benign", images, states, np.array([1, 2]), np.array([1, 1]))],
    )
    figure = plots.plot_pictures(report)
    for shown, image in zip(figure.axes, images, strict=True):
        expected = image if channels == 3 else image.mean(-1)
        np.testing.assert_array_equal(shown.images[0].get_array(), expected)
    figure.canvas.draw()
