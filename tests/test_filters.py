"""Every filter keeps one contract, and computes what the library behind it computes."""

import io
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage
from skimage.restoration import denoise_tv_bregman

import keras_trn
from keras_trn import baselines
from keras_trn.baselines.image_filter import ImageFilter


class Entry(NamedTuple):
    """A filter, the digits that it keeps recognisable, and the arguments that it refuses."""

    filter_class: type
    least_accuracy: float
    refused: tuple[tuple[dict[str, Any], str], ...]
    is_exportable: bool = False


CONTRACT = {
    "jpeg": Entry(
        baselines.JpegCompression,
        0.9,
        (
            ({"quality": 0}, "quality .* from 1 to 95, received 0"),
            ({"quality": 96}, "received 96"),
            ({"quality": 75.0}, "whole number"),
        ),
    ),
    "bit_depth": Entry(
        baselines.BitDepthReduction,
        0.9,
        (({"bits": 0}, "bits .* from 1 to 8, received 0"), ({"bits": 9}, "received 9")),
        is_exportable=True,
    ),
    "median": Entry(
        baselines.MedianSmoothing,
        0.7,
        (({"size": 2}, "odd .* received 2"), ({"size": 1}, "received 1")),
    ),
    "total_variation": Entry(
        baselines.TotalVariationMinimization,
        0.85,
        (
            ({"weight": 0}, "weight .* from 1e-06 to inf, received 0"),
            ({"weight": float("inf")}, "received inf"),
        ),
    ),
}
# Every other exported filter must keep the contract with its default settings.
_LISTED = {entry.filter_class for entry in CONTRACT.values()}
CONTRACT |= {
    name: Entry(value, least_accuracy=0.5, refused=())
    for name, value in vars(baselines).items()
    if isinstance(value, type) and issubclass(value, ImageFilter) and value not in _LISTED
}
every_filter = pytest.mark.parametrize("entry", CONTRACT.values(), ids=CONTRACT)


def untrained_classifier(channels=1):
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


def accuracy(model, images, labels):
    return np.mean(model.predict(images, verbose=0).argmax(-1) == labels)


def noise(*shape):
    return np.random.default_rng(0).random((6, *shape), dtype="float32")


# --- What all filters have in common ----------------------------------------------------


@pytest.mark.slow
@every_filter
@pytest.mark.parametrize("channels", [1, 2, 3, 13])
def test_filter_treats_each_image_of_any_shape_separately(entry, channels):
    filtered = entry.filter_class(untrained_classifier(channels))
    for size in [(11, 14), (32, 32), (3, 5)]:
        images = noise(*size, channels)
        restored = filtered.restore(images)
        assert restored.shape == images.shape and restored.dtype == np.float32
        assert restored.min() >= 0 and restored.max() <= 1
        assert not np.array_equal(restored, images)
        np.testing.assert_array_equal(filtered.restore(images[1:2]), restored[1:2])
        np.testing.assert_array_equal(filtered.restore(images[::-1])[::-1], restored)


@pytest.mark.slow
@every_filter
def test_filter_gives_the_same_in_every_mode(entry):
    filtered = entry.filter_class(untrained_classifier())
    images = noise(8, 8, 1)
    expected = filtered.classifier.predict(filtered.restore(images), verbose=0)
    compiled = tf.function(filtered)(tf.constant(images))
    for logits in (filtered(images), compiled, filtered.predict(images, verbose=0)):
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


@every_filter
@pytest.mark.parametrize("in_graph", [False, True])
def test_gradient_of_a_filter_is_zero_and_not_missing(entry, in_graph):
    filtered = entry.filter_class(untrained_classifier())

    def gradient(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = filtered(images)
        return tape.gradient(logits, images)

    gradient = tf.function(gradient) if in_graph else gradient
    np.testing.assert_array_equal(gradient(tf.constant(noise(8, 8, 1))), 0.0)


@pytest.mark.slow
@every_filter
def test_filter_recognises_benign_digits_and_bpda_breaks_it(entry, classifier, digits):
    filtered = entry.filter_class(classifier)
    assert accuracy(filtered, *digits) >= entry.least_accuracy
    images, labels = digits[0][:32], digits[1][:32]
    attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.3, steps=5, seed=0)
    blind = attack(filtered, images, labels)
    bpda = attack(keras_trn.threat_models.BPDA().target(filtered), images, labels)
    assert accuracy(filtered, bpda, labels) < accuracy(filtered, blind, labels)


@every_filter
def test_wrong_argument_of_a_filter_is_refused(entry):
    for arguments, message in entry.refused:
        with pytest.raises(ValueError, match=message):
            entry.filter_class(untrained_classifier(), **arguments)


@every_filter
def test_filters_in_numpy_refuse_to_be_exported(entry, tmp_path):
    filtered = entry.filter_class(untrained_classifier())
    if entry.is_exportable:
        filtered.export(tmp_path / "filter", verbose=False)
    else:
        with pytest.raises(ValueError, match="filters images with NumPy"):
            filtered.export(tmp_path / "filter")
    assert (tmp_path / "filter").exists() == entry.is_exportable


def test_the_base_names_the_method_that_is_missing():
    with pytest.raises(NotImplementedError, match="ImageFilter does not define `filter_array`"):
        ImageFilter(untrained_classifier()).filter_array(noise(8, 8, 1))


# --- JPEG -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8, 1), (12, 20, 1), (32, 32, 3), (12, 10, 4)])
def test_jpeg_agrees_with_pillow(shape):
    images = noise(*shape)
    compress = baselines.JpegCompression(untrained_classifier(shape[-1]), quality=30)
    pixels, received = np.round(images * 255).astype("uint8"), 255 * compress.restore(images)
    for image, restored in zip(pixels, received, strict=True):
        parts = [image] if shape[-1] == 3 else np.moveaxis(image, -1, 0)
        expected = []
        for part in parts:
            file = io.BytesIO()
            Image.fromarray(part).save(file, "JPEG", quality=30)
            expected.append(np.asarray(Image.open(file)))
        expected = expected[0] if shape[-1] == 3 else np.stack(expected, axis=-1)
        np.testing.assert_array_equal(np.round(restored), expected)


def test_jpeg_takes_more_grey_images_than_fit_in_one_picture():
    images = np.random.default_rng(0).random((3, 40_000, 8, 1), dtype="float32")
    compressed = baselines.JpegCompression(untrained_classifier())
    alone = np.concatenate([compressed.restore(image[None]) for image in images])
    np.testing.assert_array_equal(compressed.restore(images), alone)


def test_jpeg_of_lower_quality_changes_the_image_more(classifier, digits):
    images, _ = digits
    distances = [
        np.abs(baselines.JpegCompression(classifier, quality).restore(images) - images).mean()
        for quality in (10, 50, 90)
    ]
    assert distances == sorted(distances, reverse=True)


# --- Bits, median and total variation ---------------------------------------------------


def test_bits_are_rounded_to_evenly_spaced_levels():
    images = np.linspace(0, 1, 64, dtype="float32").reshape(1, 8, 8, 1)
    restored = baselines.BitDepthReduction(untrained_classifier(), bits=2).restore(images)
    np.testing.assert_allclose(np.unique(restored), [0, 1 / 3, 2 / 3, 1], rtol=1e-6)
    assert np.abs(restored - images).max() <= 1 / 6 + 1e-6
    eight_bits = (np.arange(64, dtype="float32") * 4 / 255).reshape(1, 8, 8, 1)
    restored = baselines.BitDepthReduction(untrained_classifier(), bits=8).restore(eight_bits)
    np.testing.assert_allclose(restored, eight_bits, rtol=1e-6)


def test_median_agrees_with_scipy_and_removes_a_lone_pixel():
    smoothed = baselines.MedianSmoothing(untrained_classifier(3), size=5)
    images = noise(9, 9, 3)
    for image, received in zip(images, smoothed.restore(images), strict=True):
        for channel in range(3):
            expected = ndimage.median_filter(image[..., channel], 5, mode="reflect")
            np.testing.assert_array_equal(received[..., channel], expected)
    lone_pixel = np.zeros((1, 9, 9, 3), "float32")
    lone_pixel[0, 4, 4] = 1
    assert smoothed.restore(lone_pixel).max() == 0


def test_total_variation_agrees_with_scikit_image_and_falls():
    images = noise(8, 8, 3)
    smoothed = baselines.TotalVariationMinimization(untrained_classifier(3), weight=3.0)
    restored = smoothed.restore(images)
    for image, received in zip(images, restored, strict=True):
        for channel in range(3):
            expected = denoise_tv_bregman(image[..., channel], weight=3.0)
            np.testing.assert_allclose(received[..., channel], expected, rtol=1e-6)
    variations = [tf.image.total_variation(tf.constant(batch)) for batch in (restored, images)]
    assert np.all(variations[0] < 0.8 * variations[1])
