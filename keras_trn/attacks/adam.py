"""Adam for the loops of attacks, where there is no variable to optimize."""

import tensorflow as tf

_MEAN_DECAY = 0.9
_SQUARE_DECAY = 0.999


def adam_start(tensor):
    """Returns the state of Adam before its first step.

    Args:
        tensor: What is optimized.

    Returns:
        The number of steps taken, and the means of the gradient and its square.
    """
    return tf.constant(0.0), tf.zeros_like(tensor), tf.zeros_like(tensor)


def adam_step(gradient, steps_taken, mean, square):
    """Turns a gradient into a step of Adam, to be scaled with the learning rate.

    Source: Kingma and Ba, "Adam", arXiv 1412.6980.

    Args:
        gradient: Gradient of the loss.
        steps_taken: Part of Adam's state, as are `mean` and `square`.
        mean: Decaying mean of the gradients.
        square: Decaying mean of their squares.

    Returns:
        The step, which the loss asks to subtract, and the new state.
    """
    steps_taken += 1.0
    mean = _MEAN_DECAY * mean + (1.0 - _MEAN_DECAY) * gradient
    square = _SQUARE_DECAY * square + (1.0 - _SQUARE_DECAY) * tf.square(gradient)
    unbiased_mean = mean / (1.0 - _MEAN_DECAY**steps_taken)
    unbiased_square = square / (1.0 - _SQUARE_DECAY**steps_taken)
    return unbiased_mean / (tf.sqrt(unbiased_square) + 1e-8), (steps_taken, mean, square)
