"""Several attacks in turn, each on the images that withstood the previous ones."""

import functools
from collections.abc import Sequence
from typing import Any
from typing import Self

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.combined_attack import CombinedAttack
from keras_trn.attacks.combined_attack import seed_of
from keras_trn.attacks.expectation import ExpectationOverTransformation
from keras_trn.attacks.expectation import mean_logits
from keras_trn.attacks.margin import margins
from keras_trn.attacks.mixture import Mixture
from keras_trn.attacks.random_numbers import split_seed
from keras_trn.attacks.survivors import update_survivors
from keras_trn.types import Config
from keras_trn.types import Logits


@keras.saving.register_keras_serializable(package="keras_trn")
class AttackEnsemble(CombinedAttack):
    """Runs several attacks in turn, each on the images that withstood the previous ones.

    It does not attack an image again once one attack has succeeded. For an image that withstands
    all attacks, it returns the perturbation with the smallest margin. On top of the attacks
    themselves, an image costs one forward pass, and one more for each attack on it. If every attack
    is an `ExpectationOverTransformation`, mean logits decide which attack succeeded. Then each of
    these passes becomes as many passes as there are samples.

    It has the capabilities of its attacks. Call it like any
    [`Attack`][keras_trn.attacks.Attack]. An attack with a seed of its own keeps it.

    Args:
        attacks: Attacks with the same epsilon and norm, the cheapest first.
        name: The name in tables; by default the names of the attacks.
        seed: Whole number that fixes all randomness.

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
        self._hold(attacks)
        balls = {(attack.norm, attack.epsilon) for attack in self.attacks}
        if len(balls) > 1 or isinstance(self.attacks[0], Mixture):
            raise ValueError(
                "The attacks of an ensemble must share one norm and one epsilon, received "
                f"{', '.join(map(repr, self.attacks))}. Evaluate other attacks separately."
            )
        self._name = name
        super().__init__(self.attacks[0].epsilon, norm=self.attacks[0].norm, seed=seed)

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        seeds = split_seed(random_seed, len(self.attacks))
        margins_of = functools.partial(_margins, self._deciding_logits(logits))
        best, lowest = images, margins_of(images, labels)
        for index, attack in enumerate(self.attacks):
            survives = lowest > -float("inf")
            perturb = functools.partial(
                attack.perturb, logits, random_seed=seed_of(attack, seeds[index])
            )
            crafted = update_survivors(survives, best, perturb, images, labels, epsilon)
            reached = update_survivors(survives, lowest, margins_of, crafted, labels)
            best = tf.where((reached < lowest)[:, None, None, None], crafted, best)
            lowest = tf.minimum(reached, lowest)
        return best

    def _deciding_logits(self, logits: Logits) -> Logits:
        """Returns the logits that decide which images are fooled."""
        samples = [
            attack.samples
            for attack in self.attacks
            if isinstance(attack, ExpectationOverTransformation)
        ]
        # One unlucky run of a random defence would end the attack on an image that it gets right
        # in most runs.
        return mean_logits(logits, max(samples)) if len(samples) == len(self.attacks) else logits

    def variant(self, **changes: Any) -> Self:
        """Returns the ensemble with another `name` or `seed`, or with changed attacks."""
        own: dict[str, Any] = {"name": self._name, "seed": self.seed}
        own |= {key: changes.pop(key) for key in own if key in changes}
        return type(self)([attack.variant(**changes) for attack in self.attacks], **own)

    @property
    def name(self) -> str:
        return self._name or ", ".join(attack.name for attack in self.attacks)

    def get_config(self) -> Config:
        return {**super().get_config(), "name": self._name}


def _margins(logits: Logits, images: Tensor, labels: Tensor) -> Tensor:
    """Returns the margin of the label; minus infinity for fooling images."""
    scores = logits(images)
    reached = margins(scores, labels)
    is_correct = tf.math.is_finite(reached) & (tf.argmax(scores, axis=-1) == labels)
    return tf.where(is_correct, reached, -float("inf"))
