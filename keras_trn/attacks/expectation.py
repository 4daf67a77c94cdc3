"""Attacks on the mean logits of a random defence."""

from typing import Any
from typing import Self

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.attack import Attack
from keras_trn.input_validation import check_count
from keras_trn.types import ArrayLike
from keras_trn.types import Config
from keras_trn.types import ImageShape
from keras_trn.types import Logits


@keras.saving.register_keras_serializable(package="keras_trn")
class ExpectationOverTransformation(Attack):
    """Runs an attack on the mean logits of several runs of a random defence (EoT).

    Each pass of the attack becomes `samples` passes. An answer that does not change gains
    nothing. It has the capabilities of its attack, and is called like any
    [`Attack`][keras_trn.attacks.Attack].

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
        if not isinstance(attack, Attack) or attack.norm is None:
            raise ValueError(
                "ExpectationOverTransformation needs one attack of `keras_trn.attacks`, that is "
                f"no Mixture, received {attack!r}."
            )
        self.attack: Any = attack
        self.samples = check_count("samples", samples)
        super().__init__(attack.epsilon, norm=attack.norm, seed=attack.seed)
        self.gradient_free, self.runs_in_graph = attack.gradient_free, attack.runs_in_graph
        self.is_random, self.minimal_norm = attack.is_random, attack.minimal_norm

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        mean = mean_logits(logits, self.samples)
        return self.attack.perturb(mean, images, labels, epsilon, random_seed)

    def check_epsilon(self, epsilon: ArrayLike | float) -> Any:
        return self.attack.check_epsilon(epsilon)

    def check_image_shape(self, image_shape: ImageShape) -> None:
        self.attack.check_image_shape(image_shape)

    def variant(self, **changes: Any) -> Self:
        """Returns the same with other arguments of the attack, or other `samples`."""
        samples = changes.pop("samples", self.samples)
        return type(self)(self.attack.variant(**changes), samples)

    @property
    def name(self) -> str:
        return f"{self.attack.name}, {self.samples} samples"

    def get_config(self) -> Config:
        attack = keras.saving.serialize_keras_object(self.attack)
        return {"attack": attack, "samples": self.samples}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        attack = keras.saving.deserialize_keras_object(config["attack"])
        return cls(**{**config, "attack": attack})


def mean_logits(logits: Logits, samples: int) -> Logits:
    """Averages the logits of a random defence over several runs."""

    def mean(images: Tensor) -> Tensor:
        runs: Any = tf.map_fn(
            lambda _: logits(images), tf.range(samples), fn_output_signature=tf.float32
        )
        return tf.reduce_mean(runs, axis=0)

    return mean
