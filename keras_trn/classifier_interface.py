"""What the package has to know of a classifier, and what it refuses."""

import warnings

import keras
import numpy as np

from keras_trn.logits import logits_function
from keras_trn.logits import looks_like_probabilities

_SQUASHING = {"softmax", "sigmoid", "hardsigmoid", "sparsemax"}


def describe_classifier(classifier):
    """Finds out what images a classifier takes and how many classes it knows.

    Args:
        classifier: A built Keras model from images to logits.

    Returns:
        The image shape `(height, width, channels)`, in which height and width
        may be `None`, and the number of classes.

    Raises:
        ValueError: If it is no Keras model, is not built, does not take images,
            has fewer than two outputs, or returns probabilities.

    Example:
        ```python
        from keras_trn.classifier_interface import describe_classifier

        assert describe_classifier(classifier) == ((8, 8, 1), 10)
        ```
    """
    if not isinstance(classifier, keras.Model):
        raise ValueError(f"classifier must be a Keras model, received {type(classifier).__name__}.")
    _check_layers(classifier)
    image_shape = _image_shape(classifier)
    scores = _scores_of_probes(classifier, image_shape)
    if scores.ndim != 2 or scores.shape[-1] < 2:
        raise ValueError(
            "The classifier must return one logit for each of at least two classes, in the shape "
            f"(batch, num_classes); it returns the shape (batch, {str(scores.shape[1:])[1:-1]}). "
            "A binary classifier needs two outputs, `Dense(2)`. One logit that is trained already "
            "becomes two by `keras.ops.concatenate([keras.ops.zeros_like(logit), logit], axis=-1)`."
        )
    squashing = squashing_head(classifier)
    if squashing or looks_like_probabilities(scores):
        raise ValueError(
            f"The classifier returns probabilities{f' of a {squashing}' if squashing else ''}, and "
            "gradients vanish where a probability is near 0 or 1; it must return logits. If its "
            "last layer is `Dense(..., activation='softmax')` or `'sigmoid'`, take that off with "
            "`classifier.layers[-1].activation = keras.activations.linear`; the predicted classes "
            "stay the same. Otherwise rebuild it without its last activation."
        )
    if scores.min() >= 0 and scores.max() <= 1 and not _ends_in_linear_dense(classifier):
        warnings.warn(
            f"All scores of the classifier '{classifier.name}' lie in [0, 1], for noise, for black "
            "and for white images. If they are probabilities, attacks find too little where one is "
            "near 0 or 1: take off what squashes the logits.",
            stacklevel=3,
        )
    return image_shape, scores.shape[-1]


def _check_layers(classifier):
    """Refuses layers that take the channels first, and readies those that Keras leaves unready."""
    for layer in classifier._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            # Built with a subclassed model, it holds tensors of a graph that is gone.
            layer.finalize_state()
        is_first = getattr(layer, "data_format", None) == "channels_first"
        if is_first and not isinstance(layer, keras.layers.Flatten):
            raise ValueError(
                f"The layer '{layer.name}' of the classifier has "
                "data_format='channels_first', and images have the shape (batch, height, width, "
                "channels). Build the classifier with data_format='channels_last'; where no layer "
                "names it, it is Keras' setting `image_data_format`: "
                "`keras.config.set_image_data_format('channels_last')`, or the entry of that name "
                "in `~/.keras/keras.json`."
            )


def squashing_head(classifier):
    """Finds a last operation that squashes logits into [0, 1].

    Args:
        classifier: A Keras model.

    Returns:
        Its name, such as `"sigmoid"`; `None` where there is none, or where the model does not
        show its operations.

    Example:
        ```python
        from keras_trn.classifier_interface import squashing_head

        sigmoids = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "sigmoid")])
        assert squashing_head(sigmoids) == "sigmoid"
        ```
    """
    last = _last_operation(classifier)
    names = [type(last).__name__, getattr(getattr(last, "activation", None), "__name__", "")]
    found = {name.lower().replace("_", "") for name in names} & _SQUASHING
    return found.pop() if found else None


def _ends_in_linear_dense(classifier):
    last = _last_operation(classifier)
    is_dense = isinstance(last, keras.layers.Dense)
    return is_dense and last.activation is keras.activations.linear


def _last_operation(classifier):
    """The operation that returns the scores, inside of nested models too."""
    operations = getattr(classifier, "operations", None) or getattr(classifier, "layers", None)
    if not isinstance(classifier, keras.Model) or not operations:
        return classifier
    return _last_operation(operations[-1])


def _image_shape(classifier):
    input_shape = _input_shape(classifier)
    if input_shape is None:
        raise ValueError(
            f"The classifier '{classifier.name}' has not been built, so its image shape is not "
            "known. Call it once on a batch of images, or start it with `keras.Input`."
        )
    if len(input_shape) != 4 or input_shape[-1] is None:
        raise ValueError(
            "The classifier must take images of shape (batch, height, width, channels); it takes "
            f"{tuple(input_shape)}."
        )
    return tuple(input_shape[1:])


def _input_shape(classifier):
    """The shape of the classifier's one input; `None` if it is not known."""
    inputs = getattr(classifier, "inputs", None)
    if inputs is None:
        return (classifier.get_build_config() or {}).get("input_shape")
    if len(inputs) != 1:
        raise ValueError(f"The classifier must take one input; it takes {len(inputs)}.")
    return inputs[0].shape


def _scores_of_probes(classifier, image_shape):
    """The classifier's scores of a few random images, a black one and a white one."""
    shape = [32 if side is None else side for side in image_shape]
    noise = np.random.default_rng(0).random((4, *shape), dtype="float32")
    plain = np.stack([np.zeros(shape, "float32"), np.ones(shape, "float32")])
    return np.asarray(logits_function(classifier)(np.concatenate([noise, plain])))
