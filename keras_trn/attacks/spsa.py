"""SPSA: descent along measured slopes, without gradients."""

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.adam import adam_start
from keras_trn.attacks.adam import adam_step
from keras_trn.attacks.attack import Epsilon
from keras_trn.attacks.iterative_attack import IterativeAttack
from keras_trn.attacks.margin import margins
from keras_trn.attacks.norms import project
from keras_trn.attacks.random_numbers import random_signs
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_range
from keras_trn.types import Logits


@keras.saving.register_keras_serializable(package="keras_trn")
class SPSA(IterativeAttack):
    """Takes steps of Adam along slopes measured in random directions.

    Simultaneous perturbation stochastic approximation queries the margin of the label over the
    other classes on both sides of the image in a random direction. The mean of many such slopes
    replaces the gradient. It only queries logits, so a useless gradient does not stop it.

    An image costs `steps * (2 * samples + 1)` forward passes. They run in pairs of batches, so
    memory does not grow with `samples`. An image no longer changes once it is misclassified.

    Call it like any [`Attack`][keras_trn.attacks.Attack].
    Source: Uesato et al., "Adversarial Risk and the Dangers of Evaluating Against Weak
    Attacks", arXiv 1802.05666. CleverHans' implementation fails on Keras 3.

    Args:
        epsilon: Largest change of a pixel, or a pair `(low, high)` to draw from for each image.
        steps: Number of steps.
        relative_step_size: Step size as a fraction of epsilon; `2.5 / steps`, at most 1, if None.
        samples: Number of random directions for each step. Increase it for larger images.
        delta: Distance from the image at which to measure slopes, in units of the image range,
            above 0. Increase it for a classifier that rounds its images.
        seed: Whole number that fixes the directions, and the epsilons drawn from a range.

    Example:
        ```python
        assert keras_trn.attacks.SPSA(epsilon=0.2, steps=10, samples=16).gradient_free
        ```
    """

    gradient_free = True
    name = "SPSA"

    def __init__(
        self,
        epsilon: Epsilon,
        steps: int = 40,
        relative_step_size: float | None = None,
        samples: int = 32,
        delta: float = 0.01,
        seed: int | None = None,
    ) -> None:
        super().__init__(epsilon, "linf", steps, relative_step_size, seed)
        self.samples = check_count("samples", samples)
        self.delta = check_range("delta", delta, 1e-6, 1)

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        step_size = self.step_size(epsilon)

        def step(adversarial: Tensor, seed: Tensor, *adam: Tensor) -> tuple[Tensor, ...]:
            slope = self._slope(logits, adversarial, labels, seed)
            direction, adam = adam_step(slope, *adam)
            moved = project(adversarial - step_size * direction, images, epsilon, "linf")
            fooled = margins(logits(adversarial), labels) < 0
            adversarial = tf.where(fooled[:, None, None, None], adversarial, moved)
            return (adversarial, tf.add(seed, [1, 0]), *adam)

        adversarial, *_ = self.repeat(step, images, random_seed, *adam_start(images))
        return adversarial

    def _slope(self, logits: Logits, images: Tensor, labels: Tensor, seed: Tensor) -> Tensor:
        """Returns the mean over random directions of each direction times its slope."""
        both_labels = tf.concat([labels, labels], axis=0)

        def add_sample(total: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
            direction = random_signs(images, seed)
            pair = tf.concat([images + self.delta * direction, images - self.delta * direction], 0)
            above, below = tf.split(margins(logits(tf.clip_by_value(pair, 0, 1)), both_labels), 2)
            slope = (above - below) / (2.0 * self.delta)
            return total + slope[:, None, None, None] * direction, tf.add(seed, [0, 1])

        state = (tf.zeros_like(images), seed)
        total, _ = tf.while_loop(
            lambda *_: True, add_sample, state, maximum_iterations=self.samples
        )
        return total / self.samples
