"""The fast gradient method: one step."""

import keras
import tensorflow as tf
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.norms import as_cleverhans_norm
from keras_trn.attacks.unsaturated_cross_entropy import unsaturated_cross_entropy
from keras_trn.types import Logits


@keras.saving.register_keras_serializable(package="keras_trn")
class FastGradientMethod(Attack):
    """Takes one step of length epsilon along the gradient of the loss (FGSM).

    Source: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", arXiv
    1412.6572; CleverHans' `fast_gradient_method`.

    Call arguments and result: see [`Attack`][keras_trn.attacks.Attack].

    Args:
        epsilon: Largest distance, in units of the image range [0, 1]; or a pair `(low, high)`
            to draw from for each image.
        norm: `"linf"` or `"l2"`.
        seed: Whole number that fixes the epsilons drawn from a range.

    Raises:
        ValueError: If an argument is malformed.

    Example:
        ```python
        attack = keras_trn.attacks.FastGradientMethod(epsilon=0.1)
        adversarial = attack(classifier, images, labels)
        assert adversarial.shape == images.shape
        ```
    """

    is_random = False
    name = "FGSM"

    def craft(
        self,
        logits: Logits,
        images: tf.Tensor,
        labels: tf.Tensor,
        epsilon: tf.Tensor,
        random_seed: tf.Tensor,
    ) -> tf.Tensor:
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
