"""Errors that say what came, what was expected, and how to fix it."""

import itertools
import math
import numbers
import types

import keras
import numpy as np
import tensorflow as tf

# Converting images there and back leaves [0, 1] by no more than this.
_ROUNDING = 1e-6


def check_image_type(images, image_shape=None):
    """Checks what can be known of images before looking at their values.

    Args:
        images: Array or tensor, eager or symbolic, or anything with `dtype` and
            `shape`. A dimension, or the rank, may be unknown.
        image_shape: Expected `(height, width, channels)`; `None` for any.

    Raises:
        ValueError: If the type, the rank or the shape is wrong.
    """
    dtype = np.dtype(getattr(images.dtype, "as_numpy_dtype", images.dtype))
    shape = known_shape(images)
    if not np.issubdtype(dtype, np.floating) and dtype.name != "bfloat16":
        raise ValueError(
            f"Images must be floating point in [0, 1], received {dtype.name} images of shape "
            f"{shape}. For 8-bit images: `images.astype('float32') / 255`."
        )
    if shape is None:
        return
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


def known_shape(images):
    """Returns what is known of a shape.

    Args:
        images: An array, a tensor or a `tf.TensorSpec`.

    Returns:
        A tuple with `None` for each unknown dimension; `None` if the rank is unknown.
    """
    shape = images.shape
    if isinstance(shape, tf.TensorShape):
        return None if shape.rank is None else tuple(shape.as_list())
    return tuple(shape)


def with_known_shape(images, image_shape=None):
    """Tells TensorFlow the shape of images that come from a pipeline without one.

    Args:
        images: Tensor of images, eager or symbolic.
        image_shape: The `(height, width, channels)` that the classifier takes; `None`
            where nothing is known.

    Returns:
        The tensor, with all that is known of its shape.

    Raises:
        ValueError: If the rank or the number of channels is still unknown.
    """
    if image_shape is not None:
        images = tf.ensure_shape(images, (None, *image_shape))
    shape = known_shape(images)
    if shape is None or (len(shape) == 4 and shape[-1] is None):
        raise ValueError(
            f"TensorFlow does not know the {'rank' if shape is None else 'number of channels'} of "
            "these images. Tell it in the pipeline: `images = tf.ensure_shape(images, (None, "
            "height, width, channels))`, or `image.set_shape((height, width, channels))` for one "
            "image."
        )
    return images


def check_images(images, image_shape=None):
    """Checks the type, shape and values of images.

    Args:
        images: NumPy array or eager tensor.
        image_shape: Expected `(height, width, channels)`; `None` for any.

    Returns:
        The images. Values that leave [0, 1] by a rounding error are clipped.

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
    if low >= 0 and high <= 1:
        return images
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return np.clip(values, 0.0, 1.0)
    raise ValueError(
        f"Images must lie in [0, 1], received values from {_exact(low)} to {_exact(high)}. "
        f"{_way_into_range(low, high)}"
    )


def _exact(value):
    """A number with as many digits as tell it from 0 and 1."""
    short = f"{value:g}"
    return repr(value) if float(short) in (0.0, 1.0) and float(short) != value else short


def _way_into_range(low, high):
    if low > -0.5 and high < 1.5:
        return (
            "Resizing with bicubic or Lanczos interpolation overshoots: clip the images, "
            "`np.clip(images, 0, 1)`."
        )
    rescaled = "images / 255" if low >= 0 else "(images - low) / (high - low)"
    return (
        f"Rescale them, `{rescaled}`, and let the classifier undo it with a "
        "`keras.layers.Rescaling` layer if it was trained on another range."
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
        value: The number: Python's, NumPy's, or an array or tensor of no dimension.
        low: The smallest value allowed.
        high: The largest value allowed.

    Returns:
        The value as a Python number.

    Raises:
        ValueError: If the value is not a number of that range.
    """
    number = _python_number(value)
    if number is None or not math.isfinite(number) or not low <= number <= high:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, received {value!r}.")
    return number


def check_whole_number(name, value, low, high=math.inf):
    """Checks that an argument is a whole number in `[low, high]`.

    Args:
        name: What the number is called where the user gave it.
        value: The number: Python's, NumPy's, or an array or tensor of no dimension.
        low: The smallest value allowed.
        high: The largest value allowed.

    Returns:
        The value as a Python `int`.

    Raises:
        ValueError: If it is not.
    """
    number = _python_number(value)
    if not isinstance(number, int) or not low <= number <= high:
        bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name} must be a whole number {bounds}, received {value!r}.")
    return number


def check_count(name, value):
    """Checks that a number is a whole number of at least 1.

    Args:
        name: What the number is called where the user gave it.
        value: The number.

    Returns:
        The value as a Python `int`.

    Raises:
        ValueError: If the value is not such a number.
    """
    return check_whole_number(name, value, 1)


def check_seed(seed):
    """Checks a seed.

    Args:
        seed: A whole number from 0 to 2147483647, or `None`.

    Returns:
        The seed as a Python `int`, or `None`.

    Raises:
        ValueError: If it is anything else.
    """
    return None if seed is None else check_whole_number("seed", seed, 0, np.iinfo(np.int32).max)


def _python_number(value):
    """A number as Python's own `int` or `float`; `None` for anything else."""
    if isinstance(value, (np.ndarray, tf.Tensor)) and value.shape == ():
        value = value.numpy() if isinstance(value, tf.Tensor) else value[()]
    if isinstance(value, (bool, np.bool_)):
        return None
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else None


def check_data(x, y, image_shape, num_classes, needs_labels=True, steps=None):
    """Checks what goes into `fit`, `evaluate` or `predict`.

    Arrays are checked whole; a pipeline by its first batch, which is not lost.

    Args:
        x: Images as an array, a list or a tensor, or a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or a generator of batches.
        y: Labels; `None` where `x` holds them.
        image_shape: Expected `(height, width, channels)`.
        num_classes: Number of classes.
        needs_labels: Whether there have to be labels.
        steps: Number of batches that are taken of the data; `None` for all.

    Returns:
        What is to be used in place of `x` and `y`.

    Raises:
        ValueError: If the images or labels are malformed, labels are missing, or all of a
            pipeline without end is asked for.
    """
    if isinstance(x, types.GeneratorType):
        first = next(x, (None, None))
        # Keras knows a generator by its type, which a chain does not have.
        x = (batch for batch in itertools.chain([first], x))
    elif isinstance(x, tf.data.Dataset):
        if steps is None:
            check_finite(x)
        x = _with_known_shapes(x, image_shape)
        first = next(iter(first_elements(x, 1)), (None, None))
    elif isinstance(x, keras.utils.PyDataset):
        if steps is None:
            check_finite(x)
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


def _as_array(values):
    """Lists, which Keras takes for several inputs, as arrays; anything else as it came."""
    if not isinstance(values, (list, tuple)):
        return values
    array = np.asarray(values)
    # Python's own floats have 64 bits, and no image needs them.
    return array.astype("float32") if array.dtype == np.float64 else array


def _with_known_shapes(dataset, image_shape):
    """Tells TensorFlow the shape of the images of a pipeline where it does not know it."""
    spec = dataset.element_spec
    images_spec = spec[0] if isinstance(spec, tuple) else spec
    if isinstance(images_spec, dict):
        raise ValueError(
            "The pipeline must hold images and labels; received a dictionary of "
            f"{', '.join(map(repr, images_spec))} in place of the images. The adversarial "
            "examples of a frozen classifier are for the training of what restores images "
            "in front of it."
        )
    check_image_type(images_spec, image_shape)
    shape = known_shape(images_spec)
    if shape is not None and None not in shape[1:]:
        return dataset
    if isinstance(spec, tuple):
        return dataset.map(lambda images, *rest: (with_known_shape(images, image_shape), *rest))
    return dataset.map(lambda images: with_known_shape(images, image_shape))


def check_finite(data):
    """Checks that data come to an end.

    Args:
        data: A `tf.data.Dataset` or a `keras.utils.PyDataset`.

    Raises:
        ValueError: If they are known not to.
    """
    if isinstance(data, keras.utils.PyDataset):
        is_endless = data.num_batches is None
    else:
        is_endless = int(data.cardinality()) == tf.data.INFINITE_CARDINALITY
    if is_endless:
        raise ValueError(
            "The data have no end, as `dataset.repeat()` makes them: this would never come back. "
            "Take a part of them, `dataset.take(number_of_batches)`; in Keras' own methods, say "
            "`steps_per_epoch`, `validation_steps` or `steps`."
        )


def as_dataset(data, batch_size=128):
    """Turns labelled images into the pipeline that evaluations run through again and again.

    Args:
        data: A `tf.data.Dataset` of batches of images and labels, a
            `keras.utils.PyDataset` of them, or a pair of arrays or lists. Sample weights
            are left out, as a report has no use for them.
        batch_size: Number of images in a batch where `data` are arrays.

    Returns:
        A `tf.data.Dataset` of pairs `(images, labels)`.

    Raises:
        ValueError: If the data are anything else, or have no end.

    Example:
        ```python
        from keras_trn.input_validation import as_dataset

        images, labels = np.zeros((3, 8, 8, 1), "float32"), np.array([0, 1, 2])
        dataset = as_dataset((images, labels), batch_size=2)
        assert [len(labels) for _, labels in dataset] == [2, 1]
        ```
    """
    if isinstance(data, (tuple, list)) and len(data) in (2, 3):
        images, labels = _as_array(data[0]), _as_array(data[1])
        if len(images) != len(labels):
            raise ValueError(f"Received {len(images)} images but {len(labels)} labels.")
        return tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)
    if isinstance(data, keras.utils.PyDataset):
        check_finite(data)
        return _from_py_dataset(data)
    if not isinstance(data, tf.data.Dataset):
        raise ValueError(
            "The data must be a `tf.data.Dataset` of batches of images and labels, or a pair of "
            f"arrays `(images, labels)`; received {type(data).__name__}."
        )
    check_finite(data)
    spec = data.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3):
        raise ValueError(
            f"The data must hold pairs of images and labels; their elements are {spec}."
        )
    return data if len(spec) == 2 else data.map(lambda images, labels, _: (images, labels))


def _from_py_dataset(data):
    """A pipeline of the batches of a `keras.utils.PyDataset`, in order."""

    def batches():
        for index in range(data.num_batches):
            images, labels, _ = keras.utils.unpack_x_y_sample_weight(data[index])
            yield np.asarray(images), np.asarray(labels)

    images, labels = next(batches())
    specs = [tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in (images, labels)]
    dataset = tf.data.Dataset.from_generator(batches, output_signature=tuple(specs))
    return dataset.apply(tf.data.experimental.assert_cardinality(data.num_batches))


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
        from keras_trn.input_validation import first_elements

        dataset = tf.data.Dataset.range(10).cache()
        assert len(first_elements(dataset, 2)) == 2
        assert len(list(dataset)) == 10
        ```
    """
    return list(dataset.take(number))
