"""Checks and converts the user's data: arrays, pipelines, generators, PyDatasets."""

import contextlib
import dataclasses
import itertools
import re
import types
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.utils import pack_x_y_sample_weight as pack
from keras.utils import unpack_x_y_sample_weight as unpack

from keras_trn.input_validation import as_array
from keras_trn.input_validation import check_image_type
from keras_trn.input_validation import check_images
from keras_trn.input_validation import check_labels
from keras_trn.input_validation import check_sample_weight
from keras_trn.input_validation import known_shape
from keras_trn.types import ImageShape
from keras_trn.types import LabelledImages


def check_data(
    x: Any,
    y: Any,
    image_shape: ImageShape,
    num_classes: int,
    needs_labels: bool = True,
    steps: int | None = None,
) -> tuple[Any, Any]:
    """Checks the data for `fit`, `evaluate` or `predict`, and returns the `x` and `y` to use.

    It checks arrays and the first batch of a pipeline now, and the other batches when Keras reads
    them. `steps` is the number of batches to take from a pipeline; without it, the pipeline must
    end.
    """
    check = BatchCheck(image_shape, num_classes, needs_labels)
    if steps is None and isinstance(x, (tf.data.Dataset, keras.utils.PyDataset)):
        check_finite(x)
    if isinstance(x, types.GeneratorType):
        first = check(next(x, None))
        # Keras recognises a generator by its type, and a chain has another type.
        return (batch for batch in itertools.chain([first], map(check, x))), y
    if isinstance(x, tf.data.Dataset):
        _check_spec(x.element_spec, image_shape)
        # The list reads `take(1)` to its end. TensorFlow 2.21 sometimes truncates a cached
        # pipeline for good if its iterator was not read to the end.
        (first,) = list(x.take(1)) or [None]
        check(first)
        return with_checks(x, check), y
    if isinstance(x, keras.utils.PyDataset):
        check(x[0] if x.num_batches != 0 else None)
        return _CheckedBatches(x, check), y
    images, labels, _ = unpack(check((x, y)))
    return images, labels


@dataclasses.dataclass
class BatchCheck:
    """Checks a batch of a pipeline, and returns it with rounding errors clipped."""

    image_shape: ImageShape
    num_classes: int
    needs_labels: bool = True

    def __call__(self, batch: Any) -> Any:
        images, labels, weights = unpack(batch)
        if images is None:
            raise ValueError("Received no images: the data are missing or empty.")
        images = check_images(images, self.image_shape)
        if labels is not None:
            labels = check_labels(labels, self.num_classes, batch_size=len(images))
        elif self.needs_labels:
            raise ValueError(
                "Training and evaluation need labels: pass `fit(images, labels)`, or a dataset of "
                "pairs of images and labels."
            )
        if weights is not None:
            check_sample_weight(weights, len(images))
        return pack(images, labels, weights)


def _check_spec(spec: Any, image_shape: ImageShape) -> None:
    """Refuses a pipeline that cannot hold images and labels, from its description."""
    parts = spec if isinstance(spec, tuple) else (spec,)
    if isinstance(parts[0], dict):
        raise ValueError(
            "The pipeline must hold images and labels; received a dictionary of "
            f"{', '.join(map(repr, parts[0]))} instead of the images. Use adversarial examples "
            "that were cached for a frozen classifier only to train a restorer."
        )
    if len(parts) > 3 or not all(isinstance(part, tf.TensorSpec) for part in parts):
        names = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(
            "The pipeline must hold dense tensors of images, labels and, optionally, sample "
            f"weights; its elements are ({names})."
        )
    check_image_type(parts[0], image_shape)


def with_checks(dataset: tf.data.Dataset, check: BatchCheck) -> tf.data.Dataset:
    """Checks each batch of a pipeline when it is read, and sets the shape of its images.

    The images may be in a dictionary of `cache_adversarial_examples`.
    """

    def checked_images(images: tf.Tensor, rest: list[tf.Tensor]) -> tf.Tensor:
        # An error in Python can describe the images; an error in a graph cannot.
        checked = tf.numpy_function(
            lambda *batch: np.asarray(unpack(check(batch))[0]),
            [images, *rest],
            images.dtype,
            stateful=False,
        )
        shape = tf.TensorShape((None, *check.image_shape)).merge_with(images.shape)
        return tf.ensure_shape(checked, shape)

    def checked(*batch: Any) -> Any:
        inputs, *rest = batch
        if not isinstance(inputs, dict):
            return pack(checked_images(inputs, rest), *rest)
        images = {
            name: checked_images(inputs[name], rest)
            for name in ("images", "adversarial")
            if name in inputs
        }
        return ({**inputs, **images}, *rest)

    return dataset.map(checked, tf.data.AUTOTUNE)


class _CheckedBatches(keras.utils.PyDataset):
    """Checks each batch of a `PyDataset` when it is read."""

    def __init__(self, data: keras.utils.PyDataset, check: BatchCheck) -> None:
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self._data, self._check = data, check

    @property
    def num_batches(self) -> int | None:
        return self._data.num_batches

    def __getitem__(self, index: int) -> Any:
        return self._check(self._data[index])

    def on_epoch_begin(self) -> None:
        self._data.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._data.on_epoch_end()


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Raises the error of a batch, which TensorFlow hides in an error of its own, by itself."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        # TensorFlow gives the text of an error of Python, and then its traceback.
        found = re.search(r"\bValueError: (.*?)\s*Traceback \(most", error.message, re.DOTALL)
        if found is None:
            raise
        raise ValueError(f"A batch of the data: {found[1]}") from error


def check_finite(data: tf.data.Dataset | keras.utils.PyDataset) -> None:
    """Refuses endless data."""
    if isinstance(data, keras.utils.PyDataset):
        is_endless = data.num_batches is None
    else:
        is_endless = int(data.cardinality()) == tf.data.INFINITE_CARDINALITY
    if is_endless:
        raise ValueError(
            "The data have no end, for example because of `dataset.repeat()`, so this would never "
            "return. Use a part of them, `dataset.take(number_of_batches)`. Keras' own methods "
            "also take `steps_per_epoch`, `validation_steps` or `steps`."
        )


def as_dataset(data: LabelledImages, batch_size: int = 128) -> tf.data.Dataset:
    """Converts labelled images to a finite `tf.data.Dataset` of `(images, labels)` batches.

    It drops sample weights. `batch_size` applies to arrays and lists only.
    """
    if isinstance(data, (tuple, list)) and len(data) in (2, 3):
        images, labels = as_array("Images", data[0]), as_array("Labels", data[1])
        if images.shape[:1] != labels.shape[:1] or not images.shape:
            raise ValueError(
                f"Received images of shape {known_shape(images)} and labels of shape "
                f"{known_shape(labels)}, but there must be as many labels as images."
            )
        return tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)
    if not isinstance(data, (tf.data.Dataset, keras.utils.PyDataset)):
        raise ValueError(
            "The data must be a `tf.data.Dataset` of batches of images and labels, or a pair of "
            f"arrays `(images, labels)`; received {type(data).__name__}."
        )
    check_finite(data)
    if isinstance(data, keras.utils.PyDataset):
        return _from_py_dataset(data)
    spec = data.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3):
        raise ValueError(
            f"The data must hold pairs of images and labels; their elements are {spec}."
        )
    return data if len(spec) == 2 else data.map(lambda images, labels, _: (images, labels))


def _from_py_dataset(data: keras.utils.PyDataset) -> tf.data.Dataset:
    def batches() -> Iterator[tuple[Any, Any]]:
        for index in range(data.num_batches):
            images, labels, _ = unpack(data[index])
            yield as_array("Images", images), as_array("Labels", labels)

    first = next(batches(), None)
    if first is None:
        raise ValueError("Received no images: the data are empty.")
    # Shapes may differ between batches; whoever reads them checks that.
    specs = tuple(tf.TensorSpec(None, part.dtype) for part in first)
    dataset = tf.data.Dataset.from_generator(batches, output_signature=specs)
    return dataset.apply(tf.data.experimental.assert_cardinality(data.num_batches))
