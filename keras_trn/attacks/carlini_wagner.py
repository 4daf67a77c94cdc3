"""The attack of Carlini and Wagner: the shortest perturbation, by optimization."""

import math

import keras
import tensorflow as tf

from keras_trn.attacks.adam import adam_start
from keras_trn.attacks.adam import adam_step
from keras_trn.attacks.attack import Attack
from keras_trn.attacks.margin import margins
from keras_trn.attacks.norms import project
from keras_trn.input_validation import check_count
from keras_trn.input_validation import check_range

# Keeps black and white pixels, whose place in the space of the attack is infinite, finite.
_SMOOTHING = 0.999999
_FIRST_CONSTANT = 0.1


@keras.saving.register_keras_serializable(package="keras_trn")
class CarliniWagner(Attack):
    """Looks for the shortest perturbation that fools the classifier (CW).

    Adam minimizes the squared length of the perturbation plus a constant times
    the margin by which the classifier still prefers the label. The constant is
    searched for each image: ten times larger until the classifier is fooled,
    then halfway between the largest that failed and the smallest that did not.
    The shortest adversarial perturbation is kept, and shortened to epsilon if it
    is longer: the classifier is then no longer fooled.

    An image costs `steps * search_steps` forward and backward passes. Images
    that are misclassified already, or for which nothing is found, stay as they are.

    Source: Carlini and Wagner, "Towards Evaluating the Robustness of Neural
    Networks", arXiv 1608.04644. CleverHans' own fails on Keras 3. The tests
    compare the success rates with those of Foolbox.

    Args:
        epsilon: Largest L2 distance, in units of the image range [0, 1]; or a pair
            `(low, high)` to draw from for each image.
        steps: Number of steps of Adam for each constant.
        search_steps: Number of constants tried for each image.
        learning_rate: Learning rate of Adam, above 0 and at most 1. A black or white
            pixel only moves after a way of about 8: `steps * learning_rate` should
            exceed that.
        confidence: Margin that another class must have over the label, in logits.
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
        attack = keras_trn.attacks.CarliniWagner(epsilon=1.0, steps=20)
        assert attack(classifier, images).shape == images.shape
        ```
    """

    def __init__(
        self, epsilon, steps=100, search_steps=6, learning_rate=0.1, confidence=0.0, seed=None
    ):
        super().__init__(epsilon, norm="l2", seed=seed)
        steps = check_count("steps", steps)
        search_steps = check_count("search_steps", search_steps)
        learning_rate = check_range("learning_rate", learning_rate, 0, 1)
        confidence = check_range("confidence", confidence, 0, math.inf)
        self.steps = steps
        self.search_steps = search_steps
        self.learning_rate = learning_rate
        self.confidence = confidence

    def craft(self, logits, images, labels, epsilon, random_seed):
        def search_step(constant, low, high, best, best_length):
            best, best_length, fooled = self._optimise(
                logits, images, labels, constant, best, best_length
            )
            low = tf.where(fooled, low, constant)
            high = tf.where(fooled, constant, high)
            constant = tf.where(tf.math.is_inf(high), 10.0 * constant, (low + high) / 2.0)
            return constant, low, high, best, best_length

        misclassified = margins(logits(images), labels) < 0
        nowhere = tf.fill(tf.shape(labels), float("inf"))
        state = (
            tf.fill(tf.shape(labels), _FIRST_CONSTANT),
            tf.zeros_like(nowhere),
            nowhere,
            images,
            tf.where(misclassified, 0.0, nowhere),
        )
        *_, best, _ = tf.while_loop(
            lambda *_: True, search_step, state, maximum_iterations=self.search_steps
        )
        return project(best, images, epsilon, "l2")

    def _optimise(self, logits, images, labels, constant, best, best_length):
        """Runs Adam with one constant for each image, and updates the best images."""

        def step(space, found, best, best_length, *adam):
            with tf.GradientTape() as tape:
                tape.watch(space)
                adversarial = (tf.tanh(space) + 1.0) / 2.0
                margin = margins(logits(adversarial), labels)
                squares = tf.reduce_sum(tf.square(adversarial - images), axis=[1, 2, 3])
                loss = squares + constant * tf.maximum(margin + self.confidence, 0.0)
            direction, adam = adam_step(tape.gradient(loss, space), *adam)
            fooled = margin < -self.confidence
            shorter = fooled & (tf.sqrt(squares) < best_length)
            best = tf.where(shorter[:, None, None, None], adversarial, best)
            best_length = tf.where(shorter, tf.sqrt(squares), best_length)
            return (
                space - self.learning_rate * direction,
                found | fooled,
                best,
                best_length,
                *adam,
            )

        space = tf.atanh((2.0 * images - 1.0) * _SMOOTHING)
        found = tf.zeros_like(labels, tf.bool)
        _, found, best, best_length, *_ = tf.while_loop(
            lambda *_: True,
            step,
            (space, found, best, best_length, *adam_start(space)),
            maximum_iterations=self.steps,
        )
        return best, best_length, found

    @property
    def name(self):
        """What the attack is called in tables."""
        return "CW"

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "epsilon": self.epsilon,
            "steps": self.steps,
            "search_steps": self.search_steps,
            "learning_rate": self.learning_rate,
            "confidence": self.confidence,
            "seed": self.seed,
        }
