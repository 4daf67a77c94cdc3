"""Repeats the random numbers that a model draws from Keras' seed generators."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

# The name that `keras.random.SeedGenerator` gives to its state.
_STATE = "seed_generator_state"


def seed_states(model: keras.Model) -> list[keras.Variable]:
    """Returns the states of all seed generators of a model and its layers."""
    return [variable for variable in model.variables if variable.name == _STATE]


def with_fixed_randomness(model: keras.Model, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function of a model so that each call draws the same random numbers.

    It sets the states of the seed generators before each call, also inside a graph, and restores
    them afterwards. Random numbers from elsewhere, such as `tf.random` or NumPy, still differ.

    Args:
        model: The model that the function calls.
        function: A function of tensors.
    """
    states = seed_states(model)
    # A generator counts the second number up, so each one needs its own first number.
    fixed = [tf.constant([index, 0], state.dtype) for index, state in enumerate(states)]

    def repeated(*args: Any) -> Any:
        before = [tf.identity(state.value) for state in states]
        _assign(states, fixed)
        result = function(*args)
        _assign(states, before)
        return result

    return repeated


def _assign(states: list[keras.Variable], values: list[tf.Tensor]) -> None:
    for state, value in zip(states, values, strict=True):
        state.assign(value)
