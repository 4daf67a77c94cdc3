"""Every defence that learns: what it learns, with which loss, and with which optimizer."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from defences import ATTACK
from defences import LEARNED
from defences import learned
from defences import single_stream

import keras_trn

ATTACKS = keras_trn.attacks
LOSSES = keras_trn.losses
each_defence = pytest.mark.parametrize("name", LEARNED)


def untrained_classifier():
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, name="logits")]
    )


# --- Learning -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["single_stream", "HGD", "APE-GAN"])
def test_restorer_learns_and_the_classifier_does_not_change(name, classifier, digits):
    keras.utils.set_random_seed(0)
    weights = [weight.numpy() for weight in classifier.weights]
    defence = learned(name, classifier, keras.optimizers.Adam(5e-3))
    np.testing.assert_array_equal(defence.restore(digits[0]), digits[0])
    before = defence.evaluate(*digits, verbose=0, return_dict=True)
    defence.fit(*digits, epochs=15, verbose=0)
    after = defence.evaluate(*digits, verbose=0, return_dict=True)
    if name == "APE-GAN":
        # Its loss need not fall, as a discriminator learns against it.
        assert after["psnr"] > before["psnr"] + 1.0
    else:
        assert after["loss"] < 0.8 * before["loss"]
    assert after["adversarial_accuracy"] > before["adversarial_accuracy"] + 0.2
    assert after["benign_accuracy"] > before["benign_accuracy"] - 0.05
    for weight, old in zip(classifier.weights, weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), old)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["single_stream", "adversarial_training"])
def test_user_metrics_are_measured_on_adversarial_images(name, digits, tmp_path):
    metrics = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(3, name="top_3")]
    defence = learned(name, untrained_classifier(), metrics=metrics)
    data = digits[0][:32], digits[1][:32]
    history = defence.fit(*data, validation_data=data, batch_size=16, verbose=0).history
    assert history["val_accuracy"] == history["val_adversarial_accuracy"]
    assert history["accuracy"] == history["adversarial_accuracy"]
    assert history["val_top_3"][0] >= history["val_accuracy"][0]
    defence.save(tmp_path / "defence.keras")
    loaded = keras.models.load_model(tmp_path / "defence.keras")
    again = loaded.evaluate(*data, verbose=0, return_dict=True)
    assert again["top_3"] == pytest.approx(history["val_top_3"][0])


# --- Losses ---------------------------------------------------------------------------


def batch(classifier, digits, shift=0.0, logit_shift=0.0):
    clean = tf.constant(digits[0][:4])
    logits = classifier(clean)
    labels = tf.argmax(logits, axis=-1)
    return LOSSES.RestoredBatch(clean, clean + shift, labels, logits + logit_shift, classifier)


def test_restoration_loss_weighs_pixels_and_cross_entropy(classifier, digits):
    restored = batch(classifier, digits, shift=0.1)
    pixels = LOSSES.RestorationLoss(pixel=2.0, classification=0.0).call(restored)
    np.testing.assert_allclose(pixels, 0.2, rtol=1e-5)
    classes = LOSSES.RestorationLoss(pixel=0.0, classification=3.0).call(restored)
    expected = keras.losses.sparse_categorical_crossentropy(
        restored.labels, restored.logits, from_logits=True
    )
    np.testing.assert_allclose(classes, 3.0 * expected, rtol=1e-4, atol=1e-6)


def test_representation_guided_loss_compares_logits(classifier, digits):
    loss = LOSSES.RepresentationGuidedLoss()
    np.testing.assert_allclose(loss.call(batch(classifier, digits, shift=0.5)), 0.0, atol=1e-5)
    shifted = loss.call(batch(classifier, digits, logit_shift=2.0))
    np.testing.assert_allclose(shifted, 2.0, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mean_squared_error", 0.01),
        (keras.losses.MeanAbsoluteError(), 0.1),
        (keras.losses.mean_absolute_error, 0.1),
    ],
    ids=["name", "object", "function"],
)
def test_keras_loss_compares_clean_and_restored_images(loss, expected, classifier, digits):
    defence = keras_trn.ProtectedClassifier(classifier, single_stream())
    defence.compile(loss=loss, attack=ATTACKS.FastGradientMethod(0.1), jit_compile=False)
    losses = defence.restoration_loss.call(batch(classifier, digits, shift=0.1))
    np.testing.assert_allclose(losses, [expected] * 4, rtol=1e-4)
    history = defence.fit(digits[0][:16], digits[1][:16], verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_loss_of_the_user_survives_saving(classifier, digits, tmp_path):
    @keras.saving.register_keras_serializable(package="tests")
    class Quadratic(LOSSES.RestorerLoss):
        def __init__(self, factor):
            self.factor = factor

        def call(self, batch):
            error = tf.square(batch.restored - batch.clean)
            return self.factor * tf.reduce_mean(error, axis=[1, 2, 3])

        def get_config(self):
            return {"factor": self.factor}

    defence = keras_trn.ProtectedClassifier(classifier, single_stream())
    defence.compile(loss=Quadratic(3.0), attack=ATTACKS.FastGradientMethod(0.1))
    defence.save(tmp_path / "defence.keras")
    loaded = keras.models.load_model(tmp_path / "defence.keras")
    assert type(loaded.restoration_loss) is Quadratic and loaded.restoration_loss.factor == 3.0


@pytest.mark.parametrize("weight", ["pixel", "classification"])
def test_negative_weights_are_refused(weight):
    with pytest.raises(ValueError, match=f"{weight} must be a number"):
        LOSSES.RestorationLoss(**{weight: -1.0})


@pytest.mark.slow
def test_first_restoration_follows_the_pixel_weight_of_the_loss(classifier, digits):
    images, labels = tf.constant(digits[0][:4]), tf.constant(digits[1][:4])
    difference = 0.1

    def loss(pixel_loss_weight, pixel_weight):
        keras.utils.set_random_seed(0)
        estimator = keras_trn.gradient_maps.EstimatedLabel(
            4, 1, pixel_loss_weight=pixel_loss_weight
        )
        estimator.build_for((8, 8, 1), 10)
        clean = images + difference
        _, losses = estimator.call_with_loss(
            images, classifier, labels, clean, pixel_weight=pixel_weight
        )
        return losses.numpy()

    follows = loss(None, 30.0) - loss(None, 10.0)
    np.testing.assert_allclose(follows, 20.0 * difference, rtol=1e-3)
    np.testing.assert_array_equal(loss(5.0, 30.0), loss(5.0, 10.0))


@pytest.mark.slow
def test_discriminator_learns_and_its_weights_survive_saving(classifier, digits, tmp_path):
    keras.utils.set_random_seed(0)
    defence = learned("APE-GAN", classifier, keras.optimizers.Adam(5e-3), benign_share=0.0)
    loss = defence.restoration_loss

    def discriminator_loss():
        images = tf.constant(digits[0][:64])
        attacked = defence.attack(classifier, images)
        logits = [loss.discriminator(x)[:, 0] for x in (images, defence.restore(attacked))]
        return float(tf.reduce_mean(tf.nn.softplus(-logits[0]) + tf.nn.softplus(logits[1])))

    before = discriminator_loss()
    # A restorer that does not move is an easy opponent.
    loss.pixel, loss.adversarial = 0.0, 0.0
    defence.fit(*digits, epochs=8, verbose=0)
    assert before == pytest.approx(2 * np.log(2), rel=0.1)
    assert discriminator_loss() < 0.8
    np.testing.assert_array_equal(defence.restore(digits[0]), digits[0])

    defence.save(tmp_path / "defence.keras")
    loaded = keras.models.load_model(tmp_path / "defence.keras")
    for saved, other in zip(loss.variables, loaded.restoration_loss.variables, strict=True):
        np.testing.assert_array_equal(saved, other)
    assert (
        defence.count_params()
        == keras_trn.ProtectedClassifier(classifier, single_stream()).count_params()
    )


@pytest.mark.slow
def test_models_that_share_a_loss_train_its_discriminator_together(classifier, digits):
    loss = LOSSES.AdversarialLoss()
    defences = [keras_trn.ProtectedClassifier(classifier, single_stream()) for _ in range(2)]
    for defence in defences:
        defence.compile(loss=loss, attack=ATTACK, jit_compile=False)
    for defence in defences:
        before = [weight.numpy() for weight in loss.variables]
        defence.fit(digits[0][:16], digits[1][:16], verbose=0)
        assert not all(map(np.array_equal, before, loss.variables))


def test_discriminator_is_only_made_anew_for_other_channels(classifier):
    loss = LOSSES.AdversarialLoss()
    defence = keras_trn.ProtectedClassifier(classifier, single_stream())
    discriminators = []
    for _ in range(2):
        defence.compile(loss=loss, attack=ATTACK, jit_compile=False)
        discriminators.append(loss.discriminator)
    assert discriminators[0] is discriminators[1]
    loss.build((32, 32, 3))
    assert loss.discriminator.input_shape[-1] == 3


# --- Optimizers -----------------------------------------------------------------------


class Remember(keras.callbacks.Callback):
    """Remembers the trained weights after every step."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_train_begin(self, logs=None):
        self.on_train_batch_end(None)

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append([weight.numpy() for weight in self.model.trainable_variables])


def trained_by(name, optimizer, digits, callbacks=()):
    """Trains for four steps, and checks that the given classifier does not change."""
    keras.utils.set_random_seed(0)
    classifier = untrained_classifier()
    given = [weight.numpy() for weight in classifier.weights]
    defence = learned(name, classifier, optimizer)
    remember = Remember()
    defence.fit(
        digits[0][:32],
        digits[1][:32],
        batch_size=16,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[remember, *callbacks],
    )
    assert all(map(np.array_equal, given, classifier.weights))
    return defence, remember.steps


@pytest.mark.slow
@each_defence
def test_weights_end_as_their_averages(name, digits):
    callbacks = [keras.callbacks.SwapEMAWeights()] if name == "APE-GAN" else []
    optimizer = keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5)
    defence, steps = trained_by(name, optimizer, digits, callbacks)
    averages = steps[1]
    for weights in steps[2:]:
        pairs = zip(averages, weights, strict=True)
        averages = [0.5 * average + 0.5 * weight for average, weight in pairs]
    final = [weight.numpy() for weight in defence.trainable_variables]
    for weight, average in zip(final, averages, strict=True):
        np.testing.assert_allclose(weight, average, rtol=1e-4, atol=1e-6)
    assert not all(map(np.array_equal, final, steps[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["APE-GAN", "adversarial_training"])
def test_gradients_may_be_accumulated(name, digits):
    optimizer = keras.optimizers.SGD(0.05, gradient_accumulation_steps=2)
    _, steps = trained_by(name, optimizer, digits)
    changes = [not all(map(np.array_equal, *pair)) for pair in itertools.pairwise(steps)]
    assert changes == [False, True, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["protected", "APE-GAN", "adversarial_training"])
def test_scaling_the_loss_does_not_change_the_steps(name, digits):
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05), initial_scale=1024.0)
    _, received = trained_by(name, scaled, digits)
    _, expected = trained_by(name, keras.optimizers.SGD(0.05), digits)
    for one, other in zip(received[-1], expected[-1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)


# --- Models of version 0.1 ------------------------------------------------------------


def test_compile_config_of_version_0_1_still_loads(classifier):
    defence = keras_trn.ProtectedClassifier(classifier, single_stream())
    attack = keras.saving.serialize_keras_object(ATTACKS.FastGradientMethod(0.1))
    old = {"optimizer": "adam", "attack": attack, "benign_share": 0.25}
    defence.compile_from_config(
        {**old, "pixel_loss_weight": 30.0, "classification_loss_weight": 0.5}
    )
    assert defence.restoration_loss.get_config() == {"pixel": 30.0, "classification": 0.5}
