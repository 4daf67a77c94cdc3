"""The momentum iterative method: steps along an accumulated gradient."""

import keras
import tensorflow as tf
from cleverhans.tf2.utils import compute_gradient
from cleverhans.tf2.utils import optimize_linear

from keras_trn.attacks.iterative_attack import IterativeAttack
from keras_trn.attacks.norms import as_cleverhans_norm
from keras_trn.attacks.norms import project
from keras_trn.attacks.unsaturated_cross_entropy import unsaturated_cross_entropy
from keras_trn.input_validation import check_range


@keras.saving.register_keras_serializable(package="keras_trn")
class MomentumIterativeMethod(IterativeAttack):
    """Small steps along a decaying sum of gradients (MIM).

    Source: Dong et al., "Boosting Adversarial Attacks with Momentum", arXiv
    1710.06081; CleverHans' gradient and step, with the loop in the graph.

    Args:
        epsilon: Largest distance, in units of the image range [0, 1]; or a pair
            `(low, high)` to draw from for each image.
        norm: `"linf"` or `"l2"`.
        steps: Number of steps, each one backward pass through the classifier.
        relative_step_size: Length of a step as a fraction of epsilon; by default
            `2.5 / steps`, at most 1.
        decay: Share of the accumulated gradient that is kept from step to step,
            from 0, which forgets, to 1, which sums all.
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
        attack = keras_trn.attacks.MomentumIterativeMethod(epsilon=0.5, norm="l2")
        assert attack(classifier, images).shape == images.shape
        ```
    """

    def __init__(
        self, epsilon, norm="linf", steps=20, relative_step_size=None, decay=1.0, seed=None
    ):
        super().__init__(
            epsilon, norm=norm, steps=steps, relative_step_size=relative_step_size, seed=seed
        )
        decay = check_range("decay", decay, 0, 1)
        self.decay = decay

    def craft(self, logits, images, labels, epsilon, random_seed):
        norm = as_cleverhans_norm(self.norm)
        step_size = self.step_size(epsilon)

        def step(adversarial, momentum):
            gradient = compute_gradient(
                logits, unsaturated_cross_entropy, adversarial, labels, False
            )
            length = tf.reduce_mean(tf.abs(gradient), axis=[1, 2, 3], keepdims=True)
            momentum = self.decay * momentum + tf.math.divide_no_nan(gradient, length)
            adversarial = adversarial + optimize_linear(momentum, step_size, norm)
            return project(adversarial, images, epsilon, self.norm), momentum

        adversarial, _ = self.repeat(step, images, tf.zeros_like(images))
        return adversarial

    @property
    def name(self):
        """What the attack is called in tables."""
        return f"MIM-{self.steps}"

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "decay": self.decay}
