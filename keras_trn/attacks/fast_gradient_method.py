"""The fast gradient method: one step."""

import keras
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.norms import as_cleverhans_norm
from keras_trn.attacks.unsaturated_cross_entropy import unsaturated_cross_entropy


@keras.saving.register_keras_serializable(package="keras_trn")
class FastGradientMethod(Attack):
    """One step of length epsilon along the gradient of the loss (FGSM).

    Source: Goodfellow et al., "Explaining and Harnessing Adversarial Examples",
    arXiv 1412.6572; CleverHans' `fast_gradient_method`.

    Args:
        epsilon: Largest distance, in units of the image range [0, 1]; or a pair
            `(low, high)` to draw from for each image.
        norm: `"linf"` or `"l2"`.
        seed: Whole number that fixes the epsilons drawn from a range.

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
        attack = keras_trn.attacks.FastGradientMethod(epsilon=0.1)
        adversarial = attack(classifier, images, labels)
        assert adversarial.shape == images.shape
        ```
    """

    def craft(self, logits, images, labels, epsilon, random_seed):
        return fast_gradient_method(
            logits,
            images,
            epsilon,
            as_cleverhans_norm(self.norm),
            clip_min=0.0,
            clip_max=1.0,
            y=labels,
            loss_fn=unsaturated_cross_entropy,
        )

    @property
    def name(self):
        """What the attack is called in tables."""
        return "FGSM"
