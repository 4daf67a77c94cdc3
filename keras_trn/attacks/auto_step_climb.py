"""A climb that halves its step when the loss stops rising: one run of Auto-PGD.

Source: Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
Parameter-Free Attacks", arXiv 2003.01690. The schedule follows the authors' code, with one
exception. As in the paper, it compares the loss after the first step with the loss at the start.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.norms import divided_by_largest
from keras_trn.attacks.norms import keep_inside

# The share of a step that follows the gradient; the rest repeats the step before.
_OWN_SHARE = 0.75
# The step size stays the same while the loss rises in more than this share of the steps.
_ENOUGH_RISES = 0.75
# In units of epsilon: the first step crosses the whole ball.
_FIRST_STEP = 2.0
# As shares of the number of steps: the steps up to the first check, their decrease from check to
# check, and the smallest number between checks.
_FIRST_WINDOW, _SHRINKAGE, _SMALLEST_WINDOW = 0.22, 0.03, 0.06


class Measured(NamedTuple):
    """Holds the result of one forward and one backward pass.

    Attributes:
        loss: The loss of each point; -infinity if it is not finite.
        gradient: The gradient of the loss; 0 if it is not finite.
        fooled: Whether the point fools the classifier.
    """

    loss: Tensor
    gradient: Tensor
    fooled: Tensor


class Found(NamedTuple):
    """Holds the result of a climb.

    Attributes:
        points: The last point that fooled the classifier, or else the one with the highest loss.
        loss: The highest loss.
        fooled: Whether a point fooled the classifier.
    """

    points: Tensor
    loss: Tensor
    fooled: Tensor


class Track(NamedTuple):
    """Holds the points of a climb, with one entry for each image."""

    point: Tensor
    previous: Tensor
    gradient: Tensor
    loss: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    adversarial: Tensor
    fooled: Tensor


class _Steps(NamedTuple):
    """Holds the size of each image's next step, and the measurements that decide it."""

    size: Tensor
    # The number of rises since the last check, and the result of that check.
    rises: Tensor
    checked_loss: Tensor
    was_reduced: Tensor


def climb(
    measure: Callable[[Tensor], Measured],
    start: Tensor,
    images: Tensor,
    epsilon: Tensor,
    norm: str,
    steps: int,
) -> Found:
    """Climbs the loss from `start`, within epsilon of `images` in the L-infinity or L2 norm.

    It calls `measure` `steps + 1` times. Epsilon has the shape `(batch, 1, 1, 1)`.
    """
    windows = tf.constant(windows_ending_at_each_step(steps), tf.float32)

    def step(index: Tensor, track: Track, chosen: _Steps) -> tuple[Tensor, Track, _Steps]:
        own_share = tf.where(index > 0, _OWN_SHARE, 1.0)
        point = _next_point(track, chosen.size, own_share, images, epsilon, norm)
        measured = measure(point)
        rises = chosen.rises + tf.cast(measured.loss > track.loss, tf.float32)
        track = record(track, point, measured)
        return index + 1, *_check(track, chosen._replace(rises=rises), windows[index])

    track = first_track(start, measure(start))
    chosen = _Steps(
        size=_FIRST_STEP * epsilon,
        rises=tf.zeros_like(track.loss),
        checked_loss=track.loss,
        was_reduced=tf.ones_like(track.fooled),
    )
    _, track, _ = tf.while_loop(
        lambda *_: True, step, (tf.constant(0), track, chosen), maximum_iterations=steps
    )
    return found_on(track)


def windows_ending_at_each_step(steps: int) -> list[int]:
    """Returns for each step the number of steps that its check covers; 0 without a check."""
    shrinkage, smallest = (max(int(share * steps), 1) for share in (_SHRINKAGE, _SMALLEST_WINDOW))
    window = max(int(_FIRST_WINDOW * steps), 1)
    windows: list[int] = []
    while len(windows) < steps:
        windows += [0] * (window - 1) + [window]
        window = max(window - shrinkage, smallest)
    return windows[:steps]


def first_track(start: Tensor, measured: Measured) -> Track:
    """Begins a track at the start of the climb."""
    loss, gradient, fooled = measured
    return Track(
        point=start,
        previous=start,
        gradient=gradient,
        loss=loss,
        best=start,
        best_gradient=gradient,
        best_loss=loss,
        adversarial=start,
        fooled=fooled,
    )


def record(track: Track, point: Tensor, measured: Measured) -> Track:
    """Moves to a point, and keeps it if it is the best or fools the classifier."""
    loss, gradient, fooled = measured
    is_best = loss > track.best_loss
    return Track(
        point=point,
        previous=track.point,
        gradient=gradient,
        loss=loss,
        best=tf.where(as_pixels(is_best), point, track.best),
        best_gradient=tf.where(as_pixels(is_best), gradient, track.best_gradient),
        best_loss=tf.where(is_best, loss, track.best_loss),
        adversarial=tf.where(as_pixels(fooled), point, track.adversarial),
        fooled=track.fooled | fooled,
    )


def return_to_best(track: Track, which: Tensor) -> Track:
    """Sends some images back to their best point."""
    pixels = as_pixels(which)
    return track._replace(
        point=tf.where(pixels, track.best, track.point),
        gradient=tf.where(pixels, track.best_gradient, track.gradient),
    )


def found_on(track: Track) -> Found:
    """Returns what a climb found, see `Found`."""
    points = tf.where(as_pixels(track.fooled), track.adversarial, track.best)
    return Found(points, track.best_loss, track.fooled)


def as_pixels(per_image: Tensor) -> Tensor:
    """Reshapes a tensor of one entry per image to broadcast over images."""
    return per_image[:, None, None, None]


def _next_point(
    track: Track, size: Tensor, own_share: Tensor, images: Tensor, epsilon: Tensor, norm: str
) -> Tensor:
    """Steps along the gradient, with momentum from the previous step."""
    ahead = track.point + size * _steepest(track.gradient, norm)
    own_step = keep_inside(ahead, images, epsilon, norm) - track.point
    last_step = track.point - track.previous
    moved = track.point + own_share * own_step + (1.0 - own_share) * last_step
    return keep_inside(moved, images, epsilon, norm)


def _steepest(gradient: Tensor, norm: str) -> Tensor:
    """Returns the step of length 1 along which the loss rises most."""
    if norm == "linf":
        return tf.sign(gradient)
    # Squares of a small gradient would round to 0.
    scaled = divided_by_largest(gradient)
    length = tf.sqrt(tf.reduce_sum(tf.square(scaled), axis=[1, 2, 3], keepdims=True))
    return tf.math.divide_no_nan(scaled, length)


def _check(track: Track, chosen: _Steps, window: Tensor) -> tuple[Track, _Steps]:
    """Halves the step of images that stopped climbing, and returns them to their best point.

    A window of 0 means that this step has no check.
    """
    is_due = window > 0
    oscillates = chosen.rises <= _ENOUGH_RISES * window
    has_stalled = ~chosen.was_reduced & (track.best_loss <= chosen.checked_loss)
    reduced = is_due & (oscillates | has_stalled)
    return return_to_best(track, reduced), _Steps(
        size=tf.where(as_pixels(reduced), chosen.size / 2.0, chosen.size),
        rises=tf.where(is_due, 0.0, chosen.rises),
        checked_loss=tf.where(is_due, track.best_loss, chosen.checked_loss),
        was_reduced=tf.where(is_due, reduced, chosen.was_reduced),
    )
