"""Tells whether a model gives one image one answer."""

import numpy as np

from keras_trn.logits import logits_function

# As AutoAttack's `check_randomized`: as many runs, and as large a difference of the normalized
# logits, are put down to rounding.
RUNS = 5
ROUNDING_OF_LOGITS = 1e-4


def normalized(logits):
    """Scales the logits of each image to length 1.

    Args:
        logits: Array of shape `(number of images, num_classes)`.

    Returns:
        An array of that shape. What is not finite is left to another check.
    """
    logits = np.nan_to_num(logits)
    return logits / np.maximum(np.linalg.norm(logits, axis=-1, keepdims=True), 1e-12)


def repeated_logits(model, images, runs=RUNS):
    """Asks a model for the same logits several times.

    Args:
        model: A Keras model from images to logits.
        images: Images of shape `(batch, height, width, channels)`.
        runs: How often.

    Returns:
        A list of arrays of shape `(batch, num_classes)`.
    """
    # Not compiled: a graph would repeat random numbers that NumPy drew while it was traced.
    answer = logits_function(model)
    return [answer(images).numpy() for _ in range(runs)]


def largest_distance(runs):
    """Measures how far the answers of several runs lie apart.

    Args:
        runs: List of arrays of logits of the same images.

    Returns:
        The largest distance between the normalized logits of the first run and another.

    Example:
        ```python
        from keras_trn.evaluation.randomness import largest_distance

        once, again = np.array([[3.0, 4.0]]), np.array([[6.0, 8.0]])
        assert largest_distance([once, again]) == 0
        ```
    """
    first, *others = map(normalized, runs)
    return float(max(np.linalg.norm(other - first, axis=-1).max() for other in others))
