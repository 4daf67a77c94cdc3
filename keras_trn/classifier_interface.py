"""What the package has to know of a classifier, and what it refuses."""

import keras
import numpy as np

from keras_trn.logits import logits_function
from keras_trn.logits import looks_like_probabilities


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
        import keras
        from keras_trn.classifier_interface import describe_classifier

        classifier = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
        )
        assert describe_classifier(classifier) == ((8, 8, 1), 10)
        ```
    """
    if not isinstance(classifier, keras.Model):
        raise ValueError(f"classifier must be a Keras model, received {type(classifier).__name__}.")
    image_shape = _image_shape(classifier)
    scores = _scores_of_noise(classifier, image_shape)
    if scores.ndim != 2 or scores.shape[-1] < 2:
        raise ValueError(
            "The classifier must return one logit for each of at least two classes, in the shape "
            f"(batch, num_classes); it returns the shape (batch, {str(scores.shape[1:])[1:-1]}). "
            "A binary classifier needs two outputs, `Dense(2)`."
        )
    if looks_like_probabilities(scores):
        raise ValueError(
            "The classifier returns probabilities, and gradients vanish where a probability is "
            "near 0 or 1; it must return logits. If its last layer is `Dense(..., "
            "activation='softmax')`, mend it with `classifier.layers[-1].activation = "
            "keras.activations.linear`; the predicted classes stay the same. Else rebuild it "
            "without its softmax."
        )
    return image_shape, scores.shape[-1]


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


def _scores_of_noise(classifier, image_shape):
    """The classifier's scores of a few random images."""
    shape = [32 if side is None else side for side in image_shape]
    noise = np.random.default_rng(0).random((4, *shape), dtype="float32")
    return np.asarray(logits_function(classifier)(noise))
