"""Each fixed label gives the gradient of its own loss, computed without underflow."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy
from test_gradient_map_contract import Ranked
from test_gradient_map_contract import scaled

from keras_trn import gradient_maps
from keras_trn.gradient_maps.gradient_map import normalize
from keras_trn.logits import cross_entropy_direction


def plain_map(classifier, images, loss):
    """The normalized gradient of a loss of the logits, by `tf.GradientTape` alone."""
    images = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        total = tf.reduce_sum(loss(classifier(images)))
    gradient = tape.gradient(total, images).numpy()
    return gradient / np.sqrt(np.square(gradient).mean(axis=(1, 2, 3), keepdims=True))


def cross_entropy(labels):
    return lambda logits: tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def test_predicted_label_is_the_gradient_of_the_cross_entropy(classifier, digits):
    images, unsure = digits[0][:32], scaled(classifier, 0.1)
    maps = gradient_maps.PredictedLabel()(images, classifier=unsure)
    predicted = np.argmax(unsure(images), axis=-1)
    np.testing.assert_allclose(maps, plain_map(unsure, images, cross_entropy(predicted)), atol=1e-3)


def test_true_label_is_the_gradient_of_the_cross_entropy(classifier, digits):
    images, unsure = digits[0][:32], scaled(classifier, 0.1)
    labels = (digits[1][:32] + 1) % 10
    maps = gradient_maps.TrueLabel()(images, classifier=unsure, labels=labels)
    np.testing.assert_allclose(maps, plain_map(unsure, images, cross_entropy(labels)), atol=1e-3)


def test_uniform_label_is_the_gradient_for_the_uniform_distribution(classifier, digits):
    images = digits[0][:32]
    maps = gradient_maps.UniformLabel()(images, classifier=classifier)

    def loss(logits):
        return tf.nn.softmax_cross_entropy_with_logits(tf.ones_like(logits) / 10, logits)

    np.testing.assert_allclose(maps, plain_map(classifier, images, loss), atol=1e-3)


def test_several_maps_are_the_maps_of_each_label(classifier, digits):
    images = digits[0][:4]
    maps = Ranked(10)(images, classifier=classifier)
    ranked = np.argsort(-classifier(images).numpy(), axis=-1)
    for rank in range(10):
        labels = ranked[:, rank]
        expected = gradient_maps.TrueLabel()(images, classifier=classifier, labels=labels)
        np.testing.assert_allclose(maps[..., rank : rank + 1], expected, atol=1e-5)


# --- Arithmetic -----------------------------------------------------------------------


@st.composite
def logits_and_labels(draw):
    """Random logits of any scale, many of them tied, and label distributions."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(2, 6)))
    scale = draw(st.sampled_from([0.0, 1.0, 30.0, 300.0]))
    values = st.one_of(st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-1, 1, width=32))
    logits = scale * draw(hypothesis_numpy.arrays("float32", shape, elements=values))
    if draw(st.booleans()):
        labels = draw(
            hypothesis_numpy.arrays("int64", shape[:1], elements=st.integers(0, shape[1] - 1))
        )
        return logits, np.eye(shape[1], dtype="float32")[labels]
    weights = draw(hypothesis_numpy.arrays("float32", shape, elements=st.floats(0, 1, width=32)))
    weights = weights + np.float32(1e-3)
    return logits, weights / weights.sum(axis=-1, keepdims=True)


def mean_direction(logits, label_distribution):
    """The mean over classes of the softmax over the other classes minus the one-hot label."""
    logits = logits.astype("float64")
    mean = np.zeros_like(logits)
    for label in range(logits.shape[-1]):
        others = logits.copy()
        others[:, label] = -np.inf
        exponentials = np.exp(others - others.max(axis=-1, keepdims=True))
        direction = exponentials / exponentials.sum(axis=-1, keepdims=True)
        direction[:, label] -= 1
        mean += label_distribution[:, label : label + 1] * direction
    return mean


@hypothesis.given(logits_and_labels())
@hypothesis.settings(max_examples=100, deadline=None)
def test_cross_entropy_direction_is_the_mean_over_the_labels(logits_and_labels):
    logits, label_distribution = logits_and_labels
    direction = cross_entropy_direction(logits, label_distribution).numpy()
    np.testing.assert_allclose(direction, mean_direction(logits, label_distribution), atol=1e-5)
    np.testing.assert_allclose(direction.sum(axis=-1), 0, atol=1e-5)


def test_cross_entropy_direction_is_the_gradient_up_to_its_length():
    logits = np.random.default_rng(0).normal(size=(8, 10)).astype("float32")
    labels = np.arange(8)
    gradient = tf.nn.softmax(logits).numpy() - np.eye(10)[labels]
    direction = cross_entropy_direction(logits, np.eye(10, dtype="float32")[labels]).numpy()
    np.testing.assert_allclose(
        direction / np.linalg.norm(direction, axis=-1, keepdims=True),
        gradient / np.linalg.norm(gradient, axis=-1, keepdims=True),
        atol=1e-5,
    )


@pytest.mark.parametrize("scale", [1e-18, 1e-6, 1.0, 1e18])
def test_normalize_removes_any_length(scale):
    gradient = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype("float32")
    expected = gradient / np.sqrt(np.square(gradient).mean(axis=(1, 2, 3), keepdims=True))
    np.testing.assert_allclose(normalize(scale * gradient), expected, rtol=1e-4)


def test_normalize_keeps_zero_next_to_other_images():
    gradient = np.ones((2, 4, 4, 1), "float32") * np.float32([0, 5]).reshape(2, 1, 1, 1)
    expected = np.sign(gradient)
    np.testing.assert_allclose(normalize(gradient), expected, rtol=1e-6)
