"""Projected gradient descent: the basic iterative method from a random start."""

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.basic_iterative_method import BasicIterativeMethod
from keras_trn.attacks.norms import random_in_ball
from keras_trn.attacks.number_of_steps import takes_any_steps
from keras_trn.types import Logits


@keras.saving.register_keras_serializable(package="keras_trn")
class ProjectedGradientDescent(BasicIterativeMethod):
    """Takes small steps along the gradient, from a random point of the ball (PGD).

    Call it like any [`Attack`][keras_trn.attacks.Attack].
    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", arXiv
    1706.06083; each step is CleverHans' `fast_gradient_method`.

    Args:
        epsilon: Largest distance, or a pair `(low, high)` to draw from for each image.
        norm: `"linf"`, `"l2"` or `"l1"`; with `"l1"`, the attack is SLIDE (see
            [`BasicIterativeMethod`][keras_trn.attacks.BasicIterativeMethod]).
        steps: Number of steps, each one backward pass through the classifier.
        relative_step_size: Step size as a fraction of epsilon; `2.5 / steps`, at most 1, if None.
        seed: Whole number that fixes the random start, and the epsilons drawn from a range.
            Every batch then starts from the same points.

    Example:
        ```python
        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=(0.05, 0.2), seed=0)
        adversarial = attack(classifier, images)
        assert keras.ops.all(adversarial == attack(classifier, images))
        ```
    """

    is_random = True

    @takes_any_steps
    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        start = images + random_in_ball(images, epsilon, self.norm, random_seed)
        return self._climb(logits, tf.clip_by_value(start, 0.0, 1.0), images, labels, epsilon)

    @property
    def name(self) -> str:
        return f"PGD-{self.steps}"
