"""The fast gradient method: one step."""

import keras
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from tensorflow import Tensor

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.norms import order_of
from keras_trn.attacks.unsaturated_cross_entropy import unsaturated_cross_entropy
from keras_trn.types import Logits


@keras.saving.register_keras_serializable(package="keras_trn")
class FastGradientMethod(Attack):
    """Takes one step of length epsilon along the gradient of the loss (FGSM).

    Call it like any [`Attack`][keras_trn.attacks.Attack].
    Source: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", arXiv
    1412.6572; CleverHans' `fast_gradient_method`.

    Args:
        epsilon: Largest distance, or a pair `(low, high)` to draw from for each image.
        norm: `"linf"` or `"l2"`.
        seed: Whole number that fixes the epsilons drawn from a range.

    Example:
        ```python
        adversarial = keras_trn.attacks.FastGradientMethod(epsilon=0.1)(classifier, images, labels)
        ```
    """

    is_random = False
    norms = ("linf", "l2")
    name = "FGSM"

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        return ascend(logits, images, labels, epsilon, self.norm)


def ascend(logits: Logits, images: Tensor, labels: Tensor, length: Tensor, norm: str) -> Tensor:
    """Takes one step of the given length along the gradient, with CleverHans."""
    return fast_gradient_method(
        logits,
        images,
        length,
        order_of(norm),
        clip_min=0.0,
        clip_max=1.0,
        y=labels,
        loss_fn=unsaturated_cross_entropy,
    )
