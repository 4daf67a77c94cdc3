"""Checks that a defence can be attacked like any classifier."""

import itertools
from typing import Any

import numpy as np
import scipy.stats
import tensorflow as tf

from keras_trn.evaluation.checks.examination import Examination
from keras_trn.evaluation.checks.registry import Finding
from keras_trn.evaluation.checks.registry import NotApplicable
from keras_trn.evaluation.checks.registry import Outcome
from keras_trn.evaluation.checks.registry import check
from keras_trn.evaluation.randomness import ROUNDING_OF_LOGITS
from keras_trn.evaluation.randomness import largest_distance
from keras_trn.evaluation.randomness import normalized
from keras_trn.logits import logits_function
from keras_trn.logits import looks_like_probabilities

# The significance level of the test against a constant answer.
_BY_CHANCE = 0.01
# Few images, because single ones are slow and a dependence on the batch shows in few.
_BATCH_SIZES = (1, 7)
_REGROUPED_IMAGES = 14
# The share of pixels whose gradient may be mere rounding error, with a random sign.
_ROUNDING_OF_PIXELS = 0.02


@check(
    finds="probabilities, whose gradients vanish; NaN",
    source="`check_range_output` of AutoAttack, arXiv 2003.01690",
)
def outputs_are_logits(examination: Examination) -> Finding:
    """Checks that the defence returns finite logits.

    Probabilities near 0 or 1 have no gradient for an attack to follow, even if they are scaled,
    and NaN stops an attack. The check examines clean and adversarial images. The figure is the
    share of images without proper logits.
    """
    # Not compiled, because on CPUs a ReLU fused with a convolution turns NaN into zero.
    answer = logits_function(examination.defence)
    clean = answer(examination.images).numpy()
    attacked = answer(examination.adversarial("whitebox_full")).numpy()
    is_finite = np.isfinite(clean).all(axis=-1) & np.isfinite(attacked).all(axis=-1)
    share = 1 - is_finite.mean()
    if share > 0:
        observation = f"{share:.1%} of images have a logit that is NaN or infinite"
        return Finding(
            False, share, observation, "attacks stop there; fix the forward pass", "adds"
        )
    # Scaled probabilities are still probabilities, and still flat.
    if looks_like_probabilities(clean / (np.mean(clean.sum(axis=-1)) or 1.0)):
        observation = "All rows of scores are positive with the same sum, like probabilities"
        return Finding(False, 1.0, observation, "leave out the softmax, and return logits", "adds")
    return Finding(True, 0.0, "All outputs are finite logits, not probabilities")


@check(
    finds="a random defence, against which one gradient is not enough",
    source="`check_randomized` of AutoAttack, arXiv 2003.01690",
)
def deterministic(examination: Examination) -> Finding:
    """Checks that the defence always gives the same image the same answer.

    An attack that differentiates one run of a random defence optimizes against noise that changes
    in the next run. The figure is the largest distance between normalized logits of two runs.
    """
    distance = largest_distance(examination.runs)
    return Finding(
        not examination.is_random,
        distance,
        f"{len(examination.runs)} runs on the same images differ by at most {distance:.2g} in "
        "normalized logits",
        "attack the mean of several runs, such as `WhiteboxFull(samples=20)`",
        "subject",
    )


@check(finds="a classifier that has learned nothing, so that no accuracy means anything")
def classifier_beats_chance(examination: Examination) -> Finding:
    """Checks that the bare classifier has learned something.

    Its accuracy without attack must exceed the share of the most frequent class, which a constant
    answer reaches, by more than chance explains. The figure is its accuracy on clean images.
    """
    correct = examination.classified_correctly(examination.images, examination.classifier)
    constant = np.bincount(examination.labels).max() / len(correct)
    test = scipy.stats.binomtest(int(correct.sum()), len(correct), constant, "greater")
    return Finding(
        test.pvalue <= _BY_CHANCE,
        correct.mean(),
        f"The bare classifier has an accuracy of {correct.mean():.1%} on {len(correct)} clean "
        f"images, and the best constant answer {constant:.1%}",
        "that may be chance, and robust accuracies then mean nothing; train the classifier, make "
        "sure that images are in [0, 1] and labels match its training, or check more images",
        "adds",
    )


@check(
    finds="gradients that are zero, NaN or infinite",
    source="`check_zero_gradients` of AutoAttack, arXiv 2003.01690; arXiv 1802.00420",
)
def input_gradients(examination: Examination) -> Finding:
    """Checks that every image has a gradient that an attack can follow.

    If the gradient is zero, NaN or infinite, an attack cannot move, and the defence looks
    robust. The check examines both the cross-entropy and the margin to the next class, because
    only one of them may be flat. The figure is the share of images without a usable gradient.
    """
    truth = tf.one_hot(examination.labels, examination.logits(examination.images).shape[-1])

    def cross_entropy(logits: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(logits) - truth

    def margin(logits: tf.Tensor) -> tf.Tensor:
        next_best = tf.argmax(tf.where(truth > 0, -np.inf, logits), axis=-1)
        return tf.one_hot(next_best, logits.shape[-1]) - truth

    useless = []
    for direction in (cross_entropy, margin):
        size = np.abs(examination.gradients(examination.images, direction)).sum(axis=(1, 2, 3))
        useless.append(~np.isfinite(size) | (size == 0))
    share = np.any(useless, axis=0).mean()
    return Finding(
        share == 0,
        share,
        f"{share:.1%} of images have a gradient of cross-entropy or margin that is zero, NaN or "
        "infinite",
        "white-box attacks fail there; rely on `bpda` and `blackbox` instead",
    )


@check(
    finds="a defence that takes gradients itself, evaluated without an attack through them",
    source="`check_dynamic` of AutoAttack; arXiv 2202.13711",
)
def dynamic_defence(examination: Examination) -> Outcome:
    """Checks that attacks went through the gradients that a defence takes.

    A defence that takes gradients in its forward pass, as gradient maps do, needs an adaptive
    attack that differentiates these gradients too. AutoAttack's standard version is not enough.
    """
    graph = examination.graph(examination.defence).get_concrete_function().graph.as_graph_def()
    if not _takes_gradients(graph):
        return NotApplicable("The forward pass takes no gradients")
    if examination.unsupported_reason is not None:
        observation = "The forward pass takes gradients, and `whitebox_full` cannot be run"
        return Finding(False, None, observation, examination.unsupported_reason, "adds")
    return Finding(
        "whitebox_full" in examination.threat_models,
        None,
        "The forward pass takes gradients",
        "AutoAttack's standard version is not enough for it; report the threat model "
        "`whitebox_full`, which differentiates these gradients too",
        "adds",
    )


@check(finds="a gradient map that changes with the image, and whose derivative hides it")
def map_gradient_is_complete(examination: Examination) -> Outcome:
    """Checks that an attacker who knows everything sees how the gradient map changes.

    This attacker (`whitebox_full`) differentiates the map, which is a gradient itself. Some
    operations hide the gradient of their gradient, for example behind a constant custom
    gradient. The map then looks constant, and the attack is too weak. The check compares
    derivatives of the map with finite differences. The figure is the share of the slope that the
    derivatives miss.
    """
    slopes = examination.map_slopes
    if slopes is None and examination.unsupported_reason is None:
        return NotApplicable("There is no gradient map that an attacker could run")
    if slopes is None:
        observation = "`whitebox_full` cannot be run"
        return Finding(False, 1.0, observation, examination.unsupported_reason or "", "adds")
    if slopes.missed is None:
        return NotApplicable("Finite differences of the gradient map do not converge")
    return Finding(
        slopes.is_complete,
        slopes.missed,
        f"{str(slopes).capitalize()}, which misses {slopes.missed:.1%}",
        "an operation of the classifier hides the gradient of its gradient, and `whitebox_full` "
        "cannot be run in full",
    )


@check(finds="a defence that changes more than the images")
def restoration_switched_off(examination: Examination) -> Outcome:
    """Checks that a defence differs from its classifier only in the restoration.

    The defence's logits must equal the classifier's logits for the restored images, bit for bit.
    Otherwise a report does not compare the same classifier with and without restoration. The
    figure is the largest difference of logits.
    """
    if not examination.is_restored:
        return NotApplicable("There is no restoration")
    defence, images = examination.defence, examination.images
    defended = logits_function(defence)(images)
    undefended = logits_function(defence.classifier)(defence.restore_batch(images))
    difference = float(np.abs(np.nan_to_num(defended) - np.nan_to_num(undefended)).max())
    return Finding(
        difference == 0,
        difference,
        f"Logits differ by {difference:.2g} from the classifier's on the restored images",
        "something other than the restoration changes the answer, so you cannot compare the "
        "columns of the report",
    )


@check(finds="answers that depend on the other images of the batch")
def batch_invariance(examination: Examination) -> Finding:
    """Checks that the answer to an image does not depend on the rest of its batch.

    Batch statistics, or a loss averaged over the batch, make results depend on the batch size,
    and an attacker chooses the batch. The check compares logits, and images after one step of an
    attack, in batches of 1, of 7, and of all images. The figure is the share of images that
    differ.
    """
    images, labels = examination.images[:_REGROUPED_IMAGES], examination.labels[:_REGROUPED_IMAGES]
    logits = normalized(examination.logits(examination.images)[: len(images)])
    adversarial = examination.one_step(examination.attack)[: len(images)]
    differs = np.zeros(len(images), bool)
    for size in _BATCH_SIZES:
        groups = [slice(start, start + size) for start in range(0, len(images), size)]
        regrouped = np.concatenate([examination.logits(images[group]) for group in groups])
        distance = np.linalg.norm(normalized(regrouped) - logits, axis=-1)
        steps = [examination.one_step(examination.attack, images[g], labels[g]) for g in groups]
        other_pixels = np.mean(np.abs(np.concatenate(steps) - adversarial) > 1e-3, axis=(1, 2, 3))
        differs |= (distance > ROUNDING_OF_LOGITS) | (other_pixels > _ROUNDING_OF_PIXELS)
    share = differs.mean()
    return Finding(
        share == 0,
        share,
        f"{share:.1%} of {len(images)} images get other logits or another adversarial image in "
        f"batches of {' or '.join(map(str, _BATCH_SIZES))} than in one batch",
        "the answer depends on the batch; look for means or sums over its axis",
    )


def _takes_gradients(graph: Any) -> bool:
    """Tells whether a graph, or a function that it calls, contains gradient operations."""
    nodes = [graph.node, *(function.node_def for function in graph.library.function)]
    return any(node.name.startswith("gradient_tape/") for node in itertools.chain(*nodes))
