"""A climb that halves its step where the loss no longer grows: one run of Auto-PGD.

Source: Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
Parameter-Free Attacks", arXiv 2003.01690. The schedule is that of the authors' code. One comparison
differs: they compare the loss after the first step with 0, and here it is compared with the loss
at the start, as in the paper.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.norms import divided_by_largest
from keras_trn.attacks.norms import keep_inside

# The share of a step that follows the gradient; the rest repeats the step before.
_OWN_SHARE = 0.75
# A step stays as long as the loss rises more often than this.
_ENOUGH_RISES = 0.75
# The first step crosses the whole ball.
_FIRST_STEP = 2.0
# Steps from the start to the first check, by which they fall from check to check, and their
# smallest number: as shares of all steps.
_FIRST_WINDOW, _SHRINKAGE, _SMALLEST_WINDOW = 0.22, 0.03, 0.06


class Measured(NamedTuple):
    """Holds the result of one forward and one backward pass.

    Attributes:
        loss: The loss of each point; -infinity where it is not finite.
        gradient: The gradient of the loss; 0 where it is not finite.
        fooled: Whether the classifier is fooled.
    """

    loss: Tensor
    gradient: Tensor
    fooled: Tensor


class Found(NamedTuple):
    """Holds the result of a climb.

    Attributes:
        points: The last point that fooled the classifier, or else that of the highest loss.
        loss: The highest loss.
        fooled: Whether a point fooled the classifier.
    """

    points: Tensor
    loss: Tensor
    fooled: Tensor


class _State(NamedTuple):
    """Holds the state of a climb, with one entry for each image."""

    point: Tensor
    previous: Tensor
    gradient: Tensor
    loss: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    adversarial: Tensor
    fooled: Tensor
    step_size: Tensor
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
    """Climbs the loss from `start`, within epsilon of `images`.

    Args:
        measure: Function that measures points; it is called `steps + 1` times.
        start: The first points.
        images: Clean images.
        epsilon: Tensor of shape `(batch, 1, 1, 1)`.
        norm: `"linf"` or `"l2"`.
        steps: Number of steps.
    """
    windows = tf.constant(windows_ending_at_each_step(steps), tf.float32)

    def step(index: Tensor, state: _State) -> tuple[Tensor, _State]:
        own_share = tf.where(index > 0, _OWN_SHARE, 1.0)
        point = _next_point(state, own_share, images, epsilon, norm)
        state = _record(state, point, measure(point))
        return index + 1, _check(state, windows[index])

    state = _first_state(start, measure(start), epsilon)
    _, state = tf.while_loop(
        lambda *_: True, step, (tf.constant(0), state), maximum_iterations=steps
    )
    points = tf.where(_as_pixels(state.fooled), state.adversarial, state.best)
    return Found(points, state.best_loss, state.fooled)


def windows_ending_at_each_step(steps: int) -> list[int]:
    """Returns, for each step, the number of steps that its check covers; 0 without a check."""
    shrinkage, smallest = (max(int(share * steps), 1) for share in (_SHRINKAGE, _SMALLEST_WINDOW))
    window = max(int(_FIRST_WINDOW * steps), 1)
    windows: list[int] = []
    while len(windows) < steps:
        windows += [0] * (window - 1) + [window]
        window = max(window - shrinkage, smallest)
    return windows[:steps]


def _first_state(start: Tensor, measured: Measured, epsilon: Tensor) -> _State:
    loss, gradient, fooled = measured
    return _State(
        point=start,
        previous=start,
        gradient=gradient,
        loss=loss,
        best=start,
        best_gradient=gradient,
        best_loss=loss,
        adversarial=start,
        fooled=fooled,
        step_size=_FIRST_STEP * epsilon,
        rises=tf.zeros_like(loss),
        checked_loss=loss,
        was_reduced=tf.ones_like(fooled),
    )


def _next_point(
    state: _State, own_share: Tensor, images: Tensor, epsilon: Tensor, norm: str
) -> Tensor:
    """Steps along the gradient, and in part as in the step before."""
    ahead = state.point + state.step_size * _steepest(state.gradient, norm)
    own_step = keep_inside(ahead, images, epsilon, norm) - state.point
    last_step = state.point - state.previous
    moved = state.point + own_share * own_step + (1.0 - own_share) * last_step
    return keep_inside(moved, images, epsilon, norm)


def _steepest(gradient: Tensor, norm: str) -> Tensor:
    """Returns the step of length 1 along which the loss rises most."""
    if norm == "linf":
        return tf.sign(gradient)
    # Squares of a small gradient would round to 0.
    scaled = divided_by_largest(gradient)
    length = tf.sqrt(tf.reduce_sum(tf.square(scaled), axis=[1, 2, 3], keepdims=True))
    return tf.math.divide_no_nan(scaled, length)


def _record(state: _State, point: Tensor, measured: Measured) -> _State:
    """Moves to a point, and keeps it if it is the best, or fools the classifier."""
    loss, gradient, fooled = measured
    is_best = loss > state.best_loss
    return state._replace(
        point=point,
        previous=state.point,
        gradient=gradient,
        loss=loss,
        best=tf.where(_as_pixels(is_best), point, state.best),
        best_gradient=tf.where(_as_pixels(is_best), gradient, state.best_gradient),
        best_loss=tf.where(is_best, loss, state.best_loss),
        adversarial=tf.where(_as_pixels(fooled), point, state.adversarial),
        fooled=state.fooled | fooled,
        rises=state.rises + tf.cast(loss > state.loss, tf.float32),
    )


def _check(state: _State, window: Tensor) -> _State:
    """Halves the step of those that no longer climb, and sends them back to their best point.

    Nothing happens between two checks, where the window is 0.
    """
    is_due = window > 0
    oscillates = state.rises <= _ENOUGH_RISES * window
    has_stalled = ~state.was_reduced & (state.best_loss <= state.checked_loss)
    reduced = is_due & (oscillates | has_stalled)
    pixels = _as_pixels(reduced)
    return state._replace(
        point=tf.where(pixels, state.best, state.point),
        gradient=tf.where(pixels, state.best_gradient, state.gradient),
        step_size=tf.where(pixels, state.step_size / 2.0, state.step_size),
        rises=tf.where(is_due, 0.0, state.rises),
        checked_loss=tf.where(is_due, state.best_loss, state.checked_loss),
        was_reduced=tf.where(is_due, reduced, state.was_reduced),
    )


def _as_pixels(per_image: Tensor) -> Tensor:
    return per_image[:, None, None, None]
