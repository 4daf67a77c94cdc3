"""The changes that Square tries: the place of a square, and its effect on the image."""

import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.random_numbers import ALGORITHM

# Keeps a division by a length of zero finite, as in the paper's code.
_TINY = 1e-12


class LinfProposals:
    """Proposes squares of one color for the L-infinity norm."""

    @staticmethod
    def side(share: Tensor, images: Tensor) -> Tensor:
        """Returns the side of a square that covers a share of the image, in pixels."""
        return tf.clip_by_value(_ideal_side(share, images), 1, _shorter_side(images))

    @staticmethod
    def draw(images: Tensor, seed: Tensor) -> Tensor:
        """Draws two numbers for a place, and one for each channel."""
        return _uniform([tf.shape(images)[0], 2 + images.shape[-1]], seed)

    @staticmethod
    def start(images: Tensor, epsilon: Tensor, seed: Tensor) -> Tensor:
        """Colors stripes one pixel wide, from the top to the bottom."""
        signs = _signs(_uniform(tf.shape(images[:, :1]), seed))
        return tf.clip_by_value(images + epsilon * signs, 0.0, 1.0)

    @staticmethod
    def change(
        images: Tensor, best: Tensor, epsilon: Tensor, side: Tensor, numbers: Tensor
    ) -> Tensor:
        """Colors a square: each channel gets the largest change, up or down."""
        signs = _signs(numbers[:, None, None, 2:])
        colored = tf.clip_by_value(images + epsilon * signs, 0.0, 1.0)
        rows, columns = _rows_and_columns(numbers[:, :2], side, images)
        return tf.where(_is_inside(rows, columns, side), colored, best)


class L2Proposals:
    """Proposes two squares between which to move the perturbation, for the L2 norm."""

    @staticmethod
    def side(share: Tensor, images: Tensor) -> Tensor:
        """Returns the side, an odd number, of a square that covers a share of the image."""
        side = tf.maximum(_ideal_side(share, images), 3)
        return tf.minimum(side + 1 - side % 2, _shorter_side(images))

    @staticmethod
    def draw(images: Tensor, seed: Tensor) -> Tensor:
        """Draws two places, an orientation, and a number for each channel."""
        return _uniform([tf.shape(images)[0], 5 + images.shape[-1]], seed)

    @staticmethod
    def start(images: Tensor, epsilon: Tensor, seed: Tensor) -> Tensor:
        """Fills the image with tiles, about five along its shorter side."""
        batch, height, width, channels = tf.unstack(tf.shape(images))
        side = tf.maximum(_shorter_side(images) // 5, 1)
        rows, columns = height // side, width // side
        numbers = _uniform([batch, rows, columns, channels + 1], seed)
        numbers = tf.repeat(tf.repeat(numbers, side, axis=1), side, axis=2)
        tiles = tf.tile(two_bumps(side), [rows, columns])[None, :, :, None]
        turned = tf.tile(tf.transpose(two_bumps(side)), [rows, columns])[None, :, :, None]
        tiles = tf.where(numbers[..., :1] < 0.5, tiles, turned) * _signs(numbers[..., 1:])
        top, left = (height - rows * side) // 2, (width - columns * side) // 2
        tiles = tf.image.pad_to_bounding_box(tiles, top, left, height, width)
        return _with_length(images, tiles, epsilon)

    @staticmethod
    def change(
        images: Tensor, best: Tensor, epsilon: Tensor, side: Tensor, numbers: Tensor
    ) -> Tensor:
        """Clears the perturbation in one square, and adds a pattern of its length in another."""
        perturbation = best - images
        rows, columns = _rows_and_columns(numbers[:, :2], side, images)
        gains = _is_inside(rows, columns, side)
        loses = _is_inside(*_rows_and_columns(numbers[:, 2:4], side, images), side)
        pattern = tf.where(gains, _pattern(rows, columns, numbers[:, 4], side), 0.0)
        old = tf.where(gains, perturbation, 0.0)
        new = pattern * _signs(numbers[:, None, None, 5:]) + old / (_lengths(old) + _TINY)
        # The squares keep their length, and gain the length that the perturbation lacks.
        held = tf.square(_lengths(tf.where(gains | loses, perturbation, 0.0)))
        lacking = tf.square(epsilon) - tf.reduce_sum(tf.square(perturbation), [1, 2, 3], True)
        length = tf.sqrt(held + tf.maximum(lacking, 0.0) / images.shape[-1])
        new = new * length / (_lengths(new) + _TINY)
        kept = tf.where(loses, 0.0, perturbation)
        return _with_length(images, tf.where(gains, new, kept), epsilon)


PROPOSALS: dict[str, type[LinfProposals] | type[L2Proposals]] = {
    "linf": LinfProposals,
    "l2": L2Proposals,
}


def _uniform(shape: object, seed: Tensor) -> Tensor:
    return tf.random.stateless_uniform(shape, seed, alg=ALGORITHM)


def _signs(uniform: Tensor) -> Tensor:
    return tf.where(uniform < 0.5, -1.0, 1.0)


def _shorter_side(images: Tensor) -> Tensor:
    return tf.reduce_min(tf.shape(images)[1:3])


def _ideal_side(share: Tensor, images: Tensor) -> Tensor:
    """Returns the rounded side of a square, which may not fit into the image."""
    pixels = tf.cast(tf.reduce_prod(tf.shape(images)[1:3]), tf.float32)
    return tf.cast(tf.round(tf.sqrt(share * pixels)), tf.int32)


def _rows_and_columns(numbers: Tensor, side: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Counts the rows and columns of each image from the corner of a square at a random place.

    Unlike in the paper's code, squares can touch the lower and the right edge, because they
    would hardly move in small images otherwise.
    """
    size = tf.shape(images)[1:3]
    places = tf.cast(size - side + 1, tf.float32)
    corners = tf.cast(tf.floor(numbers * places), tf.int32)
    rows, columns = tf.range(size[0]) - corners[:, :1], tf.range(size[1]) - corners[:, 1:]
    return rows[:, :, None, None], columns[:, None, :, None]


def _is_inside(rows: Tensor, columns: Tensor, side: Tensor) -> Tensor:
    """Marks the pixels in the square, in a tensor of shape `(batch, height, width, 1)`."""
    return (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)


def _pattern(rows: Tensor, columns: Tensor, number: Tensor, side: Tensor) -> Tensor:
    """Places two bumps in the square of each image, above each other or side by side."""
    rows, columns = tf.clip_by_value(rows, 0, side - 1), tf.clip_by_value(columns, 0, side - 1)
    is_turned = (number < 0.5)[:, None, None, None]
    places = tf.where(is_turned, columns * side + rows, rows * side + columns)
    return tf.gather(tf.reshape(two_bumps(side), [-1]), places)


def two_bumps(side: Tensor) -> Tensor:
    """Makes the paper's pattern: a bump in the upper half of a square, a pit in the lower."""
    half = side // 2
    pattern = tf.concat([_bump(half, side), -_bump(side - half, side)], axis=0)
    return pattern / tf.norm(pattern)


def _bump(height: Tensor, width: Tensor) -> Tensor:
    """Makes a pyramid of length 1 that gets steeper towards its center."""
    largest = tf.maximum(height, width) // 2 + 1
    slopes = 1.0 / tf.square(tf.range(1.0, tf.cast(largest, tf.float32) + 1.0))
    heights = tf.cumsum(slopes, reverse=True)
    rows = tf.abs(tf.range(height) - height // 2)
    columns = tf.abs(tf.range(width) - width // 2)
    distance = tf.maximum(rows[:, None], columns[None, :])
    bump = tf.gather(heights, distance)
    return bump / tf.norm(bump)


def _lengths(perturbation: Tensor) -> Tensor:
    """Returns the Euclidean length of each channel."""
    return tf.sqrt(tf.reduce_sum(tf.square(perturbation), axis=[1, 2], keepdims=True))


def _with_length(images: Tensor, perturbation: Tensor, length: Tensor) -> Tensor:
    """Adds a perturbation scaled to a length, and clips the result to [0, 1]."""
    own = tf.sqrt(tf.reduce_sum(tf.square(perturbation), axis=[1, 2, 3], keepdims=True))
    return tf.clip_by_value(images + perturbation * length / (own + _TINY), 0.0, 1.0)
