"""The fast gradient method from a noisy start, for fast adversarial training."""

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.attack import Epsilon
from keras_trn.attacks.fast_gradient_method import FastGradientMethod
from keras_trn.attacks.norms import random_in_ball
from keras_trn.input_validation import check_range
from keras_trn.types import Logits


@keras.saving.register_keras_serializable(package="keras_trn")
class NoisyFastGradientMethod(FastGradientMethod):
    """Adds noise, then takes one step along the gradient; for adversarial training.

    It crafts an image in one forward and one backward pass, and training against it also defends
    against attacks of many steps. The default is N-FGSM, which leaves the ball of radius epsilon
    on purpose: train with it, but evaluate with another attack. For FGSM-RS, an older method that
    stays in the ball, use
    `NoisyFastGradientMethod(epsilon, noise=1.0, step_size=1.25, projected=True)`.

    Sources: de Jorge et al., "Make Some Noise: Reliable and Efficient Single-Step Adversarial
    Training", arXiv 2202.01181 (N-FGSM); Wong et al., "Fast is Better than Free: Revisiting
    Adversarial Training", arXiv 2001.03994 (FGSM-RS).

    Args:
        epsilon: Radius of the ball, or a pair `(low, high)` to draw from for each image.
        norm: `"linf"` or `"l2"`.
        noise: Radius of the ball to draw the noise from, relative to epsilon; from 0 to 10.
        step_size: Length of the step, relative to epsilon; from 0 to 10.
        projected: Whether to project the result into the ball of radius epsilon.
        seed: Whole number that fixes the noise, and the epsilons drawn from a range.

    Example:
        ```python
        attack = keras_trn.attacks.NoisyFastGradientMethod(epsilon=0.1)
        protected = keras_trn.ProtectedClassifier(classifier)
        protected.compile(attack=attack, threat_model="whitebox_full")
        ```
    """

    is_random = True

    def __init__(
        self,
        epsilon: Epsilon,
        norm: str = "linf",
        noise: float = 2.0,
        step_size: float = 1.0,
        projected: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(epsilon, norm=norm, seed=seed)
        self.noise = check_range("noise", noise, 0, 10)
        self.step_size = check_range("step_size", step_size, 0, 10)
        self.projected = bool(projected)
        self.stays_in_ball = self.projected

    def perturb(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        if self.projected:
            return super().perturb(logits, images, labels, epsilon, random_seed)
        return self.craft(logits, images, labels, epsilon, random_seed)

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        noise = random_in_ball(images, self.noise * epsilon, self.norm, random_seed)
        start = tf.clip_by_value(images + noise, 0.0, 1.0)
        return super().craft(logits, start, labels, self.step_size * epsilon, random_seed)

    @property
    def name(self) -> str:  # type: ignore[override]
        return "FGSM-RS" if self.projected else "N-FGSM"
