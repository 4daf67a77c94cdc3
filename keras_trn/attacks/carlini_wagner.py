"""The attack of Carlini and Wagner: finds the smallest perturbation by optimization."""

import math

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.adam import adam_start
from keras_trn.attacks.adam import adam_step
from keras_trn.attacks.attack import Attack
from keras_trn.attacks.attack import Epsilon
from keras_trn.attacks.margin import margins
from keras_trn.attacks.norms import project
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_range
from keras_trn.types import Logits

# Keeps the `atanh` of black and white pixels finite.
_SMOOTHING = 0.999999
_FIRST_CONSTANT = 0.1


@keras.saving.register_keras_serializable(package="keras_trn")
class CarliniWagner(Attack):
    """Searches for the smallest perturbation that fools the classifier (CW).

    Adam minimizes the squared length of the perturbation plus a constant times the margin by
    which the classifier still prefers the label. The attack searches a constant for each image:
    it multiplies it by ten until the classifier is fooled, and then bisects. It returns the
    shortest adversarial perturbation, shortened to epsilon if it is longer. A shortened
    perturbation no longer fools the classifier.

    An image costs `steps * search_steps` forward and backward passes. An image stays unchanged
    if it is already misclassified or the attack finds nothing.

    Call it like any [`Attack`][keras_trn.attacks.Attack].
    Source: Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks", arXiv
    1608.04644. CleverHans' implementation fails on Keras 3. The tests compare the success rate
    with Foolbox's.

    Args:
        epsilon: Largest L2 distance, or a pair `(low, high)` to draw from for each image.
        steps: Number of steps of Adam for each constant.
        search_steps: Number of constants to try for each image.
        learning_rate: Learning rate of Adam, from 0 to 1. Choose it such that
            `steps * learning_rate` exceeds 8; otherwise black and white pixels do not move.
        confidence: Margin that another class must have over the label, in logits.
        seed: Whole number that fixes the epsilons drawn from a range.

    Example:
        ```python
        adversarial = keras_trn.attacks.CarliniWagner(epsilon=1.0, steps=20)(classifier, images)
        ```
    """

    is_random = False
    minimal_norm = True
    name = "CW"

    def __init__(
        self,
        epsilon: Epsilon,
        steps: int = 100,
        search_steps: int = 6,
        learning_rate: float = 0.1,
        confidence: float = 0.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(epsilon, norm="l2", seed=seed)
        self.steps = check_count("steps", steps)
        self.search_steps = check_count("search_steps", search_steps)
        self.learning_rate = check_range("learning_rate", learning_rate, 0, 1)
        self.confidence = check_range("confidence", confidence, 0, math.inf)

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        def search_step(
            constant: Tensor, low: Tensor, high: Tensor, best: Tensor, best_length: Tensor
        ) -> tuple[Tensor, ...]:
            best, best_length, fooled = self._optimize(
                logits, images, labels, constant, best, best_length
            )
            low = tf.where(fooled, low, constant)
            high = tf.where(fooled, constant, high)
            constant = tf.where(tf.math.is_inf(high), 10.0 * constant, (low + high) / 2.0)
            return constant, low, high, best, best_length

        misclassified = margins(logits(images), labels) < 0
        nowhere = tf.fill(tf.shape(labels), float("inf"))
        state = (
            tf.fill(tf.shape(labels), _FIRST_CONSTANT),
            tf.zeros_like(nowhere),
            nowhere,
            images,
            tf.where(misclassified, 0.0, nowhere),
        )
        *_, best, _ = tf.while_loop(
            lambda *_: True, search_step, state, maximum_iterations=self.search_steps
        )
        return project(best, images, epsilon, "l2")

    def _optimize(
        self,
        logits: Logits,
        images: Tensor,
        labels: Tensor,
        constant: Tensor,
        best: Tensor,
        best_length: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Runs Adam with one constant for each image, and updates the best images."""

        def step(
            space: Tensor, found: Tensor, best: Tensor, best_length: Tensor, *adam: Tensor
        ) -> tuple[Tensor, ...]:
            with tf.GradientTape() as tape:
                tape.watch(space)
                adversarial = (tf.tanh(space) + 1.0) / 2.0
                margin = margins(logits(adversarial), labels)
                squares = tf.reduce_sum(tf.square(adversarial - images), axis=[1, 2, 3])
                loss = squares + constant * tf.maximum(margin + self.confidence, 0.0)
            direction, adam = adam_step(tape.gradient(loss, space), *adam)
            fooled = margin < -self.confidence
            shorter = fooled & (tf.sqrt(squares) < best_length)
            best = tf.where(shorter[:, None, None, None], adversarial, best)
            best_length = tf.where(shorter, tf.sqrt(squares), best_length)
            space = space - self.learning_rate * direction
            return space, found | fooled, best, best_length, *adam

        space = tf.atanh((2.0 * images - 1.0) * _SMOOTHING)
        found = tf.zeros_like(labels, tf.bool)
        _, found, best, best_length, *_ = tf.while_loop(
            lambda *_: True,
            step,
            (space, found, best, best_length, *adam_start(space)),
            maximum_iterations=self.steps,
        )
        return best, best_length, found
