"""The norms: their names, balls and projections."""

import numpy as np
import tensorflow as tf
from cleverhans.tf2.utils import clip_eta
from tensorflow import Tensor

from keras_trn.attacks.random_numbers import ALGORITHM
from keras_trn.attacks.random_numbers import random_direction
from keras_trn.attacks.random_numbers import random_laplace
from keras_trn.types import ArrayLike

# The rounding error of a length in float32.
ROUNDING = 1e-6

# In units of the range of images, or relative to a larger epsilon; 8-bit images differ by 4e-3.
_ROUNDING_OF_DISTANCES = 1e-5

_ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}
# Bisections in the search for the projection onto an L1 ball.
_BISECTIONS = 30


def order_of(norm: str) -> float:
    """Translates a name into the order of the norm for NumPy and CleverHans."""
    return _ORDERS[norm]


def lengths_of(perturbation: Tensor, norm: str) -> Tensor:
    """Returns the length of each perturbation, in a tensor of shape `(batch,)`."""
    if norm == "linf":
        return tf.reduce_max(tf.abs(perturbation), axis=[1, 2, 3])
    if norm == "l1":
        return tf.reduce_sum(tf.abs(perturbation), axis=[1, 2, 3])
    return tf.sqrt(tf.reduce_sum(tf.square(perturbation), axis=[1, 2, 3]))


def distances_between(adversarial: ArrayLike, images: ArrayLike, norm: str) -> np.ndarray:
    """Returns the distance of each image from the clean one, without rounding to float32."""
    moved = np.asarray(adversarial, "float64") - np.asarray(images, "float64")
    return np.linalg.norm(moved.reshape(len(moved), -1), order_of(norm), axis=-1)


def rounding_of_distances(epsilon: float) -> float:
    """Returns the rounding error of the distances between float32 images."""
    return _ROUNDING_OF_DISTANCES * max(1.0, epsilon)


def project(adversarial: Tensor, images: Tensor, epsilon: Tensor, norm: str) -> Tensor:
    """Brings images back within epsilon of the clean ones and into [0, 1]."""
    if norm == "l1":
        return _project_l1(adversarial, images, epsilon)
    perturbation = clip_eta(adversarial - images, order_of(norm), epsilon)
    return tf.clip_by_value(images + perturbation, 0.0, 1.0)


def keep_inside(adversarial: Tensor, images: Tensor, epsilon: Tensor, norm: str) -> Tensor:
    """Projects images into the ball and [0, 1]; images inside stay identical, bit for bit."""
    if norm == "linf":
        lowest, highest = tf.maximum(images - epsilon, 0.0), tf.minimum(images + epsilon, 1.0)
        return tf.clip_by_value(adversarial, lowest, highest)
    if norm == "l1":
        return _project_l1(adversarial, images, epsilon)
    perturbation = adversarial - images
    length = lengths_of(perturbation, norm)[:, None, None, None]
    is_outside = length > epsilon * (1 + ROUNDING)
    shortened = images + perturbation * epsilon / tf.where(is_outside, length, 1.0)
    return tf.clip_by_value(tf.where(is_outside, shortened, adversarial), 0.0, 1.0)


def _project_l1(adversarial: Tensor, images: Tensor, epsilon: Tensor) -> Tensor:
    """Projects onto the intersection of the L1 ball and [0, 1].

    The projection shortens all changes by the same amount, down to 0, and clips them to
    [0, 1]. Source: Croce and Hein, "Mind the Box", arXiv 2103.01208.
    """
    perturbation = adversarial - images
    sizes, room = tf.abs(perturbation), tf.where(perturbation > 0, 1.0 - images, images)
    # The rounding errors of many small changes must not add up to leave the ball.
    inner = epsilon * (1 - ROUNDING)

    def halve(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        middle = (low + high) / 2.0
        is_outside = _total(tf.clip_by_value(sizes - middle, 0.0, room)) > inner
        return tf.where(is_outside, middle, low), tf.where(is_outside, high, middle)

    largest = tf.reduce_max(sizes, axis=[1, 2, 3], keepdims=True)
    state = (tf.zeros_like(largest), largest)
    _, shortening = tf.while_loop(lambda *_: True, halve, state, maximum_iterations=_BISECTIONS)
    kept = tf.sign(perturbation) * tf.clip_by_value(sizes - shortening, 0.0, room)
    is_outside = _total(tf.minimum(sizes, room)) > epsilon
    return tf.clip_by_value(tf.where(is_outside, images + kept, adversarial), 0.0, 1.0)


def _total(changes: Tensor) -> Tensor:
    return tf.reduce_sum(changes, axis=[1, 2, 3], keepdims=True)


def random_in_ball(images: Tensor, epsilon: Tensor, norm: str, seed: Tensor) -> Tensor:
    """Draws a point uniformly from the ball of radius epsilon for each image.

    Unlike CleverHans' `random_lp_vector`, it takes a radius per image and a stateless seed.
    """
    shape = tf.shape(images)
    if norm == "linf":
        return epsilon * tf.random.stateless_uniform(shape, seed, -1.0, 1.0, alg=ALGORITHM)
    direction = _random_unit(images, norm, seed)
    uniform = tf.random.stateless_uniform([shape[0], 1, 1, 1], seed + 1, alg=ALGORITHM)
    dimensions = tf.cast(tf.reduce_prod(shape[1:]), tf.float32)
    return epsilon * direction * uniform ** (1.0 / dimensions)


def random_on_sphere(images: Tensor, epsilon: Tensor, norm: str, seed: Tensor) -> Tensor:
    """Draws a point at a distance of epsilon for each image, clipped to [0, 1]."""
    return tf.clip_by_value(images + epsilon * _random_unit(images, norm, seed), 0.0, 1.0)


def _random_unit(images: Tensor, norm: str, seed: Tensor) -> Tensor:
    """Draws a perturbation of length 1 for each image."""
    if norm == "linf":
        uniform = tf.random.stateless_uniform(tf.shape(images), seed, -1.0, 1.0, alg=ALGORITHM)
        return divided_by_largest(uniform)
    if norm == "l2":
        return random_direction(images, seed)
    laplace = random_laplace(images, seed)
    return laplace / tf.reduce_sum(tf.abs(laplace), axis=[1, 2, 3], keepdims=True)


def divided_by_largest(tensor: Tensor) -> Tensor:
    """Scales each image to a largest absolute entry of 1; zeros stay zeros."""
    largest = tf.reduce_max(tf.abs(tensor), axis=[1, 2, 3], keepdims=True)
    return tf.math.divide_no_nan(tensor, largest)
