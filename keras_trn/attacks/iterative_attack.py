"""What all attacks of several steps have in common."""

import tensorflow as tf

from keras_trn.attacks.attack import Attack
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_range


class IterativeAttack(Attack):
    """An attack that takes several small steps; the base of BIM, PGD and MIM.

    Args:
        epsilon: Largest distance, in units of the image range [0, 1]; or a pair
            `(low, high)` to draw from for each image.
        norm: `"linf"` or `"l2"`.
        steps: Number of steps, each one backward pass through the classifier.
        relative_step_size: Length of a step as a fraction of epsilon; by default
            `2.5 / steps`, at most 1, with which the far side of the ball can be
            reached from any start (Madry et al., arXiv 1706.06083).
        seed: Whole number that fixes what is random.

    Raises:
        ValueError: If an argument is malformed.
    """

    is_iterative = True

    def __init__(self, epsilon, norm="linf", steps=20, relative_step_size=None, seed=None):
        super().__init__(epsilon, norm=norm, seed=seed)
        steps = check_count("steps", steps)
        if relative_step_size is not None:
            relative_step_size = check_range("relative_step_size", relative_step_size, 0, 1)
        self.steps = steps
        self.relative_step_size = relative_step_size

    def step_size(self, epsilon):
        """The length of a step for each image, of the shape of `epsilon`."""
        fraction = self.relative_step_size
        return epsilon * (min(1.0, 2.5 / self.steps) if fraction is None else fraction)

    def repeat(self, step, *state):
        """Applies `step` to the state as often as the attack has steps.

        The loop is an operation of the graph, so that the graph is as small for a
        hundred steps as for one, with and without XLA.
        """
        return tf.while_loop(lambda *_: True, step, state, maximum_iterations=self.steps)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "steps": self.steps,
            "relative_step_size": self.relative_step_size,
        }
