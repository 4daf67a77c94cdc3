"""DeepFool: finds the smallest perturbation by steps to the nearest boundary."""

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.attack import Epsilon
from keras_trn.attacks.nearest_boundary import LARGEST_NUMBER_OF_RIVALS
from keras_trn.attacks.nearest_boundary import nearest_boundary
from keras_trn.attacks.norms import lengths_of
from keras_trn.attacks.rivals import most_likely_rivals
from keras_trn.attacks.survivors import are_correct
from keras_trn.attacks.survivors import is_correct
from keras_trn.attacks.survivors import update_survivors
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_range
from keras_trn.types import Logits

# Added to each step to cross the boundary despite rounding; the value of the authors' code.
_SMALLEST_STEP = 1e-4


@keras.saving.register_keras_serializable(package="keras_trn")
class DeepFool(Attack):
    """Steps to the nearest boundary between classes, treating boundaries as planes.

    It searches for the smallest perturbation, and shortens it to epsilon if it is longer. A
    shortened perturbation no longer fools the classifier.

    An image costs up to `2 * steps` forward passes, and up to `steps` backward passes for each
    wrong class, but at most nine classes. The attack stops as soon as the image is
    misclassified, and leaves images unchanged that already are.

    Call it like any [`Attack`][keras_trn.attacks.Attack].
    Source: Moosavi-Dezfooli et al., "DeepFool: A Simple and Accurate Method to Fool Deep Neural
    Networks", arXiv 1511.04599. As in the authors' code, each step includes the overshoot. The
    tests compare it with Foolbox.

    Args:
        epsilon: Largest L2 distance, or a pair `(low, high)` to draw from for each image.
        steps: Largest number of steps.
        overshoot: Fraction by which to lengthen the perturbation to cross the boundary; 0.02 in
            the paper.
        seed: Whole number that fixes the epsilons drawn from a range.

    Example:
        ```python
        adversarial = keras_trn.attacks.DeepFool(epsilon=1.0, steps=10)(classifier, images)
        ```
    """

    is_random = False
    minimal_norm = True
    name = "DeepFool"

    def __init__(
        self, epsilon: Epsilon, steps: int = 50, overshoot: float = 0.02, seed: int | None = None
    ) -> None:
        super().__init__(epsilon, norm="l2", seed=seed)
        self.steps = check_count("steps", steps)
        self.overshoot = check_range("overshoot", overshoot, 0, 1)

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        def update(
            images: Tensor, labels: Tensor, rivals: Tensor, total: Tensor, adversarial: Tensor
        ) -> tuple[Tensor, ...]:
            total += _way_to_nearest_boundary(logits, adversarial, labels, rivals)
            adversarial = tf.clip_by_value(images + (1.0 + self.overshoot) * total, 0.0, 1.0)
            return total, adversarial, is_correct(logits, adversarial, labels)

        def step(*state: Tensor) -> tuple[Tensor, ...]:
            *_, survives = state
            return update_survivors(survives, state, update, images, labels, rivals, *state[:2])

        scores = logits(images)
        rivals = most_likely_rivals(scores, labels, LARGEST_NUMBER_OF_RIVALS)
        survives = are_correct(scores, labels) & (epsilon[:, 0, 0, 0] > 0)
        _, adversarial, _ = tf.while_loop(
            lambda *state: tf.reduce_any(state[-1]),
            step,
            (tf.zeros_like(images), images, survives),
            maximum_iterations=self.steps,
        )
        return adversarial


def _way_to_nearest_boundary(
    logits: Logits, images: Tensor, labels: Tensor, rivals: Tensor
) -> Tensor:
    """Returns the step to the boundary of the nearest rival; zero if all gradients vanish."""
    _, gradient, distance = nearest_boundary(logits, images, labels, rivals, "l2")
    slope = lengths_of(gradient, "l2")[:, None, None, None]
    length = tf.where(tf.math.is_finite(distance), distance + _SMALLEST_STEP, 0.0)
    return length[:, None, None, None] * tf.math.divide_no_nan(gradient, slope)
