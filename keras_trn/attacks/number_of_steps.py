"""Runs an attack with any number of steps in one graph, because tracing is expensive."""

import copy
import functools
from collections.abc import Callable
from typing import Any
from typing import TypeVar

import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.attack import attackable
from keras_trn.types import Classifier
from keras_trn.types import Logits

_DECLARED = "takes_any_steps"
_Craft = TypeVar("_Craft", bound=Callable[..., Any])


def takes_any_steps(craft: _Craft) -> _Craft:
    """Declares that `craft` runs with tensors as the number of steps and their size."""
    setattr(craft, _DECLARED, True)
    return craft


def can_take_any_steps(attack: Attack) -> bool:
    """Tells whether `craft` is declared so; a subclass may override it with its own loop."""
    return getattr(type(attack).craft, _DECLARED, False)


def craft_after_steps(
    attack: Any,
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    steps: int,
    relative_step_size: float,
) -> Tensor:
    """Runs an iterative attack with another number of steps, on checked images and labels."""
    try:
        epsilon, random_seed = attack._draw(images, None, attack.seed)
        given = images, epsilon, random_seed, labels
        return run_steps(attack, classifier, *given, steps, relative_step_size)
    except TypeError:
        # The attack needs Python numbers, so each number of steps gets its own graph.
        other = attack.variant(steps=steps, relative_step_size=relative_step_size)
        return other(classifier, images, labels)


def run_steps(
    attack: Attack,
    classifier: Classifier,
    images: Tensor,
    epsilon: Tensor,
    random_seed: Tensor,
    labels: Tensor,
    steps: int,
    relative_step_size: float,
) -> Tensor:
    """Runs the graph that takes the number of steps and their size as arguments."""

    def craft(logits: Logits, *given: Any) -> Tensor:
        *arguments, steps, relative_step_size = given
        other: Any = copy.copy(attack)
        other.steps, other.relative_step_size = steps, relative_step_size
        return other._craft(logits, *arguments)

    image_shape = tuple(images.shape[1:])
    numbers = [tf.TensorSpec((), tf.int32), tf.TensorSpec((), tf.float32)]
    graph = attack._graphs.get(
        ("steps", image_shape),
        (attack, classifier),
        lambda: functools.partial(craft, attackable(classifier)),
        [*attack.signature(image_shape), *numbers],
    )
    return graph(images, epsilon, random_seed, labels, steps, relative_step_size)
