"""The shortest way from an image to a hyperplane without leaving [0, 1]."""

import tensorflow as tf
from tensorflow import Tensor

# Pixels with a slope below this fraction of the largest one do not move: the slope is mostly
# rounding error.
_SMALLEST_SLOPE = 1e-8


def shortest_change(points: Tensor, normals: Tensor, rises: Tensor, norm: str) -> Tensor:
    """Finds the smallest change that raises a linear function, without leaving [0, 1].

    The solution is exact: it sorts the pixels by the change that takes them to an end of
    [0, 1], as in arXiv 1907.02044.

    Args:
        points: Tensor of shape `(batch, pixels)` in [0, 1].
        normals: Slopes of the linear functions, of the same shape.
        rises: Required rise of each function, of shape `(batch,)`; negative for a fall.
        norm: The norm of the change: `"linf"` or `"l2"`.

    Returns:
        A change of the shape of `points`. If [0, 1] does not permit the whole rise, it is the
        change with the largest possible rise. It is zero for slopes that are not finite.
    """
    steepest = tf.reduce_max(tf.abs(normals), axis=-1)
    slopes = tf.math.divide_no_nan(normals, steepest[:, None])
    rises = tf.math.divide_no_nan(rises, steepest)
    is_usable = tf.reduce_all(tf.math.is_finite(slopes), axis=-1) & tf.math.is_finite(rises)
    slopes = tf.where(is_usable[:, None] & (tf.abs(slopes) >= _SMALLEST_SLOPE), slopes, 0.0)
    rises = tf.where(is_usable, rises, 0.0)

    directions = tf.sign(slopes) * tf.sign(rises)[:, None]
    room = tf.where(directions > 0, 1.0 - points, points)
    # How far a pixel moves per unit of the level, which is the same for all pixels.
    speeds = tf.ones_like(slopes) if norm == "linf" else tf.abs(slopes)
    limits = tf.math.divide_no_nan(room, speeds)
    level = _level(speeds * tf.abs(slopes), limits, tf.abs(rises))
    return directions * speeds * tf.minimum(level[:, None], limits)


def _level(gains: Tensor, limits: Tensor, demand: Tensor) -> Tensor:
    """Solves `sum(gains * min(level, limits)) = demand` for the level of each row."""
    number = tf.shape(limits)[-1]
    negated, order = tf.math.top_k(-limits, number)
    limits, gains = -negated, tf.gather(gains, order, batch_dims=1)
    of_full = tf.cumsum(gains * limits, axis=-1, exclusive=True)
    gain_of_others = tf.cumsum(gains, axis=-1, reverse=True)
    # The rise reached when this pixel and all before it are at their limits.
    reached = of_full + gain_of_others * limits
    is_too_low = tf.cast(reached < demand[:, None], tf.int32)
    full = tf.minimum(tf.reduce_sum(is_too_low, axis=-1), number - 1)
    missing = demand - tf.gather(of_full, full, batch_dims=1)
    slope = tf.gather(gain_of_others, full, batch_dims=1)
    return tf.where(
        slope > 0, tf.maximum(tf.math.divide_no_nan(missing, slope), 0.0), limits[:, -1]
    )
