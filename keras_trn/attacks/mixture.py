"""Several attacks in one batch."""

import keras
import tensorflow as tf

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.random_numbers import ALGORITHM
from keras_trn.graphs import GraphCache


@keras.saving.register_keras_serializable(package="keras_trn")
class Mixture(Attack):
    """Gives each of several attacks an equal share of every batch.

    A restorer that is trained on a mixture meets all attacks in each step.
    Which image meets which attack follows from its place in the batch, so the
    training data should be shuffled, as `fit` does with arrays. Where a batch has
    fewer images than there are attacks, the attacks take turns at random.

    Args:
        attacks: List of attacks, each with its own epsilon and norm.

    Call arguments:
        classifier: A Keras model, or a callable, from images to logits.
        images: Clean images of shape `(batch, height, width, channels)` in [0, 1].
        labels: Class indices of shape `(batch,)`; by default the predicted ones.
        epsilon: Overrides the epsilon of every attack: a number, or one per image.

    Returns:
        A float32 tensor of adversarial images, of the shape of `images`.

    Raises:
        ValueError: If `attacks` is empty or holds something that is no attack.

    Example:
        ```python
        attack = keras_trn.attacks.Mixture(
            [
                keras_trn.attacks.FastGradientMethod(epsilon=(0.0, 0.2)),
                keras_trn.attacks.ProjectedGradientDescent(epsilon=1.0, norm="l2"),
            ]
        )
        assert attack(classifier, images).shape == images.shape
        ```
    """

    def __init__(self, attacks):
        attacks = list(attacks)
        if not attacks or not all(isinstance(attack, Attack) for attack in attacks):
            raise ValueError(
                "A mixture needs a list of at least one attack of `keras_trn.attacks`, "
                f"received {attacks!r}."
            )
        self.attacks = attacks
        self.seed = None
        self._graphs = GraphCache()

    def perturb(self, logits, images, labels, epsilon, random_seed):
        # Each attack keeps to the ball of its own norm.
        return self.craft(logits, images, labels, epsilon, random_seed)

    def craft(self, logits, images, labels, epsilon, random_seed):
        crafted = []
        for index, (attack, start, stop) in enumerate(self._shares(images, random_seed)):
            # A batch may have fewer images than there are attacks, and convolutions
            # need at least one image.
            share = slice(start, tf.maximum(stop, start + 1))
            adversarial = attack.perturb(
                logits,
                images[share],
                labels[share],
                epsilon[share],
                random_seed + index
                if attack.seed is None
                else attack._random_seed(seed=attack.seed),
            )
            crafted.append(adversarial[: stop - start])
        return tf.concat(crafted, axis=0)

    def _shares(self, images, random_seed):
        """Yields each attack with the bounds of its part of the batch."""
        batch_size, number = tf.shape(images)[0], len(self.attacks)
        # Rounded up or down at random, such that also a single image meets every attack in turn.
        rounding = tf.random.stateless_uniform([], random_seed, alg=ALGORITHM)
        shares = tf.cast(batch_size * tf.range(number + 1), tf.float32) / number
        bounds = tf.cast(tf.floor(shares + rounding), tf.int32)
        for index, attack in enumerate(self.attacks):
            yield attack, bounds[index], bounds[index + 1]

    def _draw(self, images, epsilon, seed):
        random_seed = self._random_seed(seed=seed)
        if epsilon is not None:
            return self._epsilon_per_image(images, epsilon), random_seed
        epsilons = [
            attack._epsilon_per_image(images[start:stop], None, seed)
            for attack, start, stop in self._shares(images, random_seed)
        ]
        return tf.concat(epsilons, axis=0), random_seed

    def _checked_epsilon(self, epsilon):
        checked, *_ = [attack._checked_epsilon(epsilon) for attack in self.attacks]
        return checked

    def with_largest_epsilon(self):
        """Returns the mixture of its attacks at full strength."""
        return Mixture([attack.with_largest_epsilon() for attack in self.attacks])

    def with_seed(self, seed):
        """Returns the mixture of its attacks, each with a seed."""
        return Mixture([attack.with_seed(seed) for attack in self.attacks])

    @property
    def name(self):
        """What the attack is called in tables."""
        return " + ".join(attack.name for attack in self.attacks)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {"attacks": [keras.saving.serialize_keras_object(attack) for attack in self.attacks]}

    @classmethod
    def from_config(cls, config):
        """Makes a mixture from what `get_config` returned."""
        return cls([keras.saving.deserialize_keras_object(attack) for attack in config["attacks"]])

    def __repr__(self):
        return f"Mixture({self.attacks!r})"
