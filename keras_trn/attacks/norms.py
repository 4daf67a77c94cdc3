"""The two norms: their names, balls and projections."""

import numpy as np
import tensorflow as tf
from cleverhans.tf2.utils import clip_eta
from tensorflow import Tensor

from keras_trn.attacks.random_numbers import ALGORITHM
from keras_trn.attacks.random_numbers import random_direction

# How far off a length in float32 can be.
ROUNDING = 1e-6

_CLEVERHANS_NORMS = {"linf": np.inf, "l2": 2}


def as_cleverhans_norm(norm: str) -> float:
    """Translates `"linf"` or `"l2"` into the number that CleverHans takes."""
    return _CLEVERHANS_NORMS[norm]


def lengths_of(perturbation: Tensor, norm: str) -> Tensor:
    """Returns the length of each perturbation, in a tensor of shape `(batch,)`."""
    if norm == "linf":
        return tf.reduce_max(tf.abs(perturbation), axis=[1, 2, 3])
    return tf.sqrt(tf.reduce_sum(tf.square(perturbation), axis=[1, 2, 3]))


def project(adversarial: Tensor, images: Tensor, epsilon: Tensor, norm: str) -> Tensor:
    """Brings images back within epsilon of the clean ones and into [0, 1]."""
    perturbation = clip_eta(adversarial - images, as_cleverhans_norm(norm), epsilon)
    return tf.clip_by_value(images + perturbation, 0.0, 1.0)


def keep_inside(adversarial: Tensor, images: Tensor, epsilon: Tensor, norm: str) -> Tensor:
    """Brings back what has left the ball or [0, 1]; what is inside is unchanged, bit for bit."""
    if norm == "linf":
        lowest, highest = tf.maximum(images - epsilon, 0.0), tf.minimum(images + epsilon, 1.0)
        return tf.clip_by_value(adversarial, lowest, highest)
    perturbation = adversarial - images
    length = lengths_of(perturbation, norm)[:, None, None, None]
    is_outside = length > epsilon * (1 + ROUNDING)
    shortened = images + perturbation * epsilon / tf.where(is_outside, length, 1.0)
    return tf.clip_by_value(tf.where(is_outside, shortened, adversarial), 0.0, 1.0)


def random_in_ball(images: Tensor, epsilon: Tensor, norm: str, seed: Tensor) -> Tensor:
    """Draws, for each image, a point uniformly from the ball of radius epsilon.

    CleverHans' `random_lp_vector` takes one radius for a whole batch, and no stateless seed.
    """
    shape = tf.shape(images)
    if norm == "linf":
        return epsilon * tf.random.stateless_uniform(shape, seed, -1.0, 1.0, alg=ALGORITHM)
    direction = random_direction(images, seed)
    uniform = tf.random.stateless_uniform([shape[0], 1, 1, 1], seed + 1, alg=ALGORITHM)
    dimensions = tf.cast(tf.reduce_prod(shape[1:]), tf.float32)
    return epsilon * direction * uniform ** (1.0 / dimensions)


def random_on_sphere(images: Tensor, epsilon: Tensor, norm: str, seed: Tensor) -> Tensor:
    """Draws, for each image, a point at a distance of epsilon, which [0, 1] can shorten."""
    if norm == "l2":
        direction = random_direction(images, seed)
    else:
        uniform = tf.random.stateless_uniform(tf.shape(images), seed, -1.0, 1.0, alg=ALGORITHM)
        direction = divided_by_largest(uniform)
    return tf.clip_by_value(images + epsilon * direction, 0.0, 1.0)


def divided_by_largest(tensor: Tensor) -> Tensor:
    """Scales each image so that its largest absolute entry is 1; zeros stay zeros."""
    largest = tf.reduce_max(tf.abs(tensor), axis=[1, 2, 3], keepdims=True)
    return tf.math.divide_no_nan(tensor, largest)
