"""Checks images, labels and numbers, with errors that say how to fix them."""

import math
import numbers
from typing import Any

import numpy as np
import tensorflow as tf

from keras_trn.types import ArrayLike
from keras_trn.types import ImageShape

# Converting images to another range and back may exceed [0, 1] by this much.
_ROUNDING = 1e-6


def as_array(name: str, values: Any) -> Any:
    """Converts images or labels to an array; a `tf.Tensor` stays one.

    Refuses values that form no array of numbers or strings. `name` names the values in errors.
    """
    if isinstance(values, tf.Tensor) and not isinstance(values, tf.RaggedTensor):
        return values
    if not isinstance(values, (list, tuple)) and not hasattr(values, "__array__"):
        raise ValueError(
            f"{name} must be an array, a tensor or a list of numbers, received "
            f"{type(values).__name__}. Ragged and sparse data need a dense copy of one shape."
        )
    if np.ma.is_masked(values):
        raise ValueError(
            f"{name} must have a value everywhere, received an array with "
            f"{np.ma.count_masked(values)} masked values. Fill them: `values.filled(0)`."
        )
    array = _as_numpy(name, values)
    # Python's floats have 64 bits, more than images need; TensorFlow takes no more than 64.
    is_wide = isinstance(values, (list, tuple)) or array.dtype.itemsize > 8
    return array.astype("float32") if is_wide and array.dtype.kind == "f" else array


def _as_numpy(name: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"{name} must form one array, received a {type(values).__name__} that does not: "
            f"{error} Bring all items to one shape, and stack them with `np.stack`."
        ) from error
    is_text = array.dtype.kind == "O" and array.size and isinstance(array.flat[0], (str, bytes))
    # NumPy counts bfloat16 among the records.
    if array.dtype.kind in "OMmV" and not is_text and array.dtype.name != "bfloat16":
        raise ValueError(
            f"{name} must be numbers, received {array.dtype.name} values of shape {array.shape}. "
            "Convert them with `values.astype('float32')`, or labels with "
            "`labels.astype('int64')`."
        )
    return array


def check_image_type(images: Any, image_shape: ImageShape | None = None) -> None:
    """Checks the data type and shape of images, which may be symbolic or a `tf.TensorSpec`."""
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
    if image_shape is not None and not tf.TensorShape(image_shape).is_compatible_with(shape[1:]):
        raise ValueError(
            f"Images must have the shape (batch, {', '.join(map(str, image_shape))}) that the "
            f"classifier takes, received shape {shape}. Resize the images, or convert their "
            "channels, to match the training data of the classifier."
        )


def known_shape(images: Any) -> tuple[int | None, ...] | None:
    """Returns a shape, with `None` for unknown dimensions; `None` if the rank is unknown."""
    shape = images.shape
    if isinstance(shape, tf.TensorShape):
        return None if shape.rank is None else tuple(shape.as_list())
    return tuple(shape)


def with_known_shape(images: tf.Tensor, image_shape: ImageShape | None = None) -> tf.Tensor:
    """Sets the static shape of images, and refuses an unknown rank or number of channels."""
    if image_shape is not None:
        images = tf.ensure_shape(images, (None, *image_shape))
    shape = known_shape(images)
    if shape is None or (len(shape) == 4 and shape[-1] is None):
        raise ValueError(
            f"TensorFlow does not know the {'rank' if shape is None else 'number of channels'} of "
            "these images. Set their shape in the pipeline: `images = tf.ensure_shape(images, "
            "(None, height, width, channels))`, or `image.set_shape((height, width, channels))` "
            "for one image."
        )
    return images


def check_images(images: ArrayLike, image_shape: ImageShape | None = None) -> ArrayLike:
    """Checks the type, shape and values of images, and clips rounding errors to [0, 1].

    Returns an array or a `tf.Tensor`.
    """
    images = as_array("Images", images)
    check_image_type(images, image_shape)
    values = np.asarray(images)
    if not values.size:
        raise ValueError(f"Received no images: the array has shape {values.shape}.")
    is_finite = np.isfinite(values).all(axis=(1, 2, 3))
    if not is_finite.all():
        bad = np.flatnonzero(~is_finite)
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
        f"{_range_advice(low, high)}"
    )


def _exact(value: float) -> str:
    """Formats a number with enough digits to distinguish it from 0 and 1."""
    short = f"{value:g}"
    return repr(value) if float(short) in (0.0, 1.0) and float(short) != value else short


def _range_advice(low: float, high: float) -> str:
    if low > -0.5 and high < 1.5:
        return (
            "Resizing with bicubic or Lanczos interpolation overshoots: clip the images, "
            "`np.clip(images, 0, 1)`."
        )
    rescaled = "images / 255" if low >= 0 else "(images - low) / (high - low)"
    return (
        f"Rescale them, `{rescaled}`. If the classifier was trained on another range, add a "
        "`keras.layers.Rescaling` layer at its start."
    )


def check_labels(labels: ArrayLike, num_classes: int, batch_size: int | None = None) -> ArrayLike:
    """Checks that labels are class indices, one for each image.

    Returns an array or a `tf.Tensor`.
    """
    labels = as_array("Labels", labels)
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
    return labels


def check_sample_weight(weights: Any, batch_size: int | None = None) -> None:
    """Checks that there is a finite, non-negative weight for each image."""
    values = as_array("Sample weights", weights)
    values = np.asarray(values)
    if values.dtype.kind not in "fiub" and values.dtype.name != "bfloat16":
        raise ValueError(f"Sample weights must be numbers, received {values.dtype.name} values.")
    shape = values.shape
    if shape[1:] not in ((), (1,)) or not shape or batch_size not in (None, len(values)):
        images = "images" if batch_size is None else f"{batch_size} images"
        raise ValueError(
            f"Sample weights must have the shape (batch,), one for each of the {images}, received "
            f"shape {shape}."
        )
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(
            "Sample weights must be finite and at least 0, received values from "
            f"{values.min()} to {values.max()}."
        )


def check_class_weight(weights: Any, num_classes: int) -> None:
    """Checks that class weights are a dictionary from class indices to weights."""
    if not isinstance(weights, dict):
        raise ValueError(
            "class_weight must be a dictionary from class indices to weights, such as "
            f"`{{0: 1.0, 1: 2.0}}`, received {weights!r}."
        )
    for label, weight in weights.items():
        check_whole_number("A class in class_weight", label, 0, num_classes - 1)
        check_range(f"class_weight of class {label}", weight, 0, math.inf)


def check_range(name: str, value: Any, low: float, high: float) -> float:
    """Returns a number in `[low, high]` as a Python number; refuses anything else."""
    number = _python_number(value)
    if not low <= number <= high or math.isinf(number):
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, received {value!r}.")
    return number


def check_whole_number(name: str, value: Any, low: int, high: float = math.inf) -> int:
    """Returns a whole number in `[low, high]` as a Python `int`; refuses anything else."""
    number = _python_number(value)
    if not isinstance(number, int) or not low <= number <= high:
        bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name} must be a whole number {bounds}, received {value!r}.")
    return number


def check_count(name: str, value: Any) -> int:
    """Returns a whole number of at least 1 as a Python `int`; refuses anything else."""
    return check_whole_number(name, value, 1)


def check_seed(seed: Any) -> int | None:
    """Returns a seed from 0 to 2147483647 as a Python `int`; `None` stays `None`."""
    return None if seed is None else check_whole_number("seed", seed, 0, np.iinfo(np.int32).max)


def _python_number(value: Any) -> float:
    """Converts a number, or an array or tensor without dimensions; NaN for anything else."""
    if isinstance(value, (np.ndarray, tf.Tensor)) and value.shape == ():
        value = value.numpy() if isinstance(value, tf.Tensor) else value[()]
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return float(value) if is_number else math.nan
