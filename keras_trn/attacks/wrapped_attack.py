"""The base class of attacks that wrap another attack."""

from typing import Any
from typing import Self

import keras

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.mixture import Mixture
from keras_trn.types import ArrayLike
from keras_trn.types import Config
from keras_trn.types import ImageShape


class WrappedAttack(Attack):
    """Holds another attack, and has its epsilon, norm, seed and capabilities.

    A subclass passes its attack to this constructor and writes `craft` and `name`. It stores
    its own constructor's other arguments as attributes.
    """

    def __init__(self, attack: Attack) -> None:
        if not isinstance(attack, Attack) or isinstance(attack, Mixture):
            raise ValueError(
                f"{type(self).__name__} needs one attack of `keras_trn.attacks` other than "
                f"Mixture, received {attack!r}. Put the wrapped attacks into the mixture instead: "
                f"`Mixture([{type(self).__name__}(attack), ...])`."
            )
        self.attack: Any = attack
        super().__init__(attack.epsilon, norm=attack.norm, seed=attack.seed)
        self.gradient_free, self.runs_in_graph = attack.gradient_free, attack.runs_in_graph
        self.is_random, self.minimal_norm = attack.is_random, attack.minimal_norm

    def check_epsilon(self, epsilon: ArrayLike | float) -> Any:
        return self.attack.check_epsilon(epsilon)

    def check_image_shape(self, image_shape: ImageShape) -> None:
        self.attack.check_image_shape(image_shape)

    def variant(self, **changes: Any) -> Self:
        """Returns a copy with other arguments of its own or of the attack."""
        own = {name: changes.pop(name, value) for name, value in self._own_arguments().items()}
        return type(self)(self.attack.variant(**changes), **own)

    def _own_arguments(self) -> Config:
        return {name: value for name, value in super().get_config().items() if name != "attack"}

    def get_config(self) -> Config:
        return {"attack": keras.saving.serialize_keras_object(self.attack), **self._own_arguments()}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        attack = keras.saving.deserialize_keras_object(config["attack"])
        return cls(**{**config, "attack": attack})

    def __repr__(self) -> str:
        own = "".join(f", {name}={value!r}" for name, value in self._own_arguments().items())
        return f"{type(self).__name__}({self.attack!r}{own})"
