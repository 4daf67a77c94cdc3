"""What users hand to the methods of Keras: lists, small batches, shapes that are known late."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_trn
from keras_trn.training import count_benign


@pytest.fixture
def some(digits):
    return digits[0][:48], digits[1][:48]


@pytest.fixture
def small(classifier, protect):
    """A protected classifier that learns next to nothing."""
    return protect(
        classifier,
        keras_trn.gradient_maps.UniformLabel(),
        optimizer=keras.optimizers.SGD(1e-4),
    )


# --- Small batches -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_the_benign_share_holds_over_an_epoch_whatever_the_batch_size(
    batch_size, small, some, classifier
):
    seen = []

    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((float(small.benign_accuracy.count), logs["benign_accuracy"]))

    images, labels = some
    small.fit(images, labels, batch_size=batch_size, callbacks=[Count()], verbose=0)
    ((count, accuracy),) = seen
    assert count == pytest.approx(0.25 * len(images), abs=1)
    _, bare = classifier.evaluate(images, labels, verbose=0)
    assert accuracy == pytest.approx(bare, abs=0.1)


def test_benign_numbers_add_up_to_the_share():
    for share in (0.0, 0.1, 0.25, 1 / 3, 0.5, 1.0):
        for size in (1, 2, 7, 64):
            numbers = [int(count_benign(share, size, step)) for step in range(100)]
            assert sum(numbers) == pytest.approx(100 * share * size, abs=1)
            assert max(numbers) - min(numbers) <= 1 and max(numbers) <= size


@pytest.mark.slow
@pytest.mark.parametrize(("share", "unmeasured"), [(0.0, "benign"), (1.0, "adversarial")])
def test_what_was_not_measured_is_nan(share, unmeasured, small, some):
    small.compile(attack=keras_trn.attacks.FastGradientMethod(0.1), benign_share=share)
    history = small.fit(*some, verbose=0).history
    for name in ("benign", "adversarial"):
        assert math.isnan(history[f"{name}_accuracy"][0]) == (name == unmeasured)
    assert math.isnan(history["psnr"][0]) == (unmeasured == "adversarial")


def test_single_images_meet_every_attack_of_a_mixture(classifier, some):
    attacks = [keras_trn.attacks.RandomNoise(epsilon) for epsilon in (0.1, 0.2, 0.3)]
    mixture = keras_trn.attacks.Mixture(attacks)
    image = np.full((1, 8, 8, 1), 0.5, "float32")
    keras.utils.set_random_seed(0)
    lengths = [np.abs(mixture(classifier, image) - image).max() for _ in range(60)]
    _, counts = np.unique(np.round(lengths, 1), return_counts=True)
    assert len(counts) == 3 and counts.min() >= 10


# --- Lists, and one batch at a time ------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_lists_are_taken_as_arrays_are(method, small, some):
    images, labels = some[0][:4].tolist(), some[1][:4].tolist()
    arguments = {} if "batch" in method else {"verbose": 0}
    if method == "fit":
        arguments["validation_data"] = [images, labels]
    getattr(small, method)(images, labels, **arguments)
    expected = small.predict(some[0][:4], verbose=0)
    np.testing.assert_allclose(small.predict(images, verbose=0), expected, atol=1e-6)
    np.testing.assert_allclose(small.restore(images), small.restore(some[0][:4]), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil",
    [lambda images: (255 * images).astype("uint8"), lambda images: 255 * images],
    ids=["uint8", "0 to 255"],
)
@pytest.mark.parametrize("method", ["train_on_batch", "test_on_batch", "predict_on_batch"])
def test_single_batches_are_checked(method, spoil, small, some):
    images, labels = some
    arguments = [] if method == "predict_on_batch" else [labels]
    getattr(small, method)(images, *arguments)
    with pytest.raises(ValueError, match=r"\[0, 1\].*255"):
        getattr(small, method)(spoil(images), *arguments)


@pytest.mark.slow
def test_single_batches_are_checked_in_adversarial_training(classifier, some):
    trained = keras_trn.baselines.AdversariallyTrainedClassifier(classifier)
    trained.compile(attack=keras_trn.attacks.FastGradientMethod(0.1))
    images, labels = some
    for call in (
        lambda: trained.train_on_batch(255 * images, labels),
        lambda: trained.test_on_batch(255 * images, labels),
        lambda: trained.predict_on_batch(255 * images),
    ):
        with pytest.raises(ValueError, match="Rescale"):
            call()


def test_single_batches_train_as_fit_does(small, some):
    before = small.restorer.correction.bias.numpy()
    result = small.train_on_batch(*some, return_dict=True)
    assert set(result) == {"loss", "benign_accuracy", "adversarial_accuracy", "psnr"}
    assert not np.array_equal(small.restorer.correction.bias.numpy(), before)


def test_restore_takes_a_pipeline(small, some):
    images, labels = some
    expected = small.restore(images)
    for dataset in (
        tf.data.Dataset.from_tensor_slices((images, labels)).batch(7),
        tf.data.Dataset.from_tensor_slices(images).batch(7),
    ):
        np.testing.assert_allclose(small.restore(dataset), expected, atol=1e-6)


# --- Pipelines without end, or without a shape --------------------------------------


@pytest.mark.slow
def test_pipelines_without_end_are_refused_unless_a_number_of_batches_is_given(small, some):
    endless = tf.data.Dataset.from_tensor_slices(some).batch(8).repeat()
    for call in (
        lambda: small.fit(endless, verbose=0),
        lambda: small.fit(*some, validation_data=endless, verbose=0),
        lambda: small.evaluate(endless, verbose=0),
        lambda: small.predict(endless, verbose=0),
        lambda: small.restore(endless),
    ):
        with pytest.raises(ValueError, match=r"no end.*\.take\("):
            call()
    history = small.fit(
        endless, steps_per_epoch=2, validation_data=endless, validation_steps=1, verbose=0
    )
    assert "val_loss" in history.history
    assert small.predict(endless, steps=2, verbose=0).shape == (16, 10)
    small.evaluate(endless, steps=1, verbose=0)


def unknown_rank(images, labels):
    def through_numpy(image, label):
        return tuple(tf.numpy_function(lambda i, n: (i, n), [image, label], [tf.float32, tf.int64]))

    return tf.data.Dataset.from_tensor_slices((images, labels)).map(through_numpy).batch(16)


def unknown_channels(images, labels):
    files = [tf.io.encode_png(tf.cast(255 * image, tf.uint8)).numpy() for image in images]

    def decode(file, label):
        image = tf.image.convert_image_dtype(tf.io.decode_png(file), tf.float32)
        return tf.image.resize(image, (8, 8)), label

    return tf.data.Dataset.from_tensor_slices((files, labels)).map(decode).batch(16)


@pytest.mark.slow
@pytest.mark.parametrize("make", [unknown_rank, unknown_channels])
def test_shapes_that_are_known_late_are_taken_from_the_classifier(make, small, some):
    dataset = make(*some)
    small.fit(dataset, validation_data=dataset, verbose=0)
    small.evaluate(dataset, verbose=0)
    assert small.predict(dataset, verbose=0).shape == (48, 10)
    assert small.restore(dataset).shape == (48, 8, 8, 1)


def test_an_attack_in_a_pipeline_without_a_shape_says_how_to_set_it(classifier, some):
    attack = keras_trn.attacks.FastGradientMethod(0.1)
    dataset = unknown_rank(*some)
    with pytest.raises(ValueError, match=r"rank.*set_shape"):
        dataset.map(lambda images, labels: attack(classifier, images, labels))


# --- Values a rounding outside of [0, 1] ---------------------------------------------


def rounded_up(images):
    return np.where(images == 1, np.nextafter(np.float32(1), np.float32(2)), images)


def scaled_up(images):
    return images * np.float32(1 + 5e-7)


@pytest.mark.slow
@pytest.mark.parametrize("change", [rounded_up, scaled_up, lambda x: x - 1e-9])
def test_a_rounding_outside_the_range_is_clipped(change, small, some, classifier):
    images, labels = some
    changed = change(images).astype("float32")
    assert changed.min() < 0 or changed.max() > 1
    expected = small.predict(images, verbose=0)
    np.testing.assert_allclose(small.predict(changed, verbose=0), expected, atol=1e-4)
    small.fit(changed, labels, verbose=0)
    restored = small.restore(changed)
    assert restored.min() >= 0 and restored.max() <= 1
    attacked = keras_trn.attacks.ProjectedGradientDescent(0.1, steps=2)(classifier, changed)
    assert np.min(attacked) >= 0 and np.max(attacked) <= 1


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.0, 1.00002, r"to 1\.0000\d+.*clip"),
        (-0.08, 1.1, r"from -0\.08 to 1\.1.*clip"),
        (-2e-5, 1.0, r"from -2e-05.*clip"),
        (0.0, 255.0, r"to 255\..*images / 255"),
        (-1.0, 1.0, r"from -1 to 1\..*low"),
    ],
)
def test_more_than_a_rounding_is_refused_with_digits_that_show_it(low, high, said, small, some):
    images = some[0].copy()
    images[0, 0, 0, 0], images[0, 0, 1, 0] = low, high
    with pytest.raises(ValueError, match=said):
        small.predict(images, verbose=0)
