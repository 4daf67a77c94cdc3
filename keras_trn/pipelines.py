"""Checks and converts the user's data: arrays, pipelines, generators, PyDatasets."""

import itertools
import types
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_trn.input_validation import check_image_type
from keras_trn.input_validation import check_images
from keras_trn.input_validation import check_labels
from keras_trn.input_validation import known_shape
from keras_trn.input_validation import with_known_shape
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

    It checks arrays as a whole, and a pipeline by its first batch. `steps` is the number of
    batches to take from a pipeline; without it, the pipeline must end.
    """
    if steps is None and isinstance(x, (tf.data.Dataset, keras.utils.PyDataset)):
        check_finite(x)
    if isinstance(x, types.GeneratorType):
        first = next(x, (None, None))
        # Keras recognises a generator by its type, and a chain has another type.
        x = (batch for batch in itertools.chain([first], x))
    elif isinstance(x, tf.data.Dataset):
        x = _with_known_shapes(x, image_shape)
        # The list reads `take(1)` to its end. TensorFlow 2.21 sometimes truncates a cached
        # pipeline for good if its iterator was not read to the end.
        (first,) = list(x.take(1)) or [(None, None)]
    elif isinstance(x, keras.utils.PyDataset):
        first = x[0]
    else:
        x, y = _as_array(x), _as_array(y)
        first = (x, y)
    images, labels, _ = keras.utils.unpack_x_y_sample_weight(first)
    if images is None:
        raise ValueError("Received no images: the data are missing or empty.")
    checked = check_images(images, image_shape)
    if labels is not None:
        check_labels(labels, num_classes, batch_size=len(images))
    elif needs_labels:
        raise ValueError(
            "Training and evaluation need labels: pass `fit(images, labels)`, or a dataset of "
            "pairs of images and labels."
        )
    return (checked if x is images else x), y


def _as_array(values: Any) -> Any:
    """Converts lists, which Keras would treat as several inputs, to arrays."""
    if not isinstance(values, (list, tuple)):
        return values
    array = np.asarray(values)
    # Python floats have 64 bits, more than images need.
    return array.astype("float32") if array.dtype == np.float64 else array


def _with_known_shapes(dataset: tf.data.Dataset, image_shape: ImageShape) -> tf.data.Dataset:
    """Sets the shape of a pipeline's images if TensorFlow does not know it."""
    spec = dataset.element_spec
    images_spec = spec[0] if isinstance(spec, tuple) else spec
    if isinstance(images_spec, dict):
        raise ValueError(
            "The pipeline must hold images and labels; received a dictionary of "
            f"{', '.join(map(repr, images_spec))} instead of the images. Use adversarial examples "
            "that were cached for a frozen classifier only to train a restorer."
        )
    check_image_type(images_spec, image_shape)
    shape = known_shape(images_spec)
    if shape is not None and None not in shape[1:]:
        return dataset
    if isinstance(spec, tuple):
        return dataset.map(lambda images, *rest: (with_known_shape(images, image_shape), *rest))
    return dataset.map(lambda images: with_known_shape(images, image_shape))


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
        images, labels = _as_array(data[0]), _as_array(data[1])
        if len(images) != len(labels):
            raise ValueError(f"Received {len(images)} images but {len(labels)} labels.")
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
    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index in range(data.num_batches):
            images, labels, _ = keras.utils.unpack_x_y_sample_weight(data[index])
            yield np.asarray(images), np.asarray(labels)

    specs = tuple(tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in next(batches()))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=specs)
    return dataset.apply(tf.data.experimental.assert_cardinality(data.num_batches))
