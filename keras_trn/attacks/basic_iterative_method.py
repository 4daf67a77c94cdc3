"""The basic iterative method: several small steps from the clean image."""

import keras
from tensorflow import Tensor

from keras_trn.attacks.fast_gradient_method import ascend
from keras_trn.attacks.iterative_attack import IterativeAttack
from keras_trn.attacks.norms import project
from keras_trn.attacks.number_of_steps import takes_any_steps
from keras_trn.attacks.sparse_steps import sparse_ascent_direction
from keras_trn.types import Logits


@keras.saving.register_keras_serializable(package="keras_trn")
class BasicIterativeMethod(IterativeAttack):
    """Takes small steps along the gradient, from the clean image (BIM).

    Each step is CleverHans' `fast_gradient_method`, followed by a projection onto the ball. The
    loop is part of the graph, so compilation takes as long for a hundred steps as for one. With
    the L1 norm, each step moves one percent of the pixels (SLIDE), not one as in CleverHans.

    Call it like any [`Attack`][keras_trn.attacks.Attack].
    Source: Kurakin et al., "Adversarial Examples in the Physical World", arXiv 1607.02533; for L1
    Tramèr and Boneh, "Adversarial Training and Robustness for Multiple Perturbations", arXiv
    1904.13000.

    Args:
        epsilon: Largest distance, or a pair `(low, high)` to draw from for each image.
        norm: `"linf"`, `"l2"` or `"l1"`.
        steps: Number of steps, each one backward pass through the classifier.
        relative_step_size: Step size as a fraction of epsilon; `2.5 / steps`, at most 1, if None.
        seed: Whole number that fixes the epsilons drawn from a range.

    Example:
        ```python
        attack = keras_trn.attacks.BasicIterativeMethod(epsilon=0.1, steps=10)
        adversarial = attack(classifier, images)
        ```
    """

    is_random = False

    @takes_any_steps
    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        return self._climb(logits, images, images, labels, epsilon)

    def _climb(
        self, logits: Logits, start: Tensor, images: Tensor, labels: Tensor, epsilon: Tensor
    ) -> Tensor:
        """Takes the steps from `start`, within epsilon of `images`."""
        step_size = self.step_size(epsilon)

        def step(adversarial: Tensor) -> tuple[Tensor]:
            adversarial = self._ascend(logits, adversarial, labels, step_size)
            return (project(adversarial, images, epsilon, self.norm),)

        (adversarial,) = self.repeat(step, start)
        return adversarial

    def _ascend(self, logits: Logits, points: Tensor, labels: Tensor, step_size: Tensor) -> Tensor:
        if self.norm == "l1":
            return points + step_size * sparse_ascent_direction(logits, points, labels)
        return ascend(logits, points, labels, step_size, self.norm)

    @property
    def name(self) -> str:
        return f"BIM-{self.steps}"
