"""Attacks on the mean logits of a random defence."""

from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.wrapped_attack import WrappedAttack
from keras_trn.input_validation import check_count
from keras_trn.types import Logits


@keras.saving.register_keras_serializable(package="keras_trn")
class ExpectationOverTransformation(WrappedAttack):
    """Runs an attack on the mean logits of several runs of a random defence (EoT).

    Each pass of the attack becomes `samples` passes, so use it for random defences only. It has
    the capabilities of its attack. Call it like any [`Attack`][keras_trn.attacks.Attack].

    Source: Athalye et al., "Obfuscated Gradients Give a False Sense of Security", arXiv
    1802.00420.

    Args:
        attack: The attack, with its epsilon, norm and seed.
        samples: Number of runs for each gradient.

    Example:
        ```python
        attack = keras_trn.attacks.ExpectationOverTransformation(
            keras_trn.attacks.ProjectedGradientDescent(epsilon=0.1), samples=5
        )
        assert attack.name == "PGD-20, 5 samples"
        ```
    """

    def __init__(self, attack: Attack, samples: int = 20) -> None:
        super().__init__(attack)
        self.samples = check_count("samples", samples)

    def without_restarts(self) -> Attack:
        """Returns the same wrapper around an attack that runs once."""
        return type(self)(self.attack.without_restarts(), self.samples)

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        mean = mean_logits(logits, self.samples)
        return self.attack.perturb(mean, images, labels, epsilon, random_seed)

    @property
    def name(self) -> str:
        return f"{self.attack.name}, {self.samples} samples"


def mean_logits(logits: Logits, samples: int) -> Logits:
    """Averages the logits of a random defence over several runs."""

    def mean(images: Tensor) -> Tensor:
        runs: Any = tf.map_fn(
            lambda _: logits(images), tf.range(samples), fn_output_signature=tf.float32
        )
        return tf.reduce_mean(runs, axis=0)

    return mean
