"""The momentum iterative method: steps along an accumulated gradient."""

import keras
import tensorflow as tf
from cleverhans.tf2.utils import compute_gradient
from cleverhans.tf2.utils import optimize_linear
from tensorflow import Tensor

from keras_trn.attacks.attack import Epsilon
from keras_trn.attacks.iterative_attack import IterativeAttack
from keras_trn.attacks.norms import order_of
from keras_trn.attacks.norms import project
from keras_trn.attacks.number_of_steps import takes_any_steps
from keras_trn.attacks.unsaturated_cross_entropy import unsaturated_cross_entropy
from keras_trn.input_validation import check_range
from keras_trn.types import Logits


@keras.saving.register_keras_serializable(package="keras_trn")
class MomentumIterativeMethod(IterativeAttack):
    """Takes small steps along a decaying sum of gradients (MIM).

    Call it like any [`Attack`][keras_trn.attacks.Attack].
    Source: Dong et al., "Boosting Adversarial Attacks with Momentum", arXiv 1710.06081. CleverHans
    computes the gradient and the step; the loop is part of the graph.

    Args:
        epsilon: Largest distance, or a pair `(low, high)` to draw from for each image.
        norm: `"linf"` or `"l2"`.
        steps: Number of steps, each one backward pass through the classifier.
        relative_step_size: Step size as a fraction of epsilon; `2.5 / steps`, at most 1, if None.
        decay: Share of the accumulated gradient to keep from step to step, from 0, which
            keeps nothing, to 1, which sums all gradients.
        seed: Whole number that fixes the epsilons drawn from a range.

    Example:
        ```python
        attack = keras_trn.attacks.MomentumIterativeMethod(epsilon=0.5, norm="l2")
        adversarial = attack(classifier, images)
        ```
    """

    is_random = False
    norms = ("linf", "l2")

    def __init__(
        self,
        epsilon: Epsilon,
        norm: str = "linf",
        steps: int = 20,
        relative_step_size: float | None = None,
        decay: float = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(epsilon, norm, steps, relative_step_size, seed)
        self.decay = check_range("decay", decay, 0, 1)

    @takes_any_steps
    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        norm = order_of(self.norm)
        step_size = self.step_size(epsilon)

        def step(adversarial: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
            gradient = compute_gradient(
                logits, unsaturated_cross_entropy, adversarial, labels, False
            )
            length = tf.reduce_mean(tf.abs(gradient), axis=[1, 2, 3], keepdims=True)
            momentum = self.decay * momentum + tf.math.divide_no_nan(gradient, length)
            adversarial = adversarial + optimize_linear(momentum, step_size, norm)
            return project(adversarial, images, epsilon, self.norm), momentum

        adversarial, _ = self.repeat(step, images, tf.zeros_like(images))
        return adversarial

    @property
    def name(self) -> str:
        return f"MIM-{self.steps}"
