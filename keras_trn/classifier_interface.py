"""Describes a classifier to the rest of the package, and refuses unsuitable ones."""

import warnings
from typing import Any

import keras
import numpy as np

from keras_trn.architecture import nested_layers
from keras_trn.checked_model import CheckedModel
from keras_trn.logits import logits_function
from keras_trn.logits import looks_like_probabilities
from keras_trn.types import ImageShape

_SQUASHING = {"softmax", "sigmoid", "hardsigmoid", "sparsemax"}


def describe_classifier(classifier: keras.Model) -> tuple[ImageShape, int]:
    """Returns the image shape and the number of classes of a classifier.

    Raises a `ValueError` if it is not a built Keras model from images to the logits of at least
    two classes.
    """
    if not isinstance(classifier, keras.Model):
        raise ValueError(f"classifier must be a Keras model, received {type(classifier).__name__}.")
    _check_layers(classifier)
    image_shape = _image_shape(classifier)
    check_number_types(classifier)
    scores = _probe_scores(classifier, image_shape)
    if scores.ndim != 2 or scores.shape[-1] < 2:
        raise ValueError(
            "The classifier must return one logit for each of at least two classes, in the shape "
            f"(batch, num_classes); it returns the shape (batch, {str(scores.shape[1:])[1:-1]}). "
            "A binary classifier needs two outputs, `Dense(2)`. To convert a trained one with one "
            "logit: `keras.ops.concatenate([keras.ops.zeros_like(logit), logit], axis=-1)`."
        )
    if not np.isfinite(scores).all(axis=-1).any():
        raise ValueError(
            f"The classifier must return finite logits; on noise, black and white images it "
            f"returned NaN or infinity, such as {scores[0]}. Its training may have diverged: train "
            "it again, or load other weights."
        )
    squashing = squashing_head(classifier)
    if squashing or looks_like_probabilities(scores):
        raise ValueError(
            f"The classifier returns probabilities{f' of a {squashing}' if squashing else ''}, and "
            "gradients vanish when a probability is near 0 or 1; it must return logits. If its "
            "last layer is `Dense(..., activation='softmax')` or `'sigmoid'`, remove it with "
            "`classifier.layers[-1].activation = keras.activations.linear`; the predicted classes "
            "stay the same. Otherwise rebuild the classifier without its last activation."
        )
    if scores.min() >= 0 and scores.max() <= 1 and not _ends_in_linear_dense(classifier):
        warnings.warn(
            f"All scores of the classifier '{classifier.name}' lie in [0, 1] on noise, black "
            "and white images. If they are probabilities, gradients vanish and attacks are too "
            "weak: remove the activation that squashes the logits.",
            stacklevel=3,
        )
    return image_shape, scores.shape[-1]


def known_image_shape(classifier: Any) -> ImageShape | None:
    """Returns the image shape that a Keras model was built for; `None` if it has none."""
    if isinstance(classifier, CheckedModel):
        return classifier.image_shape
    inputs = getattr(classifier, "inputs", None) if isinstance(classifier, keras.Model) else None
    shape = tuple(inputs[0].shape[1:]) if inputs and len(inputs) == 1 else ()
    return shape if len(shape) == 3 else None


def _check_layers(classifier: keras.Model) -> None:
    """Refuses channels-first layers, and finalizes `Normalization` layers."""
    for layer in nested_layers(classifier):
        if isinstance(layer, keras.layers.Normalization):
            # Inside a subclassed model, it may hold tensors of a graph that no longer exists.
            layer.finalize_state()
        is_first = getattr(layer, "data_format", None) == "channels_first"
        if is_first and not isinstance(layer, keras.layers.Flatten):
            raise ValueError(
                f"The layer '{layer.name}' of the classifier has data_format='channels_first', "
                "but images have the shape (batch, height, width, channels). Build the classifier "
                "with data_format='channels_last'. If your code does not set it, change Keras' "
                "`image_data_format`: `keras.config.set_image_data_format('channels_last')`, or "
                "the entry of that name in `~/.keras/keras.json`."
            )


def check_number_types(classifier: Any) -> None:
    """Refuses whole numbers, which images in [0, 1] and gradients do not survive."""
    is_model = isinstance(classifier, keras.Model)
    for name in ("inputs", "outputs") if is_model else ():
        for tensor in getattr(classifier, name, None) or []:
            if not keras.backend.is_float_dtype(tensor.dtype):
                raise ValueError(
                    f"The {name} of the classifier must be floating point, and they are "
                    f"{tensor.dtype}. It must map images in [0, 1] to logits: begin with "
                    "`keras.Input(image_shape)` and `keras.layers.Rescaling(255)`, and end in "
                    "`Dense(num_classes)`."
                )


def squashing_head(classifier: Any) -> str | None:
    """Returns the name of a last operation that maps logits to [0, 1]; `None` if not found."""
    last = _last_operation(classifier)
    names = [type(last).__name__, getattr(getattr(last, "activation", None), "__name__", "")]
    found = {name.lower().replace("_", "") for name in names} & _SQUASHING
    return found.pop() if found else None


def _ends_in_linear_dense(classifier: keras.Model) -> bool:
    last = _last_operation(classifier)
    is_dense = isinstance(last, keras.layers.Dense)
    return is_dense and last.activation is keras.activations.linear


def _last_operation(classifier: Any) -> Any:
    """Returns the operation that computes the scores, also inside nested models."""
    operations = getattr(classifier, "operations", None) or getattr(classifier, "layers", None)
    if not isinstance(classifier, keras.Model) or not operations:
        return classifier
    return _last_operation(operations[-1])


def _image_shape(classifier: keras.Model) -> ImageShape:
    inputs = getattr(classifier, "inputs", None)
    if inputs is not None and len(inputs) != 1:
        raise ValueError(f"The classifier must take one input; it takes {len(inputs)}.")
    shape = inputs[0].shape if inputs else (classifier.get_build_config() or {}).get("input_shape")
    if shape is None:
        raise ValueError(
            f"The classifier '{classifier.name}' has not been built, so its image shape is not "
            "known. Call it once on a batch of images, or start it with `keras.Input`."
        )
    if len(shape) != 4 or shape[-1] is None:
        raise ValueError(
            "The classifier must take images of shape (batch, height, width, channels); it takes "
            f"{tuple(shape)}."
        )
    return tuple(shape[1:])


def _probe_scores(classifier: keras.Model, image_shape: ImageShape) -> np.ndarray:
    """Returns the scores of a few random images, a black one and a white one."""
    shape = [32 if side is None else side for side in image_shape]
    noise = np.random.default_rng(0).random((4, *shape), dtype="float32")
    plain = np.stack([np.zeros(shape, "float32"), np.ones(shape, "float32")])
    return np.asarray(logits_function(classifier)(np.concatenate([noise, plain])))
