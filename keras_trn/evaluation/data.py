"""Labelled images that an evaluation runs through several times."""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from keras_trn.digests import digest_of_arrays
from keras_trn.digests import digest_of_json
from keras_trn.input_validation import check_images
from keras_trn.input_validation import check_labels
from keras_trn.pipelines import as_dataset
from keras_trn.pipelines import plain_errors
from keras_trn.types import ImageShape
from keras_trn.types import LabelledImages

_OTHER_ORDER = (
    "The dataset does not keep its order: it comes in another order each time, so the results of "
    "one image cannot be combined. Shuffle it with `reshuffle_each_iteration=False`, or not at all."
)
_ONE_SIZE = (
    "One size at a time is supported: resize the images, or filter the data by shape and call "
    "this once for each shape."
)


class CheckedData:
    """Iterates over batches of images and labels in the same order each time.

    The constructor checks all data before any computation. Later iterations raise a `ValueError`
    if the data have changed.
    """

    def __init__(self, data: LabelledImages, image_shape: ImageShape, num_classes: int) -> None:
        self._dataset = as_dataset(data)
        self._digests: list[str] = []
        self._sizes: list[int] = []
        shape: ImageShape | None = None
        with plain_errors():
            for number, (images, labels) in enumerate(self._dataset, start=1):
                try:
                    _check_batch(images, labels, image_shape, num_classes, shape)
                except ValueError as error:
                    raise ValueError(f"Batch {number} of the data: {error}") from error
                shape = tuple(images.shape[1:])
                self._digests.append(digest_of_arrays(images, labels))
                self._sizes.append(len(images))
        if shape is None:
            raise ValueError("Received no images: the data are empty.")
        self.image_shape = shape
        self.batches = len(self._digests)
        self.batch_size = self._sizes[0]
        self.digest = digest_of_json(self._digests)

    def __iter__(self) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """Yields batches: float32 images in [0, 1], and int64 labels of shape `(batch,)`."""
        return self._first_batches(self.batches)

    def _first_batches(self, number: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        # One more batch than before shows whether the data have grown.
        batches = iter(self._dataset.take(number + (number == self.batches)))
        for expected in self._digests[:number]:
            images, labels = next(batches, (None, None))
            if images is None or digest_of_arrays(images, labels) != expected:
                raise ValueError(_OTHER_ORDER)
            # Attacks expect [0, 1], and rounding may exceed it.
            images = tf.clip_by_value(tf.cast(images, tf.float32), 0.0, 1.0)
            yield images, tf.cast(tf.reshape(labels, [-1]), tf.int64)
        if next(batches, None) is not None:
            raise ValueError(_OTHER_ORDER)

    def in_groups(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields images and labels in groups of `size`; the last group may have fewer."""
        images, labels = self.first(0)
        for more_images, more_labels in self:
            images = np.concatenate([images, more_images])
            labels = np.concatenate([labels, more_labels])
            whole = len(labels) - len(labels) % size
            for start in range(0, whole, size):
                yield images[start : start + size], labels[start : start + size]
            images, labels = images[whole:], labels[whole:]
        if len(labels):
            yield images, labels

    def first(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first images and labels; all of them if there are fewer."""
        batches = 1 + int(np.searchsorted(np.cumsum(self._sizes), number))
        held = list(self._first_batches(min(batches, self.batches)))
        images = np.concatenate([images for images, _ in held])
        labels = np.concatenate([labels for _, labels in held])
        return images[:number], labels[:number]


def _check_batch(
    images: tf.Tensor,
    labels: tf.Tensor,
    image_shape: ImageShape,
    num_classes: int,
    shape_before: ImageShape | None,
) -> None:
    if isinstance(images, tf.RaggedTensor):
        raise ValueError(f"Its images differ in size. {_ONE_SIZE}")
    if not isinstance(images, tf.Tensor):
        raise ValueError(
            f"The data must be pairs of images and labels; received {type(images).__name__} "
            "instead of images."
        )
    check_images(images, image_shape)
    check_labels(labels, num_classes, batch_size=len(images))
    shape = tuple(images.shape[1:])
    if shape_before not in (None, shape):
        raise ValueError(
            f"Its images have the shape {shape}, but the images of earlier batches have the "
            f"shape {shape_before}. {_ONE_SIZE}"
        )
