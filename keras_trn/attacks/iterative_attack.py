"""The base class of attacks that take several steps of one size."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.attack import Epsilon
from keras_trn.attacks.number_of_steps import can_take_any_steps
from keras_trn.attacks.number_of_steps import run_steps
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_range
from keras_trn.types import Classifier


class IterativeAttack(Attack):
    """Holds the number of steps and their size for BIM, PGD, MIM and SPSA."""

    is_iterative = True

    def __init__(
        self,
        epsilon: Epsilon,
        norm: str = "linf",
        steps: int = 20,
        relative_step_size: float | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(epsilon, norm=norm, seed=seed)
        self.steps = check_count("steps", steps)
        if relative_step_size is not None:
            relative_step_size = check_range("relative_step_size", relative_step_size, 0, 1)
        self.relative_step_size = relative_step_size

    def step_size(self, epsilon: Any) -> Any:
        """Returns the length of a step for each image, of the shape of `epsilon`."""
        fraction = self.relative_step_size
        # By default any start can reach the far side of the ball (arXiv 1706.06083).
        return epsilon * (min(1.0, 2.5 / self.steps) if fraction is None else fraction)

    def repeat(self, step: Callable[..., Any], *state: Any) -> Any:
        """Applies `step` to the state repeatedly; the loop is one operation of the graph."""
        return tf.while_loop(lambda *_: True, step, state, maximum_iterations=self.steps)

    def _run(
        self,
        classifier: Classifier,
        images: Tensor,
        epsilon: Tensor,
        random_seed: Tensor,
        labels: Tensor | None,
    ) -> Tensor:
        inherits_step_size = type(self).step_size is IterativeAttack.step_size
        if labels is None or not (inherits_step_size and can_take_any_steps(self)):
            return super()._run(classifier, images, epsilon, random_seed, labels)
        # The sanity checks run the same graph with other numbers of steps.
        size = float(self.step_size(1.0))
        return run_steps(self, classifier, images, epsilon, random_seed, labels, self.steps, size)
