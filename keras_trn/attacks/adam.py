"""Adam for the loops of attacks, which optimize tensors instead of variables."""

import tensorflow as tf
from tensorflow import Tensor

_MEAN_DECAY = 0.9
_SQUARE_DECAY = 0.999

# Steps taken, and decaying means of the gradient and of its square.
AdamState = tuple[Tensor, Tensor, Tensor]


def adam_start(tensor: Tensor) -> AdamState:
    """Returns the state of Adam before its first step."""
    return tf.constant(0.0), tf.zeros_like(tensor), tf.zeros_like(tensor)


def adam_step(
    gradient: Tensor, steps_taken: Tensor, mean: Tensor, square: Tensor
) -> tuple[Tensor, AdamState]:
    """Returns a step of Adam (arXiv 1412.6980) at a learning rate of 1, and the new state."""
    steps_taken += 1.0
    mean = _MEAN_DECAY * mean + (1.0 - _MEAN_DECAY) * gradient
    square = _SQUARE_DECAY * square + (1.0 - _SQUARE_DECAY) * tf.square(gradient)
    unbiased_mean = mean / (1.0 - _MEAN_DECAY**steps_taken)
    unbiased_square = square / (1.0 - _SQUARE_DECAY**steps_taken)
    return unbiased_mean / (tf.sqrt(unbiased_square) + 1e-8), (steps_taken, mean, square)
