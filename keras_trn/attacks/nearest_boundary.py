"""The nearest boundary between the label and another class, in a linear approximation."""

import math

import tensorflow as tf
from tensorflow import Tensor

from keras_trn.attacks.margin import logit_of
from keras_trn.attacks.norms import lengths_of
from keras_trn.types import Logits

# Attacks that compare the boundaries of several classes consider the label and the nine most
# likely other classes, as the code of DeepFool does.
LARGEST_NUMBER_OF_RIVALS = 9


def nearest_boundary(
    logits: Logits, images: Tensor, labels: Tensor, rivals: Tensor, norm: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Finds the nearest boundary of several classes, treating logits as linear.

    It costs one forward pass, and one backward pass for each class.

    Args:
        logits: Function from images to logits.
        images: Float32 tensor of images.
        labels: Int64 tensor of shape `(batch,)`.
        rivals: Int64 tensor of shape `(batch, classes)`: classes other than the label.
        norm: The norm of distances: `"linf"` or `"l2"`.

    Returns:
        The logit of the nearest class minus the label's logit, its gradient, and the distance.
        They are zero, zero and infinity if all gradients vanish.
    """
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(images)
        scores = logits(images)
    num_classes = tf.shape(scores)[-1]
    of_label = logit_of(scores, labels)

    def compare(
        rank: Tensor, lead: Tensor, gradient: Tensor, nearest: Tensor
    ) -> tuple[Tensor, ...]:
        rival = rivals[:, rank]
        from_label = tf.one_hot(rival, num_classes) - tf.one_hot(labels, num_classes)
        lead_of_rival = logit_of(scores, rival) - of_label
        gradient_of_rival = tape.gradient(scores, images, from_label)
        slope = _slopes_of(gradient_of_rival, norm)
        is_usable = tf.math.is_finite(slope) & (slope > 0)
        distance = tf.where(is_usable, tf.abs(lead_of_rival) / slope, math.inf)
        is_nearer = distance < nearest
        return (
            rank + 1,
            tf.where(is_nearer, lead_of_rival, lead),
            tf.where(is_nearer[:, None, None, None], gradient_of_rival, gradient),
            tf.where(is_nearer, distance, nearest),
        )

    zeros = tf.zeros_like(of_label)
    _, lead, gradient, distance = tf.while_loop(
        lambda rank, *_: rank < tf.shape(rivals)[1],
        compare,
        (tf.constant(0), zeros, tf.zeros_like(images), tf.fill(tf.shape(zeros), math.inf)),
        # Saves memory: each iteration holds the gradients of a whole batch.
        parallel_iterations=1,
    )
    return lead, gradient, distance


def _slopes_of(gradient: Tensor, norm: str) -> Tensor:
    """Returns the largest rise per unit of length: the gradient's length in the dual norm."""
    if norm == "linf":
        return tf.reduce_sum(tf.abs(gradient), axis=[1, 2, 3])
    return lengths_of(gradient, "l2")
