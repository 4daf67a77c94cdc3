"""FAB-T: the smallest perturbation, by projections onto boundaries between two classes."""

import math

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.attack import Epsilon
from keras_trn.attacks.hyperplane_projection import shortest_change
from keras_trn.attacks.norms import lengths_of
from keras_trn.attacks.rivals import most_likely_rivals
from keras_trn.attacks.survivors import are_correct
from keras_trn.attacks.survivors import is_correct
from keras_trn.attacks.survivors import update_survivors
from keras_trn.input_validation import check_count
from keras_trn.types import Logits

# The names and values of the paper: the largest pull towards the clean image, the factor of
# each step, and the step back after a success.
_ALPHA_MAX = 0.1
_ETA = 1.05
_BETA = 0.9
_FINAL_STEPS = 3
# Two distances of zero pull equally.
_SMALLEST_DISTANCE = 1e-8


@keras.saving.register_keras_serializable(package="keras_trn")
class FastAdaptiveBoundary(Attack):
    """Projects images onto the boundaries between the label and other classes (FAB-T).

    It searches for the smallest perturbation, and shortens it to epsilon if it is longer; it
    then no longer fools the classifier. It tries the most likely wrong classes one after the
    other. Each step goes to the boundary as if it were a plane, and is drawn towards the clean
    image. After a success it continues nearer to the clean image. A class is not tried for an
    image that is already fooled within epsilon.

    An image costs up to `2 * steps * targets` forward passes and half as many backward passes,
    and six forward passes more. Images that are already misclassified, or for which nothing is
    found, are left unchanged.

    Call it like any [`Attack`][keras_trn.attacks.Attack].
    Source: Croce and Hein, "Minimally Distorted Adversarial Examples with a Fast Adaptive
    Boundary Attack", arXiv 1907.02044. The targeted form is that of AutoAttack, arXiv
    2003.01690, with the final search of the first paper and without random restarts.

    Args:
        epsilon: Largest distance, or a pair `(low, high)` to draw from for each image.
        norm: `"linf"` or `"l2"`.
        steps: Number of steps for each target.
        targets: Largest number of wrong classes that are tried.
        seed: Whole number that fixes the epsilons drawn from a range.

    Example:
        ```python
        attack = keras_trn.attacks.FastAdaptiveBoundary(epsilon=0.1, steps=10, targets=3)
        adversarial = attack(classifier, images)
        ```
    """

    is_random = False
    minimal_norm = True
    name = "FAB-T"

    def __init__(
        self,
        epsilon: Epsilon,
        norm: str = "linf",
        steps: int = 100,
        targets: int = 9,
        seed: int | None = None,
    ) -> None:
        super().__init__(epsilon, norm=norm, seed=seed)
        self.steps = check_count("steps", steps)
        self.targets = check_count("targets", targets)

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        def attack_target(rank: Tensor, best: Tensor, shortest: Tensor) -> tuple[Tensor, ...]:
            def update(*inputs: Tensor) -> tuple[Tensor, Tensor]:
                return self._approach(logits, *inputs)

            survives = attacked & (shortest > epsilon[:, 0, 0, 0])
            inputs = images, labels, targets[:, rank], best, shortest
            return rank + 1, *update_survivors(survives, (best, shortest), update, *inputs)

        scores = logits(images)
        attacked = are_correct(scores, labels) & (epsilon[:, 0, 0, 0] > 0)
        targets = most_likely_rivals(scores, labels, self.targets)
        _, best, shortest = tf.while_loop(
            lambda rank, *_: rank < tf.shape(targets)[1],
            attack_target,
            (tf.constant(0), images, tf.fill(tf.shape(labels), math.inf)),
        )

        def search(images: Tensor, best: Tensor, labels: Tensor) -> Tensor:
            return _search_segment(logits, images, best, labels)

        found = tf.math.is_finite(shortest)
        return update_survivors(found, best, search, images, best, labels)

    def _approach(
        self,
        logits: Logits,
        images: Tensor,
        labels: Tensor,
        targets: Tensor,
        best: Tensor,
        shortest: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Approaches the boundary to one class for each image, and keeps what is nearest."""

        def step(current: Tensor, best: Tensor, shortest: Tensor) -> tuple[Tensor, ...]:
            current = self._step(logits, current, images, labels, targets)
            fooled = ~is_correct(logits, current, labels)
            length = lengths_of(current - images, self.norm)
            is_shorter = fooled & (length < shortest)
            best = tf.where(is_shorter[:, None, None, None], current, best)
            nearer = images + _BETA * (current - images)
            current = tf.where(fooled[:, None, None, None], nearer, current)
            return current, best, tf.where(is_shorter, length, shortest)

        _, best, shortest = tf.while_loop(
            lambda *_: True, step, (images, best, shortest), maximum_iterations=self.steps
        )
        return best, shortest

    def _step(
        self, logits: Logits, current: Tensor, images: Tensor, labels: Tensor, targets: Tensor
    ) -> Tensor:
        """Goes to the boundary from the current image and from the clean one, and mixes both."""
        difference, gradient = _difference(logits, current, labels, targets)
        on_the_way = tf.reduce_sum(gradient * (current - images), axis=[1, 2, 3])
        change, from_clean = self._project(
            tf.stack([current, images]),
            tf.stack([gradient, gradient]),
            tf.stack([-difference, on_the_way - difference]),
        )
        distances = [lengths_of(part, self.norm) for part in (change, from_clean)]
        distance, distance_from_clean = (tf.maximum(d, _SMALLEST_DISTANCE) for d in distances)
        alpha = tf.minimum(distance / (distance + distance_from_clean), _ALPHA_MAX)
        alpha = alpha[:, None, None, None]
        moved = (1.0 - alpha) * (current + _ETA * change) + alpha * (images + _ETA * from_clean)
        return tf.clip_by_value(moved, 0.0, 1.0)

    def _project(self, points: Tensor, normals: Tensor, rises: Tensor) -> list[Tensor]:
        """Projects two batches at once."""
        shape = tf.shape(points)
        rows = shape[0] * shape[1]
        change = shortest_change(
            tf.reshape(points, [rows, -1]),
            tf.reshape(normals, [rows, -1]),
            tf.reshape(rises, [rows]),
            self.norm,
        )
        return tf.unstack(tf.reshape(change, shape), num=2)


def _difference(
    logits: Logits, images: Tensor, labels: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the logit of the target minus that of the label, and its gradient."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        difference = -_lead(logits(images), labels, targets)
    return difference, tape.gradient(difference, images)


def _lead(scores: Tensor, labels: Tensor, rivals: Tensor) -> Tensor:
    """Returns the logit of the label minus that of another class."""
    of_label = tf.gather(scores, labels, batch_dims=1)
    return of_label - tf.gather(scores, rivals, batch_dims=1)


def _search_segment(logits: Logits, images: Tensor, fooling: Tensor, labels: Tensor) -> Tensor:
    """Moves fooling images back towards the clean ones, as far as they fool.

    Each step places a point where the logits would be equal if they were linear on the segment.
    """

    def step(
        inner: Tensor, inner_scores: Tensor, outer: Tensor, outer_scores: Tensor
    ) -> tuple[Tensor, ...]:
        rivals = tf.argmax(outer_scores, axis=-1)
        above = _lead(inner_scores, labels, rivals)
        below = -_lead(outer_scores, labels, rivals)
        share = above / (above + below + 1e-10)
        share = tf.where((share >= 0.0) & (share <= 1.0), share, 1.0)[:, None, None, None]
        middle = inner + share * (outer - inner)
        scores = logits(middle)
        correct = are_correct(scores, labels)[:, None]
        whole = correct[:, :, None, None]
        return (
            tf.where(whole, middle, inner),
            tf.where(correct, scores, inner_scores),
            tf.where(whole, outer, middle),
            tf.where(correct, outer_scores, scores),
        )

    state = images, logits(images), fooling, logits(fooling)
    _, _, fooling, _ = tf.while_loop(lambda *_: True, step, state, maximum_iterations=_FINAL_STEPS)
    return fooling
