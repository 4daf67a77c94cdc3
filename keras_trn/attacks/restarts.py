"""Several runs of one attack, keeping the best result."""

from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.random_numbers import split_seed
from keras_trn.attacks.survivors import are_correct
from keras_trn.attacks.survivors import update_survivors
from keras_trn.attacks.wrapped_attack import WrappedAttack
from keras_trn.input_validation import check_count
from keras_trn.types import Logits


@keras.saving.register_keras_serializable(package="keras_trn")
class Restarts(WrappedAttack):
    """Runs an attack several times, and keeps the best result for each image.

    Each run draws new random numbers but keeps the epsilons. The best result is the first
    that fools the classifier, or else the one with the highest cross-entropy. An image that fools
    the classifier is not attacked again. Each run costs one forward pass on top of the attack.

    It has the capabilities of its attack. Call it like any
    [`Attack`][keras_trn.attacks.Attack].

    Args:
        attack: A random attack, with its epsilon, norm and seed. Other attacks gain nothing
            from restarts.
        restarts: Number of runs.

    Raises:
        ValueError: If `attack` is a mixture.

    Example:
        ```python
        attack = keras_trn.attacks.Restarts(
            keras_trn.attacks.ProjectedGradientDescent(epsilon=0.1), restarts=3
        )
        assert attack.name == "PGD-20 x3"
        ```
    """

    def __init__(self, attack: Attack, restarts: int = 5) -> None:
        super().__init__(attack)
        self.restarts = check_count("restarts", restarts)
        self.is_iterative = attack.is_iterative

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        seeds = split_seed(random_seed, self.restarts)

        def run(
            index: Tensor, best: Tensor, highest: Tensor, survives: Tensor
        ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            def attack_survivors(
                best: Tensor, highest: Tensor, images: Tensor, labels: Tensor, epsilon: Tensor
            ) -> tuple[Tensor, Tensor, Tensor]:
                adversarial = self.attack.perturb(logits, images, labels, epsilon, seeds[index])
                scores = logits(adversarial)
                survives = are_correct(scores, labels)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, scores)
                is_better = ~survives | (losses > highest)
                best = tf.where(is_better[:, None, None, None], adversarial, best)
                return best, tf.maximum(losses, highest), survives

            best, highest, survives = update_survivors(
                survives,
                (best, highest, survives),
                attack_survivors,
                best,
                highest,
                images,
                labels,
                epsilon,
            )
            return index + 1, best, highest, survives

        lowest, survives = tf.fill(tf.shape(labels), -1.0), tf.ones_like(labels, tf.bool)
        state = (tf.constant(0), images, lowest, survives)
        _, best, *_ = tf.while_loop(lambda *_: True, run, state, maximum_iterations=self.restarts)
        return best

    @property
    def steps(self) -> int:
        """Returns the number of steps of each run, if the attack is iterative."""
        return self.attack.steps

    def step_size(self, epsilon: Any) -> Any:
        """Returns the length of a step, if the attack is iterative."""
        return self.attack.step_size(epsilon)

    def without_restarts(self) -> Attack:
        """Returns the attack without its restarts."""
        return self.attack.without_restarts()

    @property
    def name(self) -> str:
        return f"{self.attack.name} x{self.restarts}"
