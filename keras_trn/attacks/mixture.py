"""Several attacks in one batch."""

from collections.abc import Iterator
from collections.abc import Sequence
from typing import Self

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.combined_attack import CombinedAttack
from keras_trn.attacks.combined_attack import seed_of
from keras_trn.attacks.random_numbers import ALGORITHM
from keras_trn.graphs import GraphCache
from keras_trn.types import ArrayLike
from keras_trn.types import Logits


@keras.saving.register_keras_serializable(package="keras_trn")
class Mixture(CombinedAttack):
    """Gives each of several attacks an equal share of every batch.

    Train on a mixture to show the restorer all attacks in each step. Shuffle the training data,
    as `fit` does with arrays, because an image's place in the batch decides its attack. If a
    batch has fewer images than there are attacks, the attacks take turns at random.

    It runs in a graph if all its attacks do. Call it like any
    [`Attack`][keras_trn.attacks.Attack]; `epsilon` overrides the epsilon of every attack. An attack
    with a seed of its own keeps it. If all have one, every call gives the same result.

    Args:
        attacks: Attacks, each with its own epsilon, norm and seed. A mixture among them counts as
            the attacks that it holds.

    Raises:
        ValueError: If `attacks` is empty or contains anything else.

    Example:
        ```python
        fgsm = keras_trn.attacks.FastGradientMethod(epsilon=(0.0, 0.2))
        pgd = keras_trn.attacks.ProjectedGradientDescent(epsilon=1.0, norm="l2")
        assert keras_trn.attacks.Mixture([fgsm, pgd]).name == "FGSM + PGD-20"
        ```
    """

    def __init__(self, attacks: Sequence[Attack]) -> None:
        self._hold(attacks)
        self.attacks = [part for attack in self.attacks for part in attack.parts()]
        # Each attack has its own values.
        self.epsilon = self.norm = None
        seeds = [attack.seed for attack in self.attacks]
        # It decides how shares are rounded.
        self.seed = None if None in seeds else seeds[0]
        self._graphs = GraphCache()

    def perturb(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        """Crafts adversarial images; each attack projects them into its own ball."""
        crafted = []
        for index, (attack, start, stop) in enumerate(self._shares(images, random_seed)):
            # Convolutions need at least one image, even if the share is empty.
            first = tf.minimum(start, tf.shape(images)[0] - 1)
            share = slice(first, tf.maximum(stop, first + 1))
            adversarial = attack.perturb(
                logits,
                images[share],
                labels[share],
                epsilon[share],
                seed_of(attack, random_seed + index),
            )
            crafted.append(adversarial[: stop - start])
        return tf.concat(crafted, axis=0)

    def _shares(
        self, images: Tensor, random_seed: Tensor
    ) -> Iterator[tuple[Attack, Tensor, Tensor]]:
        """Yields each attack with the bounds of its part of the batch."""
        batch_size, number = tf.shape(images)[0], len(self.attacks)
        # Rounds up or down at random, so every attack also gets its turn on single images.
        rounding = tf.random.stateless_uniform([], random_seed, alg=ALGORITHM)
        shares = tf.cast(batch_size * tf.range(number + 1), tf.float32) / number
        bounds = tf.cast(tf.floor(shares + rounding), tf.int32)
        for index, attack in enumerate(self.attacks):
            yield attack, bounds[index], bounds[index + 1]

    def _draw(
        self, images: Tensor, epsilon: ArrayLike | None, seed: int | None
    ) -> tuple[Tensor, Tensor]:
        random_seed = self._random_seed(seed)
        if epsilon is not None:
            return self._epsilon_per_image(images, epsilon, seed), random_seed
        epsilons = [
            attack._epsilon_per_image(
                images[start:stop], None, seed if attack.seed is None else attack.seed
            )
            for attack, start, stop in self._shares(images, random_seed)
        ]
        return tf.concat(epsilons, axis=0), random_seed

    def parts(self) -> list[Attack]:
        """Returns the attacks of the mixture."""
        return list(self.attacks)

    def with_largest_epsilon(self) -> Self:
        """Returns the mixture with the upper end of each range as epsilon."""
        return type(self)([attack.with_largest_epsilon() for attack in self.attacks])

    def with_seed(self, seed: int | None) -> Self:
        """Returns the mixture with a seed for each attack that has none."""
        return type(self)([attack.with_seed(seed) for attack in self.attacks])

    @property
    def name(self) -> str:
        return " + ".join(attack.name for attack in self.attacks)

    def __repr__(self) -> str:
        return f"Mixture({self.attacks!r})"
