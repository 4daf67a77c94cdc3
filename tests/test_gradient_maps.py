"""Gradient maps are a property of one image, cost what they say, and are never NaN."""

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from keras_trn import gradient_maps
from keras_trn.gradient_maps.gradient_map import normalize
from keras_trn.logits import cross_entropy_direction


@keras.saving.register_keras_serializable(package="tests")
class Ranked(gradient_maps.GradientMap):
    """An estimator as a user may write one: a map for each of the most likely classes."""

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


FIXED_LABELS = {
    "predicted": (gradient_maps.PredictedLabel, {}),
    "uniform": (gradient_maps.UniformLabel, {}),
    "ranked": (Ranked, {"number": 3}),
    "true": (gradient_maps.TrueLabel, {}),
}
ESTIMATORS = {
    **FIXED_LABELS,
    "estimated": (gradient_maps.EstimatedLabel, {"width": 4, "depth": 1}),
    "estimated at the end": (
        gradient_maps.EstimatedLabel,
        {"width": 4, "depth": 1, "position": 1, "restored_loss_weight": 1.0},
    ),
}
every_estimator = pytest.mark.parametrize(
    ("estimator_class", "config"), ESTIMATORS.values(), ids=ESTIMATORS
)
every_fixed_label = pytest.mark.parametrize(
    ("estimator_class", "config"), FIXED_LABELS.values(), ids=FIXED_LABELS
)


def build(estimator_class, config, channels=1):
    keras.utils.set_random_seed(0)
    estimator = estimator_class(**config)
    estimator.build_for((8, 8, channels), num_classes=10)
    return estimator


def trained(estimator):
    """Gives an estimator weights that are nowhere zero, as training would."""
    generator = np.random.default_rng(1)
    for variable in estimator.trainable_variables:
        variable.assign(generator.normal(scale=0.1, size=variable.shape))
    return estimator


def estimate(estimator, classifier, images, labels):
    labels = labels if estimator.needs_labels else None
    return estimator(tf.constant(images), classifier=classifier, labels=labels)


def map_lengths(maps, channels=1):
    """The root mean square of each map of each image."""
    squares = np.square(maps).reshape(len(maps), -1, maps.shape[-1] // channels, channels)
    return np.sqrt(squares.mean(axis=(1, 3)))


def scaled(classifier, factor):
    return lambda images: factor * classifier(images, training=False)


def constant(images):
    """A classifier that does not look at its images."""
    return tf.zeros([tf.shape(images)[0], 10])


def blind(images):
    """A classifier that looks at its images and makes nothing of them."""
    return tf.reduce_sum(0.0 * images, axis=[1, 2, 3])[:, None] * tf.ones([1, 10])


# --- What all estimators have in common -----------------------------------------------


@every_estimator
@pytest.mark.parametrize("channels", [1, 3])
def test_map_has_the_size_of_the_image_and_the_declared_channels(estimator_class, config, channels):
    estimator = build(estimator_class, config, channels)
    classifier = keras.Sequential(
        [keras.Input((8, 8, channels)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    images = np.random.default_rng(0).random((4, 8, 8, channels), dtype="float32")
    maps = estimate(estimator, classifier, images, np.arange(4))
    assert maps.shape == (4, 8, 8, estimator.map_channels(channels, 10))
    assert maps.dtype == tf.float32


@every_estimator
def test_map_costs_the_declared_number_of_backward_passes(
    estimator_class, config, classifier, digits
):
    backward_passes = []

    @tf.custom_gradient
    def counted(images):
        def gradient(upstream):
            backward_passes.append(upstream)
            return upstream

        return tf.identity(images), gradient

    images, labels = digits[0][:4], digits[1][:4]
    estimator = build(estimator_class, config)
    estimate(estimator, lambda images: classifier(counted(images), training=False), images, labels)
    assert len(backward_passes) == estimator.backward_passes(10)


@every_estimator
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_map_does_not_depend_on_the_batch(estimator_class, config, batch_size, classifier, digits):
    images, labels = digits[0][:64], digits[1][:64]
    estimator = trained(build(estimator_class, config))
    together = estimate(estimator, classifier, images, labels)
    batch = slice(20, 20 + batch_size)
    maps = estimate(estimator, classifier, images[batch], labels[batch])
    np.testing.assert_allclose(maps, together[batch], atol=1e-5)


@every_fixed_label
@pytest.mark.parametrize("factor", [0.1, 1.0, 300.0])
def test_each_map_has_a_root_mean_square_of_one(
    estimator_class, config, factor, classifier, digits
):
    estimator = build(estimator_class, config)
    maps = estimate(estimator, scaled(classifier, factor), *(part[:32] for part in digits))
    np.testing.assert_allclose(map_lengths(maps.numpy()), 1.0, atol=1e-4)


@every_estimator
def test_map_of_a_very_confident_classifier_does_not_vanish(
    estimator_class, config, classifier, digits
):
    images, labels = digits[0][:32], digits[1][:32]
    confident = scaled(classifier, 300.0)
    # The plain gradient of the cross-entropy is zero for most of these images.
    with tf.GradientTape() as tape:
        inputs = tf.constant(images)
        tape.watch(inputs)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, confident(inputs))
    assert np.mean(np.all(tape.gradient(losses, inputs) == 0, axis=(1, 2, 3))) > 0.5

    maps = estimate(build(estimator_class, config), confident, images, labels).numpy()
    assert np.isfinite(maps).all()
    assert np.abs(maps).max(axis=(1, 2, 3)).min() > 0.1


@every_fixed_label
@pytest.mark.parametrize("unseeing", [constant, blind], ids=["unconnected", "zero_gradient"])
def test_map_of_a_vanished_gradient_is_zero(estimator_class, config, unseeing, digits):
    estimator = build(estimator_class, config)
    maps = estimate(estimator, unseeing, digits[0][:4], digits[1][:4])
    np.testing.assert_array_equal(maps, np.zeros(maps.shape))


@pytest.mark.parametrize("unseeing", [constant, blind], ids=["unconnected", "zero_gradient"])
def test_estimated_label_survives_a_vanished_gradient(unseeing, digits):
    images, labels = digits[0][:4], digits[1][:4]
    estimator = trained(build(*ESTIMATORS["estimated"]))
    inputs = tf.constant(images)
    with tf.GradientTape() as tape:
        maps, losses = estimator.call_with_loss(inputs, unseeing, labels, inputs)
    gradients = tape.gradient(losses, estimator.trainable_variables)
    assert np.isfinite(maps).all() and np.isfinite(losses).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients if gradient is not None)
    np.testing.assert_array_equal(maps[..., :1], np.zeros_like(images))


@every_estimator
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_compiled_map_agrees_with_eager(estimator_class, config, jit_compile, classifier, digits):
    images, labels = digits[0][:8], digits[1][:8]
    estimator = build(estimator_class, config)

    @tf.function(jit_compile=jit_compile)
    def compiled(images, labels):
        labels = labels if estimator.needs_labels else None
        return estimator(images, classifier=classifier, labels=labels)

    expected = estimate(estimator, classifier, images, labels)
    np.testing.assert_allclose(compiled(images, labels), expected, atol=1e-4)


@every_estimator
def test_map_is_float32_under_mixed_precision(
    estimator_class, config, classifier, digits, mixed_float16
):
    estimator = build(estimator_class, config)
    maps = estimate(estimator, classifier, digits[0][:4], digits[1][:4])
    assert maps.dtype == tf.float32
    keras.config.set_dtype_policy("float32")
    expected = estimate(build(estimator_class, config), classifier, digits[0][:4], digits[1][:4])
    np.testing.assert_array_equal(maps, expected)


@every_estimator
def test_classifier_runs_in_inference_mode_and_is_not_changed(estimator_class, config, digits):
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
    estimator = build(estimator_class, config)
    images, labels = tf.constant(digits[0][:8]), digits[1][:8]

    class Outer(keras.Model):
        def call(self, images, training=None):
            return estimate(estimator, classifier, images, labels)

    before = [variable.numpy() for variable in classifier.variables]
    in_training = Outer()(images, training=True)
    np.testing.assert_array_equal(in_training, Outer()(images, training=False))
    for variable, value in zip(classifier.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@every_estimator
def test_classifier_is_not_owned(estimator_class, config, classifier, digits):
    estimator = build(estimator_class, config)
    own, trainable = len(estimator.variables), classifier.trainable
    estimate(estimator, classifier, digits[0][:2], digits[1][:2])
    assert len(estimator.variables) == own
    assert classifier.trainable == trainable


@every_estimator
def test_config_round_trip(estimator_class, config):
    estimator = estimator_class(**config, name="some_name")
    serialized = keras.saving.serialize_keras_object(estimator)
    copy = keras.saving.deserialize_keras_object(serialized)
    assert type(copy) is estimator_class
    assert copy.get_config() == estimator.get_config()
    assert copy.name == "some_name"
    assert {key: getattr(copy, key) for key in config} == config


@every_estimator
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8, 1), "uint8"), "floating point .* received uint8"),
        (np.zeros((2, 8, 8), "float32"), r"channel axis, `images\[..., None\]`"),
    ],
    ids=["uint8", "rank_3"],
)
def test_malformed_images_are_refused(estimator_class, config, images, message, classifier):
    with pytest.raises(ValueError, match=message):
        estimate(build(estimator_class, config), classifier, images, np.zeros(2, "int64"))


@every_estimator
def test_training_call_stops_the_gradient_through_the_map(
    estimator_class, config, classifier, digits
):
    images, labels = tf.constant(digits[0][:4]), digits[1][:4]
    estimator = build(estimator_class, config)
    with tf.GradientTape() as tape:
        tape.watch(images)
        maps, _ = estimator.call_with_loss(images, classifier, labels, images)
        total = tf.reduce_sum(maps)
    watched = [images, *estimator.trainable_variables, *classifier.trainable_variables]
    assert tape.gradient(total, watched) == [None] * len(watched)
    np.testing.assert_allclose(maps, estimate(estimator, classifier, images, labels), atol=1e-5)


@every_fixed_label
def test_estimator_without_weights_has_no_loss(estimator_class, config, classifier, digits):
    images, labels = tf.constant(digits[0][:4]), digits[1][:4]
    _, losses = build(estimator_class, config).call_with_loss(images, classifier, labels, images)
    np.testing.assert_array_equal(losses, np.zeros(4))


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_an_attacker_can_differentiate_through_the_map(jit_compile, classifier, digits):
    estimator = gradient_maps.PredictedLabel()
    images = tf.constant(digits[0][:4])
    weights = tf.random.stateless_normal(images.shape, seed=[0, 0])

    def gradient(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            total = tf.reduce_sum(weights * estimator(images, classifier=scaled(classifier, 0.1)))
        return tape.gradient(total, images)

    eager = gradient(images).numpy()
    assert np.isfinite(eager).all() and np.abs(eager).max(axis=(1, 2, 3)).min() > 0
    compiled = tf.function(gradient, jit_compile=jit_compile)(images)
    np.testing.assert_allclose(compiled, eager, atol=1e-4 * np.abs(eager).max())


def test_gradient_through_a_vanished_map_is_not_nan(digits):
    images = tf.constant(digits[0][:4])
    with tf.GradientTape() as tape:
        tape.watch(images)
        total = tf.reduce_sum(gradient_maps.UniformLabel()(images, classifier=blind))
    gradient = tape.gradient(total, images, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    assert np.isfinite(gradient).all()


def test_the_base_says_what_a_subclass_must_write(classifier, digits):
    with pytest.raises(NotImplementedError, match="GradientMap does not define `directions`"):
        gradient_maps.GradientMap()(digits[0][:2], classifier=classifier)


# --- Which label the map is for -------------------------------------------------------


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


def test_several_maps_of_an_estimator_are_those_of_each_label(classifier, digits):
    images = digits[0][:4]
    maps = Ranked(10)(images, classifier=classifier)
    ranked = np.argsort(-classifier(images).numpy(), axis=-1)
    for rank in range(10):
        labels = ranked[:, rank]
        expected = gradient_maps.TrueLabel()(images, classifier=classifier, labels=labels)
        np.testing.assert_allclose(maps[..., rank : rank + 1], expected, atol=1e-5)


def test_true_label_refuses_to_run_without_labels(classifier, digits):
    with pytest.raises(ValueError, match=r"without labels.*EstimatedLabel"):
        gradient_maps.TrueLabel()(digits[0][:2], classifier=classifier)


def test_only_the_true_label_needs_labels():
    needs_labels = {name for name, (cls, _) in ESTIMATORS.items() if cls.needs_labels}
    assert needs_labels == {"true"}


# --- The estimator that learns ---------------------------------------------------------


def test_estimated_label_owns_trainable_weights_once_built():
    assert build(*ESTIMATORS["estimated"]).trainable_variables
    assert not any(build(*FIXED_LABELS[name]).trainable_variables for name in FIXED_LABELS)


def test_estimated_label_says_how_to_build_it(classifier, digits):
    with pytest.raises(ValueError, match="build_for"):
        gradient_maps.EstimatedLabel(width=4, depth=1)(digits[0][:2], classifier=classifier)


@pytest.mark.parametrize("factor", [1.0, 300.0])
def test_estimated_label_has_a_finite_loss_for_each_image(factor, classifier, digits):
    images, labels = tf.constant(digits[0][:4]), digits[1][:4]
    estimator = build(*ESTIMATORS["estimated"])
    with tf.GradientTape() as tape:
        _, losses = estimator.call_with_loss(
            images, scaled(classifier, factor), labels, 0.9 * images
        )
    assert losses.shape == (4,)
    assert np.isfinite(losses).all() and np.min(losses) > 0
    gradients = tape.gradient(losses, estimator.trainable_variables)
    assert all(gradient is not None and np.isfinite(gradient).all() for gradient in gradients)
    assert any(np.any(gradient != 0) for gradient in gradients)


def test_loss_of_estimated_label_does_not_depend_on_the_batch(classifier, digits):
    images, labels = tf.constant(digits[0][:8]), digits[1][:8]
    estimator = build(*ESTIMATORS["estimated"])
    _, together = estimator.call_with_loss(images, classifier, labels, 0.9 * images)
    _, alone = estimator.call_with_loss(images[:1], classifier, labels[:1], 0.9 * images[:1])
    np.testing.assert_allclose(alone, together[:1], rtol=1e-4)


# In use as in training: the prior of an attack is that of a batch, and labels are not sharpened.
AS_IN_TRAINING = {"attack_prior": 0.75, "temperature": 1.0}


def test_estimated_label_hands_over_map_squashed_map_and_noise_estimate(classifier, digits):
    images = tf.constant(digits[0][:8])
    estimator_class, config = ESTIMATORS["estimated"]
    estimator = trained(build(estimator_class, {**config, **AS_IN_TRAINING}))
    gradient_map, squashed, noise = tf.split(estimator(images, classifier=classifier), 3, axis=-1)
    first_restoration = estimator.first_restorer(images)
    np.testing.assert_allclose(noise, images - first_restoration, atol=1e-6)
    np.testing.assert_allclose(squashed, gradient_map / (np.abs(gradient_map) + 0.1), atol=1e-5)
    assert np.abs(noise).max() > 0.01


@pytest.mark.parametrize("position", [0, 0.5, 1])
def test_estimated_label_takes_the_map_on_the_way_for_the_labels_that_it_estimates(
    position, classifier, digits
):
    images, unsure = tf.constant(digits[0][:8]), scaled(classifier, 0.1)
    config = {"width": 4, "depth": 1, "position": position, **AS_IN_TRAINING}
    estimator = trained(build(gradient_maps.EstimatedLabel, config))
    labels = estimator.estimate_labels(images, unsure)
    np.testing.assert_allclose(tf.reduce_sum(labels, axis=-1), 1.0, atol=1e-5)
    taken_at = images + position * (estimator.first_restorer(images) - images)
    expected = normalize(
        pull_back_direction(unsure, taken_at, lambda z: cross_entropy_direction(z, labels))
    )
    maps = estimator(images, classifier=unsure)[..., :1]
    np.testing.assert_allclose(maps, expected, atol=1e-4)


def test_an_attack_that_is_rare_in_use_has_to_show_more_clearly(classifier, digits):
    images = tf.constant(digits[0][:8])
    estimator_class, config = ESTIMATORS["estimated"]
    rare = trained(build(estimator_class, {**config, "attack_prior": 0.1, "temperature": 1.0}))
    # Odds of 3 to 1 in training against 1 to 9 in use: 27 times less.
    shifted = trained(build(estimator_class, {**config, **AS_IN_TRAINING}))
    shifted.gate_threshold = np.log(27.0)
    found, expected = (one(images, classifier=classifier) for one in (rare, shifted))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    frequent = trained(build(estimator_class, {**config, **AS_IN_TRAINING}))
    noise, larger = (np.abs(one(images, classifier=classifier)[..., 2]) for one in (rare, frequent))
    assert noise.max() < 0.5 * larger.max()


def test_a_low_temperature_commits_itself(classifier, digits):
    images, unsure = tf.constant(digits[0][:8]), scaled(classifier, 0.1)
    estimator_class, config = ESTIMATORS["estimated"]
    surest = [
        build(estimator_class, {**config, "temperature": temperature})
        .estimate_labels(images, unsure)
        .numpy()
        .max(axis=-1)
        for temperature in (1.0, 0.3)
    ]
    assert np.all(surest[1] > surest[0])


def test_estimators_that_were_saved_before_answer_as_they_did():
    config = gradient_maps.EstimatedLabel(width=4, depth=1).get_config()
    for name in ("attack_prior", "temperature", "gate_threshold"):
        del config[name]
    loaded = gradient_maps.EstimatedLabel.from_config(config)
    assert (loaded.attack_prior, loaded.temperature, loaded.gate_threshold) == (0.75, 1.0, 0.0)


def test_position_decides_neither_the_labels_nor_the_noise_estimate(classifier, digits):
    images = tf.constant(digits[0][:8])
    found = []
    for position in (0, 0.5, 1):
        estimator = trained(
            build(gradient_maps.EstimatedLabel, {"width": 4, "depth": 1, "position": position})
        )
        maps = estimator(images, classifier=classifier)
        found.append([estimator.estimate_labels(images, classifier), maps[..., 2], maps[..., 0]])
    for labels, noise, gradient_map in found[1:]:
        np.testing.assert_allclose(labels, found[0][0], atol=1e-5)
        np.testing.assert_allclose(noise, found[0][1], atol=1e-6)
        assert np.abs(gradient_map - found[0][2]).max() > 1e-3


def test_position_off_the_way_is_refused():
    with pytest.raises(ValueError, match="position must be a number from 0 to 1"):
        gradient_maps.EstimatedLabel(position=1.5)


def test_negative_weight_of_the_restored_loss_is_refused():
    with pytest.raises(ValueError, match="restored_loss_weight must be a number from 0 to inf"):
        gradient_maps.EstimatedLabel(restored_loss_weight=-1)


def test_estimated_label_teaches_with_known_labels_and_is_judged_with_its_own(classifier, digits):
    images, unsure = tf.constant(digits[0][:8]), scaled(classifier, 0.1)
    estimator = trained(build(*ESTIMATORS["estimated"]))
    labels = (np.argmax(estimator.estimate_labels(images, unsure), axis=-1) + 1) % 10

    def maps(**kwargs):
        return estimator.call_with_loss(images, unsure, labels, images, **kwargs)[0][..., :1]

    halfway = (images + estimator.first_restorer(images)) / 2
    known = normalize(
        pull_back_direction(
            unsure, halfway, lambda z: cross_entropy_direction(z, tf.one_hot(labels, 10))
        )
    )
    np.testing.assert_allclose(maps(), known, atol=1e-4)
    estimated = estimator(images, classifier=unsure)[..., :1]
    np.testing.assert_allclose(maps(training=False), estimated, atol=1e-6)
    assert np.abs(known - estimated).max() > 0.1


@pytest.mark.parametrize("weight", [0.2, 1.0])
def test_first_restoration_learns_to_be_classified_alike(weight, classifier, digits):
    images, labels = tf.constant(digits[0][:8]), digits[1][:8]
    estimator_class, config = ESTIMATORS["estimated"]
    config = {**config, "restored_loss_weight": weight, **AS_IN_TRAINING}
    estimator = trained(build(estimator_class, config))
    restored = tf.stop_gradient(estimator.first_restorer(images))
    of_restored = keras.losses.sparse_categorical_crossentropy(
        labels, classifier(restored), from_logits=True
    )
    of_labels = -np.log(estimator.estimate_labels(images, classifier).numpy()[np.arange(8), labels])
    _, losses = estimator.call_with_loss(images, classifier, labels, restored)
    is_attacked_loss = losses - weight * of_restored - of_labels
    _, attack_logits = estimator.first_restorer.restore_with_gate(images)
    np.testing.assert_allclose(
        is_attacked_loss, tf.nn.softplus(-attack_logits[:, 0]), rtol=1e-3, atol=1e-4
    )


def pull_back_direction(classifier, images, direction):
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = classifier(images)
        total = tf.reduce_sum(logits * tf.stop_gradient(direction(logits)))
    return tape.gradient(total, images)


def test_loss_of_estimated_label_tells_attacked_images_from_clean_ones(classifier, digits):
    images, labels = tf.constant(digits[0][:8]), digits[1][:8]
    estimator = build(*ESTIMATORS["estimated"])
    gate = estimator.first_restorer.attack_gate.judgement
    losses = {}
    for logit in (-5.0, 5.0):
        gate.kernel.assign(tf.zeros_like(gate.kernel))
        gate.bias.assign([logit])
        for name, clean in (("clean", images), ("attacked", images + 1e-3)):
            _, loss = estimator.call_with_loss(images, classifier, labels, clean)
            losses[name, logit] = np.mean(loss)
    assert losses["clean", -5.0] < losses["clean", 5.0] - 4
    assert losses["attacked", 5.0] < losses["attacked", -5.0] - 4


# --- The arithmetic behind the maps ----------------------------------------------------


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
def test_normalize_takes_away_the_length_whatever_it_is(scale):
    gradient = np.random.default_rng(0).normal(size=(3, 8, 8, 2)).astype("float32")
    expected = gradient / np.sqrt(np.square(gradient).mean(axis=(1, 2, 3), keepdims=True))
    np.testing.assert_allclose(normalize(scale * gradient), expected, rtol=1e-4)


def test_normalize_leaves_zero_beside_other_images():
    gradient = np.ones((2, 4, 4, 1), "float32") * np.float32([0, 5]).reshape(2, 1, 1, 1)
    expected = np.sign(gradient)
    np.testing.assert_allclose(normalize(gradient), expected, rtol=1e-6)
