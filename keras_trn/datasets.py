"""Image data as pipelines of images in [0, 1] and class indices."""

import os
from pathlib import Path

import numpy as np
import sklearn.datasets
import sklearn.model_selection
import tensorflow as tf

from keras_trn.input_validation import as_dataset
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_whole_number

NAMES = ("digits", "fashion_mnist", "cifar10", "svhn_cropped")


def load(name, batch_size=128, data_dir=None, seed=0, shuffle=True):
    """Loads a data set as pipelines for training, validation and test.

    `"digits"` are the 1,797 grey images of 8 by 8 pixels that come with
    scikit-learn: nothing is downloaded. The other sets come through TensorFlow
    Datasets, which downloads them once, unless they are in the data directory.
    Their validation part is the last tenth of the training split.

    Args:
        name: `"digits"`, `"fashion_mnist"`, `"cifar10"` or `"svhn_cropped"`.
        batch_size: Number of images in a batch.
        data_dir: Where TensorFlow Datasets keeps its data; by default the
            environment variable `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
        seed: Whole number that fixes the split of the digits, and the order in
            which training images are shuffled.
        shuffle: Whether training images are shuffled anew in every epoch.

    Returns:
        Three `tf.data.Dataset`s, `(train, validation, test)`, of batches
        `(images, labels)`: float32 of shape `(batch, height, width, channels)` in
        [0, 1], and int64 of shape `(batch,)`.

    Raises:
        ValueError: If the name is not known, or an argument is malformed.
        FileNotFoundError: If the data directory does not exist, or the data are
            neither there nor to be downloaded.

    Example:
        ```python
        train, validation, test = keras_trn.datasets.load("digits", batch_size=64)
        images, labels = next(iter(train))
        assert images.shape == (64, 8, 8, 1) and labels.shape == (64,)
        ```
    """
    if name not in NAMES:
        raise ValueError(f"Unknown data set {name!r}; there are {', '.join(map(repr, NAMES))}.")
    batch_size = check_count("batch_size", batch_size)
    seed = check_whole_number("seed", seed, 0, np.iinfo(np.int32).max)
    splits = _load_digits(seed) if name == "digits" else _load_tensorflow_dataset(name, data_dir)
    train, validation, test = splits
    if shuffle:
        train = train.cache().shuffle(len(train), seed=seed, reshuffle_each_iteration=True)
    return tuple(
        split.batch(batch_size).prefetch(tf.data.AUTOTUNE) for split in (train, validation, test)
    )


def to_arrays(dataset):
    """Collects a pipeline of batches into arrays.

    Args:
        dataset: A `tf.data.Dataset` of batches of images and labels, or a
            `keras.utils.PyDataset` of them. Sample weights are left out.

    Returns:
        Two arrays: all images, and all labels.

    Raises:
        ValueError: If the pipeline holds anything else, is empty or has no end, or its images
            differ in size.

    Example:
        ```python
        train, validation, test = keras_trn.datasets.load("digits")
        images, labels = keras_trn.datasets.to_arrays(test)
        assert images.shape == (360, 8, 8, 1) and labels.shape == (360,)
        ```
    """
    batches = list(as_dataset(dataset).as_numpy_iterator())
    if not batches:
        raise ValueError("Received no images: the pipeline is empty.")
    images, labels = zip(*batches, strict=True)
    shapes = {batch.shape[1:] for batch in images}
    if len(shapes) > 1:
        raise ValueError(
            f"One array cannot hold images of several shapes, {', '.join(map(str, shapes))}. "
            "Resize the images to one size, or collect one size at a time."
        )
    return np.concatenate(images), np.concatenate(labels)


def _load_digits(seed):
    digits = sklearn.datasets.load_digits()
    images = (digits.images[..., None] / 16).astype("float32")
    labels = digits.target.astype("int64")
    rest, *test = _split(images, labels, 360, seed)
    train, *validation = _split(*rest, 180, seed)
    return [tf.data.Dataset.from_tensor_slices(tuple(part)) for part in (train, validation, test)]


def _split(images, labels, size, seed):
    """Splits off `size` images with all classes in proportion."""
    images, held_images, labels, held_labels = sklearn.model_selection.train_test_split(
        images, labels, test_size=size, stratify=labels, random_state=seed
    )
    return (images, labels), held_images, held_labels


def _load_tensorflow_dataset(name, data_dir):
    # Slow to import, and not needed for the digits.
    import tensorflow_datasets as tfds

    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise FileNotFoundError(
            f"The data directory {str(data_dir)!r} does not exist. Create it, and "
            f"{name!r} is downloaded into it; or point `data_dir` or the environment variable "
            "TFDS_DATA_DIR to where TensorFlow Datasets keeps its data."
        )
    try:
        splits = tfds.load(
            name,
            split=["train[:90%]", "train[90%:]", "test"],
            data_dir=data_dir,
            as_supervised=True,
        )
    except Exception as error:
        raise FileNotFoundError(
            f"{name!r} is not in the data directory {str(data_dir or '~/tensorflow_datasets')!r} "
            "and could not be downloaded. Connect to the network once, or copy the prepared data "
            f"there. TensorFlow Datasets says: {error}"
        ) from error
    return [split.map(_scale, num_parallel_calls=tf.data.AUTOTUNE) for split in splits]


def _scale(image, label):
    return tf.cast(image, tf.float32) / 255.0, tf.cast(label, tf.int64)
