"""FAB and FAB-T: find the smallest perturbation by projections onto class boundaries."""

import math

import keras
import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.attack import Epsilon
from keras_trn.attacks.hyperplane_projection import shortest_change
from keras_trn.attacks.margin import logit_of
from keras_trn.attacks.nearest_boundary import LARGEST_NUMBER_OF_RIVALS
from keras_trn.attacks.nearest_boundary import nearest_boundary
from keras_trn.attacks.norms import lengths_of
from keras_trn.attacks.norms import random_on_sphere
from keras_trn.attacks.random_numbers import ALGORITHM
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
# Replaces distances of zero, so that two of them pull equally.
_SMALLEST_DISTANCE = 1e-8
# The smallest lead of a wrong class, relative to the largest logit, that the final search
# accepts. With a smaller lead, rounding in another graph or batch can undo the attack.
_CLEAR_LEAD = 1e-5


@keras.saving.register_keras_serializable(package="keras_trn")
class FastAdaptiveBoundary(Attack):
    """Projects images onto the boundaries between the label and other classes (FAB, FAB-T).

    It searches for the smallest perturbation, and shortens it to epsilon if it is longer. A
    shortened perturbation no longer fools the classifier. Each step treats a boundary as a
    plane, goes to it, and leans towards the clean image. After a success the attack continues
    nearer to the clean image.

    With `targets`, it tries the most likely wrong classes in turn (FAB-T). Without, each step
    goes to the nearest boundary of the nine most likely wrong classes (FAB). It stops attacking
    an image once it has fooled the classifier within epsilon.

    An image costs up to `2 * steps * targets * restarts` forward passes and half as many
    backward passes, and six more forward passes. Without `targets` it costs up to
    `2 * steps * restarts` forward passes, and for every second one a backward pass for each
    of those classes. An image stays unchanged if it is already misclassified or the attack
    finds nothing.

    Call it like any [`Attack`][keras_trn.attacks.Attack].
    Source: Croce and Hein, "Minimally Distorted Adversarial Examples with a Fast Adaptive
    Boundary Attack", arXiv 1907.02044. The targeted form and the random starts follow
    AutoAttack, arXiv 2003.01690; the final search follows the first paper.

    Args:
        epsilon: Largest distance, or a pair `(low, high)` to draw from for each image.
        norm: `"linf"` or `"l2"`.
        steps: Number of steps for each target and start.
        targets: Largest number of wrong classes to try, or `None` for the nearest boundary at
            each step.
        restarts: Number of starts for each target: first the clean image, then random points at
            a distance of half of epsilon.
        seed: Whole number that fixes the random starts, and the epsilons drawn from a range.

    Example:
        ```python
        attack = keras_trn.attacks.FastAdaptiveBoundary(epsilon=0.1, steps=10, targets=3)
        adversarial = attack(classifier, images)
        assert attack.name == "FAB-T" and attack.variant(targets=None).name == "FAB"
        ```
    """

    minimal_norm = True
    norms = ("linf", "l2")

    def __init__(
        self,
        epsilon: Epsilon,
        norm: str = "linf",
        steps: int = 100,
        targets: int | None = 9,
        restarts: int = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__(epsilon, norm=norm, seed=seed)
        self.steps = check_count("steps", steps)
        self.targets = None if targets is None else check_count("targets", targets)
        self.restarts = check_count("restarts", restarts)
        self.is_random = self.restarts > 1

    def craft(
        self, logits: Logits, images: Tensor, labels: Tensor, epsilon: Tensor, random_seed: Tensor
    ) -> Tensor:
        def run(index: Tensor, best: Tensor, shortest: Tensor) -> tuple[Tensor, ...]:
            def update(*inputs: Tensor) -> tuple[Tensor, Tensor]:
                return self._approach(logits, *inputs)

            survives = attacked & (shortest > epsilon[:, 0, 0, 0])
            start = self._start(images, epsilon, index, random_seed)
            rivals = rivals_of_targets[:, index // self.restarts]
            inputs = start, images, labels, rivals, best, shortest
            return index + 1, *update_survivors(survives, (best, shortest), update, *inputs)

        scores = logits(images)
        attacked = are_correct(scores, labels) & (epsilon[:, 0, 0, 0] > 0)
        rivals_of_targets = self._rivals_of_targets(scores, labels)
        _, best, shortest = tf.while_loop(
            lambda index, *_: index < tf.shape(rivals_of_targets)[1] * self.restarts,
            run,
            (tf.constant(0), images, tf.fill(tf.shape(labels), math.inf)),
        )

        def search(images: Tensor, best: Tensor, labels: Tensor) -> Tensor:
            return search_segment(logits, images, best, labels)

        found = tf.math.is_finite(shortest)
        return update_survivors(found, best, search, images, best, labels)

    def _rivals_of_targets(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Lists the classes of each target: a tensor of shape `(batch, targets, classes)`."""
        if self.targets is None:
            return most_likely_rivals(scores, labels, LARGEST_NUMBER_OF_RIVALS)[:, None]
        return most_likely_rivals(scores, labels, self.targets)[:, :, None]

    def _start(self, images: Tensor, epsilon: Tensor, run: Tensor, random_seed: Tensor) -> Tensor:
        """Returns the clean images for the first run of a target, else random points nearby."""
        seed = tf.random.fold_in(random_seed, run, alg=ALGORITHM)
        # Drawn for the whole batch, so an image's start does not depend on the survivors.
        points = random_on_sphere(images, 0.5 * epsilon, self.norm, seed)
        return tf.where(run % self.restarts > 0, points, images)

    def _approach(
        self,
        logits: Logits,
        start: Tensor,
        images: Tensor,
        labels: Tensor,
        rivals: Tensor,
        best: Tensor,
        shortest: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Approaches the boundary of a rival, and keeps the nearest fooling image."""

        def step(current: Tensor, best: Tensor, shortest: Tensor) -> tuple[Tensor, ...]:
            current = self._step(logits, current, images, labels, rivals)
            fooled = ~is_correct(logits, current, labels)
            length = lengths_of(current - images, self.norm)
            is_shorter = fooled & (length < shortest)
            best = tf.where(is_shorter[:, None, None, None], current, best)
            nearer = images + _BETA * (current - images)
            current = tf.where(fooled[:, None, None, None], nearer, current)
            return current, best, tf.where(is_shorter, length, shortest)

        _, best, shortest = tf.while_loop(
            lambda *_: True, step, (start, best, shortest), maximum_iterations=self.steps
        )
        return best, shortest

    def _step(
        self, logits: Logits, current: Tensor, images: Tensor, labels: Tensor, rivals: Tensor
    ) -> Tensor:
        """Projects the current and the clean image onto the boundary, and mixes both."""
        lead, gradient, _ = nearest_boundary(logits, current, labels, rivals, self.norm)
        on_the_way = tf.reduce_sum(gradient * (current - images), axis=[1, 2, 3])
        change, from_clean = self._project(
            tf.stack([current, images]),
            tf.stack([gradient, gradient]),
            tf.stack([-lead, on_the_way - lead]),
        )
        distances = [lengths_of(part, self.norm) for part in (change, from_clean)]
        distance, distance_from_clean = (tf.maximum(d, _SMALLEST_DISTANCE) for d in distances)
        alpha = tf.minimum(distance / (distance + distance_from_clean), _ALPHA_MAX)
        alpha = alpha[:, None, None, None]
        moved = (1.0 - alpha) * (current + _ETA * change) + alpha * (images + _ETA * from_clean)
        return tf.clip_by_value(moved, 0.0, 1.0)

    def _project(self, points: Tensor, normals: Tensor, rises: Tensor) -> list[Tensor]:
        """Projects two batches in one call."""
        shape = tf.shape(points)
        rows = shape[0] * shape[1]
        change = shortest_change(
            tf.reshape(points, [rows, -1]),
            tf.reshape(normals, [rows, -1]),
            tf.reshape(rises, [rows]),
            self.norm,
        )
        return tf.unstack(tf.reshape(change, shape), num=2)

    def without_restarts(self) -> Attack:
        return self if self.restarts == 1 else self.variant(restarts=1)

    @property
    def name(self) -> str:
        return "FAB" if self.targets is None else "FAB-T"


def _lead(scores: Tensor, labels: Tensor, rivals: Tensor) -> Tensor:
    """Returns the logit of the label minus that of another class."""
    return logit_of(scores, labels) - logit_of(scores, rivals)


def search_segment(logits: Logits, images: Tensor, fooling: Tensor, labels: Tensor) -> Tensor:
    """Moves fooling images as far back towards the clean ones as they still fool.

    Each step assumes linear logits on the segment, and picks the point at which the wrong class
    has a small lead.
    """

    def step(
        inner: Tensor, inner_scores: Tensor, outer: Tensor, outer_scores: Tensor
    ) -> tuple[Tensor, ...]:
        rivals = tf.argmax(outer_scores, axis=-1)
        above = _lead(inner_scores, labels, rivals)
        below = -_lead(outer_scores, labels, rivals)
        smallest_lead = _CLEAR_LEAD * tf.reduce_max(tf.abs(outer_scores), axis=-1)
        # Twice the lead, because rounding can reduce it.
        share = (above + 2.0 * smallest_lead) / (above + below + 1e-10)
        share = tf.where((share >= 0.0) & (share <= 1.0), share, 1.0)[:, None, None, None]
        middle = inner + share * (outer - inner)
        scores = logits(middle)
        fools = (-_lead(scores, labels, tf.argmax(scores, axis=-1)) >= smallest_lead)[:, None]
        whole = fools[:, :, None, None]
        return (
            tf.where(whole, inner, middle),
            tf.where(fools, inner_scores, scores),
            tf.where(whole, middle, outer),
            tf.where(fools, scores, outer_scores),
        )

    state = images, logits(images), fooling, logits(fooling)
    _, _, fooling, _ = tf.while_loop(lambda *_: True, step, state, maximum_iterations=_FINAL_STEPS)
    return fooling
