"""Noise that ignores the classifier, as a baseline for attacks."""

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.norms import random_on_sphere
from keras_trn.attacks.random_numbers import random_signs
from keras_trn.types import Logits


@keras.saving.register_keras_serializable(package="keras_trn")
class RandomNoise(Attack):
    """Adds a random perturbation of length epsilon, without querying the classifier.

    For L-infinity each pixel moves by epsilon, up or down at random. For L2 and L1 the image
    moves by epsilon in a random direction. Few classifiers lose accuracy to it. Train with it to
    teach the restorer that not every perturbation follows a gradient, and evaluate with it to
    check. It ignores labels; see [`Attack`][keras_trn.attacks.Attack].

    Args:
        epsilon: Largest distance, or a pair `(low, high)` to draw from for each image.
        norm: `"linf"`, `"l2"` or `"l1"`.
        seed: Whole number that fixes the noise, and the epsilons drawn from a range.

    Example:
        ```python
        noisy = keras_trn.attacks.RandomNoise(epsilon=0.1)(classifier, images)
        ```
    """

    name = "noise"

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        if self.norm == "linf":
            return tf.clip_by_value(images + epsilon * random_signs(images, random_seed), 0.0, 1.0)
        return random_on_sphere(images, epsilon, self.norm, random_seed)
