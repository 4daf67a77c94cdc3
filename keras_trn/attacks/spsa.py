"""SPSA: descent along slopes that are measured, without any gradient."""

import keras
import tensorflow as tf

from keras_trn.attacks.adam import adam_start
from keras_trn.attacks.adam import adam_step
from keras_trn.attacks.iterative_attack import IterativeAttack
from keras_trn.attacks.margin import margins
from keras_trn.attacks.norms import project
from keras_trn.attacks.random_numbers import random_signs
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_range


@keras.saving.register_keras_serializable(package="keras_trn")
class SPSA(IterativeAttack):
    """Steps of Adam along slopes measured in random directions.

    Simultaneous perturbation stochastic approximation: the margin of the label
    over the other classes is asked for on both sides of the image in a random
    direction, and the mean of many such slopes stands in for the gradient. It asks
    for logits alone, and so is not deceived by a defence whose gradient is of no use.

    An image costs `steps * (2 * samples + 1)` forward passes, in pairs of two
    batches, so that memory does not grow with `samples`. An image stays as it is
    once it is misclassified.

    Source: Uesato et al., "Adversarial Risk and the Dangers of Evaluating Against
    Weak Attacks", arXiv 1802.05666. CleverHans' own fails on Keras 3.

    Args:
        epsilon: Largest change of a pixel, in units of the image range [0, 1]; or a
            pair `(low, high)` to draw from for each image.
        steps: Number of steps.
        relative_step_size: Length of a step as a fraction of epsilon; by default
            `2.5 / steps`, at most 1.
        samples: Number of random directions for each step; more for larger images.
        delta: How far from the image the slopes are measured, in units of the image
            range, above 0; more for a classifier that rounds its images.
        seed: Whole number that fixes the directions, and the epsilons drawn from a
            range.

    Call arguments:
        classifier: A Keras model, or a callable, from images to logits.
        images: Clean images of shape `(batch, height, width, channels)` in [0, 1].
        labels: Class indices of shape `(batch,)`; by default the predicted ones.
        epsilon: Overrides the attack's own: a number, or one per image.

    Returns:
        A float32 tensor of adversarial images, of the shape of `images`.

    Raises:
        ValueError: If an argument is malformed.

    Example:
        ```python
        attack = keras_trn.attacks.SPSA(epsilon=0.2, steps=10, samples=16)
        assert attack.gradient_free
        assert attack(classifier, images).shape == images.shape
        ```
    """

    gradient_free = True

    def __init__(
        self, epsilon, steps=40, relative_step_size=None, samples=32, delta=0.01, seed=None
    ):
        super().__init__(
            epsilon, norm="linf", steps=steps, relative_step_size=relative_step_size, seed=seed
        )
        samples = check_count("samples", samples)
        delta = check_range("delta", delta, 1e-6, 1)
        self.samples = samples
        self.delta = delta

    def craft(self, logits, images, labels, epsilon, random_seed):
        step_size = self.step_size(epsilon)

        def step(adversarial, seed, *adam):
            slope = self._slope(logits, adversarial, labels, seed)
            direction, adam = adam_step(slope, *adam)
            moved = project(adversarial - step_size * direction, images, epsilon, "linf")
            fooled = margins(logits(adversarial), labels) < 0
            adversarial = tf.where(fooled[:, None, None, None], adversarial, moved)
            return (adversarial, tf.add(seed, [1, 0]), *adam)

        adversarial, *_ = self.repeat(step, images, random_seed, *adam_start(images))
        return adversarial

    def _slope(self, logits, images, labels, seed):
        """The mean, over random directions, of the direction times the slope along it."""
        both_labels = tf.concat([labels, labels], axis=0)

        def add_sample(total, seed):
            direction = random_signs(images, seed)
            pair = tf.concat([images + self.delta * direction, images - self.delta * direction], 0)
            above, below = tf.split(margins(logits(tf.clip_by_value(pair, 0, 1)), both_labels), 2)
            slope = (above - below) / (2.0 * self.delta)
            return total + slope[:, None, None, None] * direction, tf.add(seed, [0, 1])

        total, _ = tf.while_loop(
            lambda *_: True,
            add_sample,
            (tf.zeros_like(images), seed),
            maximum_iterations=self.samples,
        )
        return total / self.samples

    @property
    def name(self):
        """What the attack is called in tables."""
        return "SPSA"

    def get_config(self):
        """Returns the constructor's arguments."""
        config = {**super().get_config(), "samples": self.samples, "delta": self.delta}
        del config["norm"]
        return config
