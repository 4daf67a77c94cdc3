"""Labelled images that are run through again and again, and are checked before the first time."""

import hashlib

import numpy as np
import tensorflow as tf

from keras_trn.input_validation import check_images
from keras_trn.input_validation import check_labels
from keras_trn.pipelines import as_dataset


class CheckedData:
    """Batches of images and labels, the same in the same order each time.

    The data are run through once when this is made: all images and labels are checked, and what
    cannot be evaluated is refused before anything is computed.

    Args:
        data: What `keras_trn.pipelines.as_dataset` takes.
        image_shape: The `(height, width, channels)` that the classifier takes; height and width
            may be `None`.
        num_classes: Number of classes of the classifier.

    Raises:
        ValueError: If the data are empty, have no end, or hold a malformed image or label or
            images of several sizes. When they are run through again, if they come in another
            order.

    Example:
        ```python
        from keras_trn.evaluation.data import CheckedData

        images, labels = np.zeros((3, 8, 8, 1), "float32"), np.array([0, 1, 2])
        data = CheckedData((images, labels), (8, 8, 1), num_classes=10)
        assert (data.batches, data.image_shape) == (1, (8, 8, 1))
        assert [labels.shape for _, labels in data] == [(3,)]
        ```
    """

    def __init__(self, data, image_shape, num_classes):
        self._dataset = as_dataset(data)
        self._digests, self._sizes = [], []
        self.image_shape = None
        digest = hashlib.sha256()
        for number, (images, labels) in enumerate(self._dataset, start=1):
            try:
                self._check_batch(images, labels, image_shape, num_classes)
            except ValueError as error:
                raise ValueError(f"Batch {number} of the data: {error}") from error
            _add(digest, images, labels)
            self._digests.append(digest.hexdigest())
            self._sizes.append(len(images))
        if not self._digests:
            raise ValueError("Received no images: the data are empty.")

    def _check_batch(self, images, labels, image_shape, num_classes):
        if isinstance(images, tf.RaggedTensor):
            raise ValueError(f"Its images differ in size. {_ONE_SIZE}")
        if not isinstance(images, tf.Tensor):
            raise ValueError(
                f"The data must hold pairs of images and labels; received {type(images).__name__} "
                "in place of the images."
            )
        check_images(images, image_shape)
        check_labels(labels, num_classes, batch_size=len(images))
        shape = tuple(images.shape[1:])
        if self.image_shape not in (None, shape):
            raise ValueError(
                f"Its images have the shape {shape}, and in the batches before it they have the "
                f"shape {self.image_shape}. {_ONE_SIZE}"
            )
        self.image_shape = shape

    @property
    def batches(self):
        """The number of batches."""
        return len(self._digests)

    @property
    def batch_size(self):
        """The number of images in the first batch."""
        return self._sizes[0]

    @property
    def digest(self):
        """What tells these data from others."""
        return self._digests[-1]

    def __iter__(self):
        """Yields each batch: float32 images in [0, 1], and int64 labels of shape `(batch,)`."""
        return self._first_batches(self.batches)

    def _first_batches(self, number):
        digest = hashlib.sha256()
        # One more than wanted, to see whether the data have grown.
        batches = iter(self._dataset.take(number + (number == self.batches)))
        for expected in self._digests[:number]:
            images, labels = next(batches, (None, None))
            if images is not None:
                _add(digest, images, labels)
            if digest.hexdigest() != expected:
                raise ValueError(_OTHER_ORDER)
            yield _as_images(images), tf.cast(tf.reshape(labels, [-1]), tf.int64)
        if next(batches, None) is not None:
            raise ValueError(_OTHER_ORDER)

    def in_groups(self, size):
        """Runs through the data in groups of another size than that of the batches.

        Args:
            size: Number of images in a group; the last one may have fewer.

        Yields:
            Two arrays: images and labels.
        """
        images, labels = np.zeros((0, *self.image_shape), "float32"), np.zeros(0, "int64")
        for batch in self:
            images, labels = map(np.concatenate, zip((images, labels), batch, strict=True))
            whole = len(labels) - len(labels) % size
            for start in range(0, whole, size):
                yield images[start : start + size], labels[start : start + size]
            images, labels = images[whole:], labels[whole:]
        if len(labels):
            yield images, labels

    def first(self, number):
        """Returns the first images and their labels.

        Args:
            number: Number of images; all of them where there are fewer.

        Returns:
            Two arrays: images and labels.
        """
        batches = 1 + int(np.searchsorted(np.cumsum(self._sizes), number))
        held = list(self._first_batches(min(batches, self.batches)))
        images, labels = map(np.concatenate, zip(*held, strict=True))
        return images[:number], labels[:number]


_OTHER_ORDER = (
    "The dataset does not keep its order: it comes in another order each time, so results of one "
    "image cannot be put together. Shuffle it with `reshuffle_each_iteration=False`, or not at all."
)
_ONE_SIZE = (
    "One size at a time can be measured: resize the images to one size, or filter the data by "
    "their shape and call this for each."
)


def _as_images(images):
    # Rounding may leave [0, 1], which an attack takes at its word.
    return tf.clip_by_value(tf.cast(images, tf.float32), 0.0, 1.0)


def _add(digest, images, labels):
    digest.update(images.numpy().tobytes() + labels.numpy().tobytes())
