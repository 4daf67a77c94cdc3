"""The base class of attacks that consist of several others."""

from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any
from typing import Self

import keras
from tensorflow import Tensor

from keras_trn.attacks.attack import Attack
from keras_trn.types import ArrayLike
from keras_trn.types import Config
from keras_trn.types import ImageShape


def seed_of(attack: Attack, random_seed: Tensor) -> Tensor:
    """Returns the seed of an attack in a combination: its own, or else the given one."""
    return random_seed if attack.seed is None else attack._random_seed(attack.seed)


class CombinedAttack(Attack):
    """Holds several attacks, and has only the capabilities that all of them share.

    A subclass calls `_hold` in its constructor and writes `craft` or `perturb`.
    """

    attacks: list[Attack]

    def _hold(self, attacks: Sequence[Attack]) -> None:
        held = list(attacks) if isinstance(attacks, Iterable) else []
        if not held or not all(isinstance(attack, Attack) for attack in held):
            raise ValueError(
                f"{type(self).__name__} needs a list of at least one attack of "
                f"`keras_trn.attacks`, received {attacks!r}."
            )
        self.attacks = held
        self.gradient_free = all(attack.gradient_free for attack in held)
        self.runs_in_graph = all(attack.runs_in_graph for attack in held)
        self.is_random = any(attack.is_random for attack in held)
        self.minimal_norm = all(attack.minimal_norm for attack in held)

    def check_epsilon(self, epsilon: ArrayLike | float) -> Any:
        checked, *_ = [attack.check_epsilon(epsilon) for attack in self.attacks]
        return checked

    def check_image_shape(self, image_shape: ImageShape) -> None:
        for attack in self.attacks:
            attack.check_image_shape(image_shape)

    def get_config(self) -> Config:
        attacks = [keras.saving.serialize_keras_object(attack) for attack in self.attacks]
        return {**super().get_config(), "attacks": attacks}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        attacks = [keras.saving.deserialize_keras_object(attack) for attack in config["attacks"]]
        return cls(**{**config, "attacks": attacks})
