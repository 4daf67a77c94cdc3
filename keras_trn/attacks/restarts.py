"""Several runs of one attack, of which the best counts."""

import functools

import keras
import tensorflow as tf

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.mixture import Mixture
from keras_trn.attacks.random_numbers import split_seed
from keras_trn.input_validation import check_count
from keras_trn.logits import logits_function


@keras.saving.register_keras_serializable(package="keras_trn")
class Restarts(Attack):
    """Runs an attack several times, and keeps the best result for each image.

    Each run draws other random numbers; the epsilons that are drawn from a range
    stay. The best result is the first that fools the classifier, or else that with
    the highest cross-entropy. An image costs `restarts` times what the attack costs,
    and as many forward passes more.

    Args:
        attack: The attack, with its epsilon, norm and seed. One without random parts
            only costs more.
        restarts: Number of runs.

    Call arguments:
        classifier: A Keras model, or a callable, from images to logits.
        images: Clean images of shape `(batch, height, width, channels)` in [0, 1].
        labels: Class indices of shape `(batch,)`; by default the predicted ones.
        epsilon: Overrides the attack's own: a number, or one per image.

    Returns:
        A float32 tensor of adversarial images, of the shape of `images`.

    Raises:
        ValueError: If an argument is malformed, or `attack` is a mixture.

    Example:
        ```python
        attack = keras_trn.attacks.Restarts(
            keras_trn.attacks.ProjectedGradientDescent(epsilon=0.1), restarts=3
        )
        assert attack.name == "PGD-20 x3"
        assert attack(classifier, images).shape == images.shape
        ```
    """

    def __init__(self, attack, restarts=5):
        if not isinstance(attack, Attack) or isinstance(attack, Mixture):
            raise ValueError(
                "Restarts needs one attack of `keras_trn.attacks`, that is no Mixture, received "
                f"{attack!r}. A mixture takes attacks with restarts: "
                "`Mixture([Restarts(attack), ...])`."
            )
        restarts = check_count("restarts", restarts)
        super().__init__(attack.epsilon, norm=attack.norm, seed=attack.seed)
        self.attack = attack
        self.restarts = restarts
        self.gradient_free = attack.gradient_free

    def craft(self, logits, images, labels, epsilon, random_seed):
        run = functools.partial(self.attack.perturb, logits, images, labels, epsilon)
        return self._best(run, logits, labels, random_seed)

    def _run(self, classifier, images, labels, epsilon, random_seed):
        logits = logits_function(classifier)
        labels = tf.argmax(logits(images), axis=-1) if labels is None else labels
        run = functools.partial(self.attack._run, classifier, images, labels, epsilon)
        return self._best(run, logits, labels, random_seed)

    def _best(self, run, logits, labels, random_seed):
        """Runs the attack with one seed after the other, and keeps the best of each image."""
        best, highest = None, None
        for seed in split_seed(random_seed, self.restarts):
            adversarial = run(seed)
            scores = _scores(logits(adversarial), labels)
            if best is None:
                best, highest = adversarial, scores
            better = scores > highest
            best = tf.where(better[:, None, None, None], adversarial, best)
            highest = tf.maximum(scores, highest)
        return best

    def with_largest_epsilon(self):
        """Returns the restarts of its attack at full strength."""
        return Restarts(self.attack.with_largest_epsilon(), self.restarts)

    def with_seed(self, seed):
        """Returns the restarts of its attack with a seed, unless that has one of its own.

        Args:
            seed: Whole number that fixes what is random in the attack.
        """
        return Restarts(self.attack.with_seed(seed), self.restarts)

    @property
    def name(self):
        """What the attack is called in tables."""
        return f"{self.attack.name} x{self.restarts}"

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "attack": keras.saving.serialize_keras_object(self.attack),
            "restarts": self.restarts,
        }

    @classmethod
    def from_config(cls, config):
        """Makes an attack from what `get_config` returned."""
        attack = keras.saving.deserialize_keras_object(config["attack"])
        return cls(**{**config, "attack": attack})

    def __repr__(self):
        return f"Restarts({self.attack!r}, restarts={self.restarts})"


def _scores(logits, labels):
    """How good adversarial images are: infinitely so where they fool the classifier."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.where(tf.argmax(logits, axis=-1) == labels, losses, float("inf"))
