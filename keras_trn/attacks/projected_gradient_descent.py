"""Projected gradient descent: the basic iterative method from a random start."""

import keras
import tensorflow as tf

from keras_trn.attacks.basic_iterative_method import BasicIterativeMethod
from keras_trn.attacks.norms import random_in_ball


@keras.saving.register_keras_serializable(package="keras_trn")
class ProjectedGradientDescent(BasicIterativeMethod):
    """Small steps along the gradient, from a random point of the ball (PGD).

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial
    Attacks", arXiv 1706.06083; each step is CleverHans' `fast_gradient_method`.

    Args:
        epsilon: Largest distance, in units of the image range [0, 1]; or a pair
            `(low, high)` to draw from for each image.
        norm: `"linf"` or `"l2"`.
        steps: Number of steps, each one backward pass through the classifier.
        relative_step_size: Length of a step as a fraction of epsilon; by default
            `2.5 / steps`, at most 1.
        seed: Whole number that fixes the random start, and the epsilons drawn
            from a range. Every batch then starts from the same points.

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
        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=(0.05, 0.2), seed=0)
        adversarial = attack(classifier, images)
        assert keras.ops.all(adversarial == attack(classifier, images))
        ```
    """

    def craft(self, logits, images, labels, epsilon, random_seed):
        start = images + random_in_ball(images, epsilon, self.norm, random_seed)
        start = tf.clip_by_value(start, 0.0, 1.0)
        return self._climb(logits, start, images, labels, epsilon)

    @property
    def name(self):
        """What the attack is called in tables."""
        return f"PGD-{self.steps}"
