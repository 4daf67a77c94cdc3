"""The estimated label is learned next to the restorer, and its loss is finite."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_trn import gradient_maps
from keras_trn.gradient_maps.gradient_map import normalize
from keras_trn.logits import cross_entropy_direction

ESTIMATORS = {"estimated": (gradient_maps.EstimatedLabel, {"width": 4, "depth": 1})}


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


def scaled(classifier, factor):
    return lambda images: factor * classifier(images, training=False)


def constant(images):
    """A classifier that does not look at its images."""
    return tf.zeros([tf.shape(images)[0], 10])


def blind(images):
    """A classifier that looks at its images and makes nothing of them."""
    return tf.reduce_sum(0.0 * images, axis=[1, 2, 3])[:, None] * tf.ones([1, 10])


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


def test_estimated_label_trains_with_known_and_validates_with_estimated_labels(classifier, digits):
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
