"""Gradient maps of classifiers with resizing inside are differentiated correctly."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from keras_trn.logits import logits_function

layers = keras.layers
BOXES = tf.constant([[0.1, 0.1, 0.8, 0.9]] * 3)
OPERATIONS = {
    "Resizing bilinear": layers.Resizing(9, 7),
    "Resizing nearest": layers.Resizing(9, 7, interpolation="nearest"),
    "Resizing bicubic": layers.Resizing(9, 7, interpolation="bicubic"),
    "Resizing lanczos": layers.Resizing(9, 7, interpolation="lanczos5"),
    "Resizing, cropped": layers.Resizing(7, 5, crop_to_aspect_ratio=True),
    "Resizing, padded": layers.Resizing(7, 5, pad_to_aspect_ratio=True),
    "UpSampling bilinear": layers.UpSampling2D(2, interpolation="bilinear"),
    "UpSampling bicubic": layers.UpSampling2D(2, interpolation="bicubic"),
    "smaller": lambda images: tf.image.resize(images, (3, 4)),
    "aligned corners": lambda images: tf.compat.v1.image.resize_bilinear(
        images, (9, 7), align_corners=True
    ),
    "antialiased": lambda images: tf.image.resize(images, (3, 4), antialias=True),
    "gaussian": lambda images: tf.image.resize(images, (3, 4), method="gaussian"),
    "mitchellcubic": lambda images: tf.image.resize(images, (9, 4), method="mitchellcubic"),
    "crops": lambda images: tf.image.crop_and_resize(images, BOXES, tf.range(3), (5, 5)),
    "keras.ops": lambda images: keras.ops.image.resize(images, (9, 9), interpolation="bicubic"),
    "softsign": lambda images: tf.nn.softsign(3.0 * images - 1.0),
}


class Scores(layers.Layer):
    """Two smooth scores of what an operation makes of images."""

    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    def call(self, images):
        features = tf.cast(self.operation(images), tf.float32)
        sums = [
            tf.reduce_sum(tf.tanh(features) ** 2, axis=[1, 2, 3]),
            tf.reduce_sum(tf.sin(2.0 * features), axis=[1, 2, 3]),
        ]
        return tf.stack(sums, axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_derivative_of_the_gradient_is_that_of_finite_differences(operation, mode):
    generator = np.random.default_rng(0)

    def draw(*shape):
        return tf.constant(generator.normal(size=shape), tf.float32)

    images = tf.constant(generator.random((3, 8, 6, 2)), tf.float32)
    direction, weights, way = draw(3, 2), draw(3, 8, 6, 2), draw(3, 8, 6, 2)
    logits = logits_function(Scores(operation))

    def weighted_gradient(images):
        _, vjp = logits.with_vjp(images)
        return tf.reduce_sum(vjp(direction) * weights)

    def derivative(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            value = weighted_gradient(images)
        return tape.gradient(value, images)

    compute = derivative if mode == "eager" else tf.function(derivative, autograph=False)
    by_tape = float(tf.reduce_sum(compute(images) * way))
    step = 1e-3
    ahead, behind = (weighted_gradient(images + sign * step * way) for sign in (1, -1))
    by_differences = float(ahead - behind) / (2 * step)
    # Softsign has a kink at 0, which differences may step over.
    assert by_tape == pytest.approx(by_differences, rel=0.03, abs=0.02)


def test_first_gradient_of_bilinear_resizing_is_as_tensorflow_has_it():
    images = tf.random.stateless_uniform((2, 5, 6, 1), [0, 0])
    with tf.GradientTape() as tape:
        tape.watch(images)
        resized = tf.image.resize(images, (8, 9))
        score = tf.reduce_sum(resized**2)
    expected = tf.raw_ops.ResizeBilinearGrad(
        grads=2.0 * resized, original_image=images, half_pixel_centers=True
    )
    np.testing.assert_array_equal(tape.gradient(score, images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest", "bicubic"])
def test_the_full_white_box_goes_through_the_map(interpolation, digits):
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Resizing(16, 16, interpolation=interpolation),
            layers.Conv2D(8, 3, strides=2, activation="tanh"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    protected = keras_trn.ProtectedClassifier(
        classifier,
        keras_trn.TwoStreamRestorationNetwork(width=4, depth=1),
        keras_trn.gradient_maps.UniformLabel(),
    )
    correction = protected.restorer.correction
    correction.kernel.assign(keras.random.normal(correction.kernel.shape, seed=0))
    images = tf.constant(0.25 + 0.5 * digits[0][:8])
    picked = tf.one_hot(digits[1][:8], 10)

    def gradient(threat_model):
        target = threat_model.target(protected)
        with tf.GradientTape() as tape:
            tape.watch(images)
            score = tf.reduce_sum(target(images) * picked)
        return tape.gradient(score, images).numpy()

    full = gradient(keras_trn.threat_models.WhiteboxFull())
    through_map = full - gradient(keras_trn.threat_models.WhiteboxStopgrad())
    assert np.linalg.norm(through_map) > 0.1 * np.linalg.norm(full)
