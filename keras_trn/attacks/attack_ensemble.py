"""Several attacks, one after the other, each on the images that withstood the ones before."""

import functools
from collections.abc import Sequence
from typing import Any
from typing import Self

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.margin import margins
from keras_trn.attacks.random_numbers import split_seed
from keras_trn.attacks.survivors import update_survivors
from keras_trn.types import ArrayLike
from keras_trn.types import Config
from keras_trn.types import ImageShape
from keras_trn.types import Logits


@keras.saving.register_keras_serializable(package="keras_trn")
class AttackEnsemble(Attack):
    """Runs several attacks in turn, each on the images that withstood the ones before.

    An image that one attack fooled is not attacked again. An image that withstands all attacks
    is returned with the smallest margin that any of them reached. An image costs what its attacks
    cost, one forward pass, and one more for each attack that it meets.

    It has the capabilities of its attacks, and is called like any
    [`Attack`][keras_trn.attacks.Attack].

    Args:
        attacks: Attacks with the same epsilon and norm, the cheapest first.
        name: The name in tables; by default the names of the attacks.
        seed: Whole number that fixes what is random.

    Raises:
        ValueError: If there are no attacks, or they differ in epsilon or norm.

    Example:
        ```python
        pgd = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.1)
        spsa = keras_trn.attacks.SPSA(epsilon=0.1, steps=5)
        assert keras_trn.attacks.AttackEnsemble([pgd, spsa]).name == "PGD-20, SPSA"
        ```
    """

    def __init__(
        self, attacks: Sequence[Attack], name: str | None = None, seed: int | None = None
    ) -> None:
        attacks = list(attacks)
        if not attacks or not all(isinstance(attack, Attack) for attack in attacks):
            raise ValueError(
                "An ensemble needs a list of at least one attack of `keras_trn.attacks`, "
                f"received {attacks!r}."
            )
        balls = {(attack.norm, attack.epsilon) for attack in attacks}
        if len(balls) > 1 or attacks[0].norm is None:
            raise ValueError(
                "The attacks of an ensemble must share one norm and one epsilon, received "
                f"{', '.join(map(repr, attacks))}. Evaluate other attacks separately."
            )
        self.attacks = attacks
        self._name = name or ", ".join(attack.name for attack in attacks)
        super().__init__(attacks[0].epsilon, norm=attacks[0].norm, seed=seed)
        self.gradient_free = all(attack.gradient_free for attack in attacks)
        self.runs_in_graph = all(attack.runs_in_graph for attack in attacks)
        self.is_random = any(attack.is_random for attack in attacks)
        self.minimal_norm = all(attack.minimal_norm for attack in attacks)

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        seeds = split_seed(random_seed, len(self.attacks))
        margins_of = functools.partial(_margins, logits)
        best, lowest = images, margins_of(images, labels)
        for index, attack in enumerate(self.attacks):
            survives = lowest > -float("inf")
            perturb = functools.partial(attack.perturb, logits, random_seed=seeds[index])
            crafted = update_survivors(survives, best, perturb, images, labels, epsilon)
            reached = update_survivors(survives, lowest, margins_of, crafted, labels)
            best = tf.where((reached < lowest)[:, None, None, None], crafted, best)
            lowest = tf.minimum(reached, lowest)
        return best

    def check_epsilon(self, epsilon: ArrayLike | float) -> Any:
        checked, *_ = [attack.check_epsilon(epsilon) for attack in self.attacks]
        return checked

    def check_image_shape(self, image_shape: ImageShape) -> None:
        for attack in self.attacks:
            attack.check_image_shape(image_shape)

    def variant(self, **changes: Any) -> Self:
        """Returns the ensemble with another `name` or `seed`, or attacks with other arguments."""
        own = {key: changes.pop(key, getattr(self, key)) for key in ("name", "seed")}
        return type(self)([attack.variant(**changes) for attack in self.attacks], **own)

    @property
    def name(self) -> str:
        return self._name

    def get_config(self) -> Config:
        attacks = [keras.saving.serialize_keras_object(attack) for attack in self.attacks]
        return {"attacks": attacks, "name": self.name, "seed": self.seed}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        attacks = [keras.saving.deserialize_keras_object(attack) for attack in config["attacks"]]
        return cls(**{**config, "attacks": attacks})


def _margins(logits: Logits, images: Tensor, labels: Tensor) -> Tensor:
    """Returns the margin of the label; minus infinity where the classifier is fooled."""
    scores = logits(images)
    reached = margins(scores, labels)
    is_correct = tf.math.is_finite(reached) & (tf.argmax(scores, axis=-1) == labels)
    return tf.where(is_correct, reached, -float("inf"))
