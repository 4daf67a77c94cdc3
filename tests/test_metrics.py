"""The peak signal-to-noise ratio and the structural similarity are the textbook's."""

import keras
import numpy as np
import pytest
import skimage.metrics

from keras_trn.metrics import PeakSignalToNoiseRatio
from keras_trn.metrics import peak_signal_to_noise_ratio
from keras_trn.metrics import structural_similarity


@pytest.fixture
def image_pairs():
    generator = np.random.default_rng(0)
    return generator.random((2, 5, 8, 8, 3), dtype="float32")


def test_ratio_follows_the_formula_for_each_image(image_pairs):
    images, restored = image_pairs
    expected = [
        10 * np.log10(1.0 / np.mean((image - copy) ** 2))
        for image, copy in zip(images, restored, strict=True)
    ]
    ratios = peak_signal_to_noise_ratio(images, restored)
    assert ratios.shape == (5,)
    np.testing.assert_allclose(ratios, expected, rtol=1e-5)


@pytest.mark.parametrize(("difference", "decibels"), [(1.0, 0.0), (0.1, 20.0), (0.01, 40.0)])
def test_ratio_of_a_constant_difference(difference, decibels):
    images = np.zeros((1, 4, 4, 1), "float32")
    ratio = peak_signal_to_noise_ratio(images, images + np.float32(difference))
    np.testing.assert_allclose(ratio, [decibels], atol=1e-3)


def test_ratio_of_equal_images_is_finite(image_pairs):
    images, _ = image_pairs
    np.testing.assert_allclose(peak_signal_to_noise_ratio(images, images), 100.0, rtol=1e-5)


def test_metric_is_the_mean_over_all_images_of_all_batches(image_pairs):
    images, restored = image_pairs
    metric = PeakSignalToNoiseRatio()
    metric.update_state(images[:2], restored[:2])
    metric.update_state(images[2:], restored[2:])
    expected = np.mean(peak_signal_to_noise_ratio(images, restored))
    assert float(metric.result()) == pytest.approx(expected, rel=1e-5)
    metric.reset_state()
    assert np.isnan(metric.result())


def test_metric_config_round_trip(image_pairs):
    metric = PeakSignalToNoiseRatio(name="some_name")
    serialized = keras.saving.serialize_keras_object(metric)
    copy = keras.saving.deserialize_keras_object(serialized)
    assert type(copy) is PeakSignalToNoiseRatio
    assert copy.name == "some_name"
    assert copy.get_config() == metric.get_config()
    copy.update_state(*image_pairs)
    metric.update_state(*image_pairs)
    assert float(copy.result()) == float(metric.result())


@pytest.mark.parametrize("side", [11, 28])
@pytest.mark.parametrize("channels", [1, 3])
def test_structural_similarity_is_that_of_scikit_image(side, channels):
    random = np.random.default_rng(0)
    images = random.random((3, side, side, channels), dtype="float32")
    restored = np.clip(images + 0.1 * random.normal(size=images.shape), 0, 1).astype("float32")
    expected = [
        skimage.metrics.structural_similarity(
            image,
            other,
            data_range=1.0,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for image, other in zip(images, restored, strict=True)
    ]
    similarity = structural_similarity(images, restored)
    np.testing.assert_allclose(similarity, expected, atol=1e-4)
    np.testing.assert_allclose(structural_similarity(images, images), 1, atol=1e-5)


def test_structural_similarity_of_images_smaller_than_its_window():
    images = np.random.default_rng(0).random((2, 8, 8, 1), dtype="float32")
    np.testing.assert_allclose(structural_similarity(images, images), 1, atol=1e-5)
    assert np.all(structural_similarity(images, 1 - images) < 0)
