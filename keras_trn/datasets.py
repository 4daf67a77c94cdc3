"""Loads image data as pipelines of images in [0, 1] and class indices."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.datasets
import sklearn.model_selection
import tensorflow as tf

from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_whole_number
from keras_trn.pipelines import as_dataset
from keras_trn.types import LabelledImages


def load(
    name: str,
    batch_size: int = 128,
    data_dir: str | Path | None = None,
    seed: int = 0,
    shuffle: bool = True,
) -> tuple[tf.data.Dataset, ...]:
    """Loads a data set as pipelines for training, validation and test.

    `"digits"` is the set of 1,797 grey images of 8 x 8 pixels in scikit-learn. TensorFlow
    Datasets downloads the other sets once; their validation part is the last tenth of the
    training split.

    Args:
        name: `"digits"`, or a data set of TensorFlow Datasets with images, labels and the splits
            `train` and `test`, such as `"fashion_mnist"`, `"cifar10"` or `"svhn_cropped"`.
        batch_size: Number of images in a batch.
        data_dir: Data directory of TensorFlow Datasets; by default the environment variable
            `TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.
        seed: Seed of the split of the digits and of the order of the training images.
        shuffle: Whether to shuffle the training images in every epoch.

    Returns:
        Three `tf.data.Dataset`s, `(train, validation, test)`, of batches `(images, labels)`:
        float32 of shape `(batch, height, width, channels)` in [0, 1], and int64 of shape
        `(batch,)`.

    Raises:
        ValueError: If the name is unknown, or `batch_size` or `seed` is invalid.
        FileNotFoundError: If the data directory does not exist, or lacks the data and they
            cannot be downloaded.

    Example:
        ```python
        train, validation, test = keras_trn.datasets.load("digits", batch_size=64)
        images, labels = next(iter(train))
        assert images.shape == (64, 8, 8, 1) and labels.shape == (64,)
        ```
    """
    batch_size = check_count("batch_size", batch_size)
    seed = check_whole_number("seed", seed, 0, np.iinfo(np.int32).max)
    splits = _load_digits(seed) if name == "digits" else _load_tensorflow_dataset(name, data_dir)
    train, validation, test = splits
    if shuffle:
        train = train.cache().shuffle(len(train), seed=seed, reshuffle_each_iteration=True)
    return tuple(
        split.batch(batch_size).prefetch(tf.data.AUTOTUNE) for split in (train, validation, test)
    )


def to_arrays(dataset: LabelledImages) -> tuple[np.ndarray, np.ndarray]:
    """Collects a pipeline of batches into arrays.

    Args:
        dataset: A `tf.data.Dataset` or a `keras.utils.PyDataset` of batches of images and labels.
            The function ignores sample weights.

    Returns:
        All images and all labels.

    Raises:
        ValueError: If the pipeline yields anything else, is empty or endless, or its images
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


def _load_digits(seed: int) -> list[tf.data.Dataset]:
    digits = sklearn.datasets.load_digits()
    arrays = (digits.images[..., None] / 16).astype("float32"), digits.target.astype("int64")
    rest, test = _split(arrays, 360, seed)
    train, validation = _split(rest, 180, seed)
    return [tf.data.Dataset.from_tensor_slices(part) for part in (train, validation, test)]


def _split(arrays: tuple[Any, Any], size: int, seed: int) -> tuple[tuple[Any, Any], ...]:
    """Splits off `size` images, with all classes in proportion."""
    images, held_images, labels, held_labels = sklearn.model_selection.train_test_split(
        *arrays, test_size=size, stratify=arrays[1], random_state=seed
    )
    return (images, labels), (held_images, held_labels)


def _load_tensorflow_dataset(name: str, data_dir: str | Path | None) -> list[tf.data.Dataset]:
    # This import is slow, and the digits do not need it.
    import tensorflow_datasets as tfds

    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise FileNotFoundError(
            f"The data directory {str(data_dir)!r} does not exist. Create it to download {name!r} "
            "into it, or set `data_dir` or the environment variable TFDS_DATA_DIR to the data "
            "directory of TensorFlow Datasets."
        )
    parts = ["train[:90%]", "train[90%:]", "test"]
    try:
        splits = tfds.load(name, split=parts, data_dir=data_dir, as_supervised=True)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            f"Unknown data set {name!r}: use 'digits', or a data set of TensorFlow Datasets, such "
            "as 'fashion_mnist', 'cifar10' or 'svhn_cropped'."
        ) from error
    except Exception as error:
        raise FileNotFoundError(
            f"{name!r} is not in the data directory {str(data_dir or '~/tensorflow_datasets')!r} "
            "and could not be downloaded. Connect to the network once, or copy the prepared data "
            f"there. TensorFlow Datasets says: {error}"
        ) from error
    return [split.map(_scale, num_parallel_calls=tf.data.AUTOTUNE) for split in splits]


def _scale(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.cast(image, tf.float32) / 255.0, tf.cast(label, tf.int64)
