"""Noise that knows of no classifier: what any perturbation has to be compared with."""

import keras
import tensorflow as tf

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.norms import random_direction
from keras_trn.attacks.random_numbers import random_signs


@keras.saving.register_keras_serializable(package="keras_trn")
class RandomNoise(Attack):
    """A random perturbation as long as epsilon allows, which asks the classifier nothing.

    For L-infinity each pixel is moved by epsilon, up or down by chance; for L2 the
    image is moved by epsilon in a random direction. It is no threat to most
    classifiers. A restorer that is trained with it among the attacks learns that
    not every perturbation has a gradient behind it, and one that is judged with it
    shows whether it has. It needs no more than an oblivious attacker knows.

    Args:
        epsilon: Largest distance, in units of the image range [0, 1]; or a pair
            `(low, high)` to draw from for each image.
        norm: `"linf"` or `"l2"`.
        seed: Whole number that fixes the noise, and the epsilons drawn from a
            range.

    Call arguments:
        classifier: A Keras model, or a callable, from images to logits.
        images: Clean images of shape `(batch, height, width, channels)` in [0, 1].
        labels: Class indices of shape `(batch,)`; they make no difference.
        epsilon: Overrides the attack's own: a number, or one per image.

    Returns:
        A float32 tensor of noisy images, of the shape of `images`.

    Raises:
        ValueError: If an argument is malformed.

    Example:
        ```python
        images = keras.ops.full((4, 8, 8, 1), 0.5)
        noisy = keras_trn.attacks.RandomNoise(epsilon=0.1)(classifier, images)
        assert keras.ops.all(keras.ops.abs(keras.ops.abs(noisy - images) - 0.1) < 1e-6)
        ```
    """

    def craft(self, logits, images, labels, epsilon, random_seed):
        draw = random_signs if self.norm == "linf" else random_direction
        return tf.clip_by_value(images + epsilon * draw(images, random_seed), 0.0, 1.0)

    @property
    def name(self):
        """What the attack is called in tables."""
        return "noise"
