"""Every gradient map keeps one contract; a new one is added to the table below."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_trn import gradient_maps
from keras_trn.logits import cross_entropy_direction


@keras.saving.register_keras_serializable(package="tests")
class Ranked(gradient_maps.GradientMap):
    """A user's own estimator: a map for each of the most likely classes."""

    def __init__(self, number=3, **kwargs):
        super().__init__(**kwargs)
        self.number = number

    def map_channels(self, image_channels, num_classes):
        return self.number * image_channels

    def backward_passes(self, num_classes):
        return self.number

    def directions(self, logits, labels=None):
        ranked = tf.math.top_k(logits, self.number).indices
        one_hot = tf.one_hot(ranked, logits.shape[-1])
        return [cross_entropy_direction(logits, label) for label in tf.unstack(one_hot, axis=1)]

    def get_config(self):
        return {**super().get_config(), "number": self.number}


class Entry(NamedTuple):
    """What is tested: how to make the map, and what it promises."""

    make: Callable
    # Channels of the result for each channel of the image; the first ones are normalized maps.
    channels: int
    normalized: int
    needs_labels: bool = False


def estimated(**config):
    return lambda **kwargs: gradient_maps.EstimatedLabel(width=4, depth=1, **config, **kwargs)


CONTRACT = {
    "predicted": Entry(gradient_maps.PredictedLabel, channels=1, normalized=1),
    "uniform": Entry(gradient_maps.UniformLabel, channels=1, normalized=1),
    "true": Entry(gradient_maps.TrueLabel, channels=1, normalized=1, needs_labels=True),
    "estimated": Entry(estimated(), channels=3, normalized=1),
    "estimated_at_the_end": Entry(
        estimated(position=1, restored_loss_weight=1.0), channels=3, normalized=1
    ),
    "own": Entry(Ranked, channels=3, normalized=3),
}
# Every other exported gradient map must keep the contract with its default settings.
_LISTED = {type(entry.make()) for entry in CONTRACT.values()} | {gradient_maps.GradientMap}
CONTRACT |= {
    name: Entry(value, channels=1, normalized=1, needs_labels=value.needs_labels)
    for name, value in vars(gradient_maps).items()
    if isinstance(value, type)
    and issubclass(value, gradient_maps.GradientMap)
    and value not in _LISTED
}
every_map = pytest.mark.parametrize("entry", CONTRACT.values(), ids=CONTRACT)


def build(entry, channels=1):
    """Makes a gradient map whose weights, if any, are nowhere zero."""
    keras.utils.set_random_seed(0)
    estimator = entry.make()
    estimator.build_for((8, 8, channels), num_classes=10)
    generator = np.random.default_rng(1)
    for variable in estimator.trainable_variables:
        variable.assign(generator.normal(scale=0.1, size=variable.shape))
    return estimator


def estimate(estimator, classifier, images, labels):
    labels = labels if estimator.needs_labels else None
    return estimator(tf.constant(images), classifier=classifier, labels=labels)


def scaled(classifier, factor):
    return lambda images: factor * classifier(images, training=False)


def unconnected(images):
    """A classifier that ignores its images."""
    return tf.zeros([tf.shape(images)[0], 10])


def flat(images):
    """A classifier whose gradient is zero."""
    return tf.reduce_sum(0.0 * images, axis=[1, 2, 3])[:, None] * tf.ones([1, 10])


@pytest.fixture
def few(digits):
    return digits[0][:8], digits[1][:8]


@pytest.mark.slow
@every_map
@pytest.mark.parametrize("channels", [1, 3])
def test_map_has_the_declared_shape_and_type(entry, channels, mixed_float16):
    estimator = build(entry, channels)
    options = {"dtype": "float32"}
    classifier = keras.Sequential(
        [
            keras.Input((8, 8, channels)),
            keras.layers.Flatten(**options),
            keras.layers.Dense(10, **options),
        ]
    )
    images = np.random.default_rng(0).random((4, 8, 8, channels), dtype="float32")
    maps = estimate(estimator, classifier, images, np.arange(4))
    assert estimator.map_channels(channels, 10) == entry.channels * channels
    assert maps.shape == (4, 8, 8, entry.channels * channels)
    assert maps.dtype == tf.float32
    keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(
        estimate(build(entry, channels), classifier, images, np.arange(4)), maps
    )


@every_map
def test_map_costs_the_declared_number_of_backward_passes(entry, classifier, few):
    passes = []

    @tf.custom_gradient
    def counted(images):
        def gradient(upstream):
            passes.append(upstream)
            return upstream

        return tf.identity(images), gradient

    estimator = build(entry)
    estimate(estimator, lambda images: classifier(counted(images), training=False), *few)
    assert len(passes) == estimator.backward_passes(10)


@every_map
def test_prediction_costs_the_declared_number_of_forward_passes(entry, classifier, few):
    passes = []

    def counted(images):
        passes.append(images)
        return classifier(images, training=False)

    estimator = build(entry)
    estimate(estimator, counted, *few)
    assert len(passes) == estimator.forward_passes(10)


@pytest.mark.slow
@every_map
def test_map_of_an_image_does_not_depend_on_its_batch(entry, classifier, digits):
    images, labels = digits[0][:32], digits[1][:32]
    estimator = build(entry)
    together = estimate(estimator, classifier, images, labels)
    for batch in (slice(20, 21), slice(20, 27)):
        maps = estimate(estimator, classifier, images[batch], labels[batch])
        np.testing.assert_allclose(maps, together[batch], atol=1e-5)


@pytest.mark.slow
@every_map
@pytest.mark.parametrize("factor", [0.1, 1.0, 300.0])
def test_map_is_normalized_and_never_vanishes(entry, factor, classifier, digits):
    images, labels = digits[0][:32], digits[1][:32]
    answer = scaled(classifier, factor)
    if factor == 300.0:
        # The plain gradient of the cross-entropy is zero for most of these images.
        with tf.GradientTape() as tape:
            inputs = tf.constant(images)
            tape.watch(inputs)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, answer(inputs))
        assert np.mean(np.all(tape.gradient(losses, inputs) == 0, axis=(1, 2, 3))) > 0.5
    maps = estimate(build(entry), answer, images, labels).numpy()
    assert np.isfinite(maps).all()
    lengths = np.sqrt(np.square(maps[..., : entry.normalized]).mean(axis=(1, 2)))
    np.testing.assert_allclose(lengths, 1.0, atol=1e-4)


@pytest.mark.slow
@every_map
@pytest.mark.parametrize("blind", [unconnected, flat])
def test_map_of_a_vanished_gradient_is_zero_and_so_is_its_gradient(entry, blind, few):
    images, labels = tf.constant(few[0]), few[1]
    estimator = build(entry)
    with tf.GradientTape() as tape:
        tape.watch(images)
        maps = estimate(estimator, blind, images, labels)[..., : entry.normalized]
    np.testing.assert_array_equal(maps, np.zeros(maps.shape))
    gradient = tape.gradient(maps, images, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    assert np.isfinite(gradient).all()


@pytest.mark.slow
@every_map
def test_map_ignores_the_training_mode_and_leaves_the_classifier_alone(entry, few):
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    estimator = build(entry)
    own = len(estimator.variables)

    class Outer(keras.Model):
        def call(self, images, training=None):
            return estimate(estimator, classifier, images, few[1])

    before = [variable.numpy() for variable in classifier.variables]
    training, inference = (Outer()(few[0], training=mode) for mode in (True, False))
    np.testing.assert_array_equal(training, inference)
    for variable, value in zip(classifier.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert len(estimator.variables) == own and classifier.trainable


@every_map
def test_config_round_trip(entry):
    estimator = entry.make(name="some_name")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(estimator))
    assert type(copy) is type(estimator) and copy.name == "some_name"
    assert copy.get_config() == estimator.get_config()


@every_map
def test_labels_are_required_where_they_are_declared(entry, classifier, few):
    estimator = build(entry)
    assert estimator.needs_labels == entry.needs_labels
    if entry.needs_labels:
        with pytest.raises(ValueError, match=r"without labels.*EstimatedLabel"):
            estimator(few[0], classifier=classifier)
    else:
        assert estimator(few[0], classifier=classifier).shape[0] == 8


@every_map
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8, 1), "uint8"), "floating point .* received uint8"),
        (np.zeros((2, 8, 8), "float32"), r"channel axis, `images\[..., None\]`"),
    ],
    ids=["uint8", "rank_3"],
)
def test_malformed_images_are_refused(entry, images, message, classifier):
    with pytest.raises(ValueError, match=message):
        estimate(build(entry), classifier, images, np.zeros(2, "int64"))


@pytest.mark.slow
@every_map
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_map_and_its_gradient_are_the_same_when_compiled(entry, jit_compile, classifier, few):
    images, labels = tf.constant(few[0][:4]), tf.constant(few[1][:4])
    estimator, unsure = build(entry), scaled(classifier, 0.1)
    shape = (*images.shape[:3], entry.channels)
    weights = tf.random.stateless_normal(shape, seed=[0, 0])

    def map_and_gradient(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            maps = estimator(
                images, classifier=unsure, labels=labels if entry.needs_labels else None
            )
            total = tf.reduce_sum(weights * maps)
        return maps, tape.gradient(total, images)

    maps, gradient = map_and_gradient(images)
    assert np.isfinite(gradient).all() and np.abs(gradient).max(axis=(1, 2, 3)).min() > 0
    compiled = tf.function(map_and_gradient, jit_compile=jit_compile)(images)
    np.testing.assert_allclose(compiled[0], maps, atol=1e-4)
    np.testing.assert_allclose(compiled[1], gradient, atol=1e-3 * np.abs(gradient).max())


@pytest.mark.slow
@every_map
def test_training_call_stops_the_gradient_through_the_map(entry, classifier, few):
    images, labels = tf.constant(few[0]), few[1]
    estimator = build(entry)
    with tf.GradientTape() as tape:
        tape.watch(images)
        maps, losses = estimator.call_with_loss(images, classifier, labels, images, training=False)
        total = tf.reduce_sum(maps)
    watched = [images, *estimator.trainable_variables, *classifier.trainable_variables]
    assert tape.gradient(total, watched) == [None] * len(watched)
    np.testing.assert_allclose(maps, estimate(estimator, classifier, images, labels), atol=1e-5)
    assert losses.shape == (8,)
    if not estimator.trainable_variables:
        np.testing.assert_array_equal(losses, np.zeros(8))


def test_a_map_without_weights_ignores_the_pixel_weight(classifier, few):
    images, labels = tf.constant(few[0]), few[1]
    for weight in (0.0, 10.0):
        _, losses = gradient_maps.UniformLabel().call_with_loss(
            images, classifier, labels, images, pixel_weight=weight
        )
        np.testing.assert_array_equal(losses, np.zeros(8))


def test_the_base_names_the_method_that_is_missing(classifier, few):
    with pytest.raises(NotImplementedError, match="GradientMap does not define `directions`"):
        gradient_maps.GradientMap()(few[0], classifier=classifier)
