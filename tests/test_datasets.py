"""Data come in [0, 1], in the same order for the same seed, or with an error that helps."""

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf

import keras_trn
from keras_trn import datasets


def rows(images):
    """Images as rows of numbers in a fixed order, so that two sets can be compared."""
    flat = images.reshape(len(images), -1)
    return flat[np.lexsort(flat.T)]


def arrays(**arguments):
    return [datasets.to_arrays(split) for split in datasets.load("digits", **arguments)]


# --- Digits ---------------------------------------------------------------------------


def test_digits_come_in_the_declared_sizes_and_types():
    splits = datasets.load("digits", batch_size=50)
    assert len(splits) == 3
    for split, size in zip(splits, (1257, 180, 360), strict=True):
        images, labels = datasets.to_arrays(split)
        assert images.shape == (size, 8, 8, 1) and labels.shape == (size,)
        assert images.dtype == np.float32 and labels.dtype == np.int64
        assert images.min() == 0 and images.max() == 1
        assert set(labels) == set(range(10))


def test_the_splits_share_no_image_and_lose_none():
    everything = sklearn.datasets.load_digits().images / 16
    together = np.concatenate([images for images, _ in arrays()])
    np.testing.assert_array_equal(rows(together), rows(everything.astype("float32")))


def test_each_split_has_all_classes_in_proportion():
    shares = [np.bincount(labels) / len(labels) for _, labels in arrays()]
    np.testing.assert_allclose(shares, np.full((3, 10), 0.1), atol=0.01)


def test_a_seed_gives_one_split_and_one_order():
    for (images, labels), (same_images, same_labels) in zip(arrays(), arrays(), strict=True):
        np.testing.assert_array_equal(images, same_images)
        np.testing.assert_array_equal(labels, same_labels)


def test_another_seed_gives_another_split():
    (_, _, (test, _)), (_, _, (other_test, _)) = arrays(seed=0), arrays(seed=1)
    assert np.any(rows(test) != rows(other_test))


def test_training_images_are_shuffled_anew_in_every_epoch():
    train, validation, _ = datasets.load("digits")
    (first, _), (second, _) = datasets.to_arrays(train), datasets.to_arrays(train)
    assert np.mean(first != second) > 0.1
    np.testing.assert_array_equal(rows(first), rows(second))
    first, second = datasets.to_arrays(validation), datasets.to_arrays(validation)
    np.testing.assert_array_equal(first[0], second[0])


def test_images_keep_their_labels_when_shuffled():
    train, _, _ = datasets.load("digits")
    labels_of = {}
    for _ in range(2):
        for image, label in zip(*datasets.to_arrays(train), strict=True):
            labels_of.setdefault(image.tobytes(), set()).add(int(label))
    assert all(len(labels) == 1 for labels in labels_of.values())


@pytest.mark.parametrize("batch_size", [1, 64, 1000])
def test_batches_have_the_size_asked_for(batch_size):
    train, _, _ = datasets.load("digits", batch_size=batch_size)
    images, labels = next(iter(train))
    assert images.shape == (batch_size, 8, 8, 1) and labels.shape == (batch_size,)


def test_to_arrays_keeps_the_order_and_the_last_batch():
    images, labels = np.arange(7.0).reshape(7, 1, 1, 1), np.arange(7)
    pipeline = tf.data.Dataset.from_tensor_slices((images, labels)).batch(3)
    collected_images, collected_labels = datasets.to_arrays(pipeline)
    np.testing.assert_array_equal(collected_images, images)
    np.testing.assert_array_equal(collected_labels, labels)


def pipeline(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(3)


def test_to_arrays_leaves_out_weights_and_takes_data_of_unknown_length():
    images, labels = np.arange(7.0).reshape(7, 1, 1, 1), np.arange(7)
    weights = np.linspace(0, 1, 7)
    for data in (
        pipeline(images, labels, weights),
        pipeline(images, labels).filter(lambda *_: True),
    ):
        for collected, expected in zip(datasets.to_arrays(data), (images, labels), strict=True):
            np.testing.assert_array_equal(collected, expected)


def test_numbers_of_numpy_do():
    train, _, _ = datasets.load("digits", batch_size=np.int64(5), seed=np.int64(0))
    assert next(iter(train))[0].shape == (5, 8, 8, 1)


# --- Errors ---------------------------------------------------------------------------


def test_to_arrays_refuses_what_has_no_end_or_nothing_in_it():
    data = pipeline(np.zeros((7, 1, 1, 1)), np.arange(7))
    with pytest.raises(ValueError, match=r"no end.*dataset\.take\("):
        datasets.to_arrays(data.repeat())
    with pytest.raises(ValueError, match="the pipeline is empty"):
        datasets.to_arrays(data.take(0))
    with pytest.raises(ValueError, match="pairs of images and labels"):
        datasets.to_arrays(data.map(lambda images, labels: images))


def test_to_arrays_refuses_images_of_several_sizes():
    def batches():
        yield np.zeros((1, 2, 2, 1), "float32"), [0]
        yield np.zeros((1, 3, 3, 1), "float32"), [0]

    specs = (tf.TensorSpec((None, None, None, 1)), tf.TensorSpec((None,), tf.int64))
    data = tf.data.Dataset.from_generator(batches, output_signature=specs)
    with pytest.raises(ValueError, match=r"several shapes, \(\d, \d, 1\), \(\d, \d, 1\)"):
        datasets.to_arrays(data)


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"batch_size": 1.5}, {"seed": -1}])
def test_numbers_are_checked(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        datasets.load("digits", **arguments)


def test_unknown_name_is_refused_with_names_to_use(tmp_path):
    with pytest.raises(ValueError, match=r"'mnits': use 'digits', .*'fashion_mnist'"):
        datasets.load("mnits", data_dir=tmp_path)


def test_missing_data_directory_is_named(tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError, match=r"missing' does not exist.*TFDS_DATA_DIR"):
        datasets.load("fashion_mnist", data_dir=missing)


def test_missing_data_directory_of_the_environment_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match=r"elsewhere' does not exist"):
        datasets.load("cifar10")


def test_explicit_data_directory_goes_before_that_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match="missing' does not exist"):
        datasets.load("cifar10", data_dir=tmp_path / "missing")


def test_data_that_cannot_be_downloaded_are_reported(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("tensorflow_datasets.load", no_network)
    with pytest.raises(FileNotFoundError, match=r"'svhn_cropped' is not in .*no route to host"):
        datasets.load("svhn_cropped", data_dir=tmp_path)


def test_digits_need_no_data_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    assert len(keras_trn.datasets.load("digits")) == 3


# --- Real data ------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "image_shape"),
    [("fashion_mnist", (28, 28, 1)), ("cifar10", (32, 32, 3)), ("svhn_cropped", (32, 32, 3))],
)
def test_real_data_come_in_the_declared_shapes_and_range(name, image_shape):
    train, validation, test = datasets.load(name, batch_size=1)
    # Not the published sizes: the directory may hold only a part of a set.
    assert len(train) == pytest.approx(9 * len(validation), rel=0.02)
    assert train.element_spec[0].shape == (None, *image_shape)
    # Shuffling reads all training images, which takes long.
    for split in (validation, test):
        images, labels = datasets.to_arrays(split.take(50))
        assert images.shape == (50, *image_shape) and labels.shape == (50,)
        assert images.dtype == np.float32 and labels.dtype == np.int64
        assert 0 <= images.min() < 0.2 and 0.8 < images.max() <= 1
        assert len(set(labels)) > 5 and set(labels) <= set(range(10))
