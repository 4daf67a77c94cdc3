"""A climb within an L1 ball, along ever fewer pixels: one run of Auto-PGD for L1.

Source: Croce and Hein, "Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers",
arXiv 2103.01208. The schedules follow the authors' code.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.auto_step_climb import Found
from keras_trn.attacks.auto_step_climb import Measured
from keras_trn.attacks.auto_step_climb import Track
from keras_trn.attacks.auto_step_climb import as_pixels
from keras_trn.attacks.auto_step_climb import first_track
from keras_trn.attacks.auto_step_climb import found_on
from keras_trn.attacks.auto_step_climb import record
from keras_trn.attacks.auto_step_climb import return_to_best
from keras_trn.attacks.norms import keep_inside
from keras_trn.attacks.random_numbers import ALGORITHM
from keras_trn.attacks.sparse_steps import sparse_direction

# Climbing is easier in a larger ball, so the attack begins there: multiples of epsilon, and
# shares of the steps.
_STAGES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
# The share of the steps between two checks.
_WINDOW = 0.04
# A step moves this share of the pixels that the best point has moved.
_MOVED_SHARE = 1 / 1.5
# The best point counts as sparser if its number of moved pixels fell below this share.
_SPARSER = 0.95
# Otherwise a check divides the step by this, down to a tenth of epsilon.
_REDUCTION, _SHORTEST = 1.5, 0.1


class _Steps(NamedTuple):
    """Holds the size of each image's next step, and the share of pixels that it moves."""

    size: Tensor
    share: Tensor
    # The number of pixels that the best point had moved at the last check.
    moved: Tensor


def climb_in_stages(
    measure: Callable[[Tensor], Measured],
    start: Tensor,
    images: Tensor,
    epsilon: Tensor,
    steps: int,
) -> Found:
    """Climbs in balls of three sizes; the result comes from the last one alone.

    It calls `measure` once for each of the `steps` and each stage. Epsilon has the shape
    `(batch, 1, 1, 1)`.
    """
    for (multiple, _), number in zip(_STAGES, steps_of_stages(steps), strict=True):
        stage_start = keep_inside(start, images, multiple * epsilon, "l1")
        track = _climb(measure, stage_start, images, multiple * epsilon, number)
        start = track.best
    return found_on(track)


def random_far_away(images: Tensor, seed: Tensor) -> Tensor:
    """Draws points far outside the balls; projecting them changes few pixels of the image."""
    return images + tf.random.stateless_normal(tf.shape(images), seed, alg=ALGORITHM)


def steps_of_stages(steps: int) -> list[int]:
    """Divides a number of steps among the stages; the last one gets the rest."""
    *numbers, _ = (math.ceil(share * steps) for _, share in _STAGES)
    return [*numbers, max(steps - sum(numbers), 1)]


def _climb(
    measure: Callable[[Tensor], Measured],
    start: Tensor,
    images: Tensor,
    epsilon: Tensor,
    steps: int,
) -> Track:
    window = max(int(_WINDOW * steps), 1)

    def step(index: Tensor, track: Track, chosen: _Steps) -> tuple[Tensor, Track, _Steps]:
        direction = sparse_direction(track.gradient, chosen.share)
        point = keep_inside(track.point + chosen.size * direction, images, epsilon, "l1")
        track = record(track, point, measure(point))
        is_due = (index + 1) % window == 0
        return index + 1, *_check(track, chosen, images, epsilon, is_due)

    track = first_track(start, measure(start))
    moved = _moved_pixels(start, images)
    chosen = _Steps(size=epsilon, share=_share_of_step(moved, images), moved=moved)
    _, track, _ = tf.while_loop(
        lambda *_: True, step, (tf.constant(0), track, chosen), maximum_iterations=steps
    )
    return track


def _check(
    track: Track, chosen: _Steps, images: Tensor, epsilon: Tensor, is_due: Tensor
) -> tuple[Track, _Steps]:
    """Returns images that became sparser to their best point; shortens the others' steps."""
    moved = _moved_pixels(track.best, images)
    is_sparser = moved < _SPARSER * chosen.moved
    shortened = tf.maximum(chosen.size / _REDUCTION, _SHORTEST * epsilon)
    return return_to_best(track, is_due & is_sparser), _Steps(
        size=tf.where(is_due, tf.where(as_pixels(is_sparser), epsilon, shortened), chosen.size),
        share=tf.where(is_due, _share_of_step(moved, images), chosen.share),
        moved=tf.where(is_due, moved, chosen.moved),
    )


def _moved_pixels(points: Tensor, images: Tensor) -> Tensor:
    return tf.math.count_nonzero(points - images, axis=[1, 2, 3], dtype=tf.float32)


def _share_of_step(moved: Tensor, images: Tensor) -> Tensor:
    return _MOVED_SHARE * moved / tf.cast(tf.reduce_prod(tf.shape(images)[1:]), tf.float32)
