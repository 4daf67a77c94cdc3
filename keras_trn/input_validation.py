"""Errors that say what came, what was expected, and how to fix it."""

import itertools
import math
import types

import keras
import numpy as np
import tensorflow as tf


def check_image_type(images, image_shape=None):
    """Checks what can be known of images before looking at their values.

    Args:
        images: Array or tensor, eager or symbolic, or anything with `dtype` and
            `shape`.
        image_shape: Expected `(height, width, channels)`; `None` for any.

    Raises:
        ValueError: If the type, the rank or the shape is wrong.
    """
    dtype = np.dtype(getattr(images.dtype, "as_numpy_dtype", images.dtype))
    shape = tuple(images.shape)
    if not np.issubdtype(dtype, np.floating) and dtype.name != "bfloat16":
        raise ValueError(
            f"Images must be floating point in [0, 1], received {dtype.name} images of shape "
            f"{shape}. For 8-bit images: `images.astype('float32') / 255`."
        )
    if len(shape) != 4:
        raise ValueError(
            "Images must have the shape (batch, height, width, channels), received shape "
            f"{shape}. Grey images need a channel axis, `images[..., None]`; a single image "
            "needs a batch axis, `image[None]`."
        )
    if image_shape is None:
        return
    differs = [
        expected is not None and received is not None and expected != received
        for expected, received in zip(image_shape, shape[1:], strict=True)
    ]
    if any(differs):
        raise ValueError(
            f"Images must have the shape (batch, {', '.join(map(str, image_shape))}) that the "
            f"classifier takes, received shape {shape}. Resize the images, or convert their "
            "channels, to what the classifier was trained on."
        )


def check_images(images, image_shape=None):
    """Checks the type, shape and values of images.

    Args:
        images: NumPy array or eager tensor.
        image_shape: Expected `(height, width, channels)`; `None` for any.

    Raises:
        ValueError: If the type, the shape or the values are wrong.
    """
    check_image_type(images, image_shape)
    values = np.asarray(images)
    if not values.size:
        raise ValueError(f"Received no images: the array has shape {values.shape}.")
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2, 3)))
        raise ValueError(
            f"Images must be finite, received NaN or infinity in {len(bad)} of {len(values)} "
            f"images, the first at index {bad[0]}. Remove or repair these images."
        )
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        mend = "images / 255" if low >= 0 and high > 2 else "(images - low) / (high - low)"
        raise ValueError(
            f"Images must lie in [0, 1], received values from {low:g} to {high:g}. Rescale them, "
            f"`{mend}`, and let the classifier undo it with a `keras.layers.Rescaling` layer if "
            "it was trained on another range."
        )


def check_labels(labels, num_classes, batch_size=None):
    """Checks that labels are class indices.

    Args:
        labels: NumPy array or eager tensor of shape `(batch,)` or `(batch, 1)`.
        num_classes: Number of classes; labels lie in `[0, num_classes)`.
        batch_size: Expected number of labels; `None` for any.

    Raises:
        ValueError: If the type, the shape or the values are wrong.
    """
    values = np.asarray(labels)
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(
            f"Labels must be whole numbers in [0, {num_classes}), received labels of type "
            f"{values.dtype.name}. Map class names to indices with `keras.layers.StringLookup`, "
            "one-hot labels with `labels.argmax(-1)`, and whole numbers that are stored as "
            "floats with `labels.astype('int64')`."
        )
    if values.ndim != 1 and values.shape[1:] != (1,):
        raise ValueError(
            "Labels must be class indices of shape (batch,), received shape "
            f"{values.shape}. For one-hot labels: `labels.argmax(-1)`."
        )
    if batch_size is not None and len(values) != batch_size:
        raise ValueError(f"Received {batch_size} images but {len(values)} labels.")
    if values.size and (values.min() < 0 or values.max() >= num_classes):
        raise ValueError(
            f"Labels must lie in [0, {num_classes}), as many as the classifier has outputs, "
            f"received labels from {values.min()} to {values.max()}. Check that the classifier "
            "was trained on these classes, counted from 0."
        )


def check_range(name, value, low, high):
    """Checks that a number lies in `[low, high]`.

    Args:
        name: What the number is called where the user gave it.
        value: The number.
        low: The smallest value allowed.
        high: The largest value allowed.

    Raises:
        ValueError: If the value is not a number of that range.
    """
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, received {value!r}.")


def check_whole_number(name, value, low, high=math.inf):
    """Checks that an argument is a whole number in `[low, high]`.

    Args:
        name: What the number is called where the user gave it.
        value: The number.
        low: The smallest value allowed.
        high: The largest value allowed.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name} must be a whole number {bounds}, received {value!r}.")


def check_count(name, value):
    """Checks that a number is a whole number of at least 1.

    Args:
        name: What the number is called where the user gave it.
        value: The number.

    Raises:
        ValueError: If the value is not such a number.
    """
    check_whole_number(name, value, 1)


def check_data(x, y, image_shape, num_classes, needs_labels=True):
    """Checks what goes into `fit`, `evaluate` or `predict`.

    Arrays are checked whole; a pipeline by its first batch, which is not lost.

    Args:
        x: Images as an array or a tensor, or a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or a generator of batches.
        y: Labels; `None` where `x` holds them.
        image_shape: Expected `(height, width, channels)`.
        num_classes: Number of classes.
        needs_labels: Whether there have to be labels.

    Returns:
        What is to be used in place of `x`.

    Raises:
        ValueError: If the images or labels are malformed, or labels are missing.
    """
    if isinstance(x, types.GeneratorType):
        first = next(x, (None, None))
        # Keras knows a generator by its type, which a chain does not have.
        x = (batch for batch in itertools.chain([first], x))
    elif isinstance(x, tf.data.Dataset):
        images_spec = x.element_spec[0] if isinstance(x.element_spec, tuple) else x.element_spec
        if isinstance(images_spec, dict):
            raise ValueError(
                "The pipeline must hold images and labels; received a dictionary of "
                f"{', '.join(map(repr, images_spec))} in place of the images. The adversarial "
                "examples of a frozen classifier are for the training of what restores images "
                "in front of it."
            )
        check_image_type(images_spec, image_shape)
        first = next(iter(first_elements(x, 1)), (None, None))
    elif isinstance(x, keras.utils.PyDataset):
        first = x[0]
    else:
        x = np.asarray(x) if isinstance(x, list) else x
        first = (x, y)
    images, labels, _ = keras.utils.unpack_x_y_sample_weight(first)
    if images is None:
        raise ValueError("Received no images: the data are missing or empty.")
    check_images(images, image_shape)
    if labels is not None:
        check_labels(labels, num_classes, batch_size=len(images))
    elif needs_labels:
        raise ValueError(
            "Training and evaluation need labels: pass `fit(images, labels)`, or a dataset of "
            "pairs of images and labels."
        )
    return x


def first_elements(dataset, number):
    """Reads the first elements of a pipeline, and leaves no iterator half read.

    Where an iterator of a cached pipeline is abandoned half read, TensorFlow 2.21
    now and then takes what was read for the whole, and the pipeline ends there
    ever after.

    Args:
        dataset: A `tf.data.Dataset`.
        number: Number of elements.

    Returns:
        A list of at most that many elements.

    Example:
        ```python
        import tensorflow as tf
        from keras_trn.input_validation import first_elements

        dataset = tf.data.Dataset.range(10).cache()
        assert len(first_elements(dataset, 2)) == 2
        assert len(list(dataset)) == 10
        ```
    """
    return list(dataset.take(number))
