"""Checks of the attack: whether it climbs, converges, and stays where it may go."""

import contextlib

import numpy as np
import tensorflow as tf

from keras_trn import baselines
from keras_trn import threat_models
from keras_trn.evaluation.checks.registry import Finding
from keras_trn.evaluation.checks.registry import check

# What a random start may change between two runs of the same strength.
_NOISE = 0.005
# An attack that has converged finds no more than this with twice as many steps.
_CONVERGED = 0.005
# The share of images on which a local search may end lower than it began, or lose on its
# last steps what it had found.
_LOST_BY_CHANCE = 0.01
# An undefended classifier has next to nothing left (Carlini et al.: 1 % at 8/255).
_LEFT_OF_THE_BARE_CLASSIFIER = 0.01
# Rounding in front of a classifier, which the attacker knows of, defends nothing.
_LEFT_BY_A_WEAK_DEFENCE = 0.03
# Enough levels for the classifier to stay as it was, and few enough to hide every gradient.
_BITS_OF_A_WEAK_DEFENCE = 4
# What float32 images can be off by; an 8-bit image is 4e-3 from the next.
_ROUNDING_OF_DISTANCES = 1e-5


@check
def iterative_beats_single_step(examination):
    """Checks that the attack leaves no more right than one step of the same length.

    Many small steps can go wherever one large step goes. Where they find less, the
    gradient misleads them: a symptom of gradients that are masked. Both are run as
    `whitebox_full`, as like is compared with like.

    Source: Carlini et al., arXiv 1902.06705; Athalye et al., arXiv 1802.00420.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the accuracy under the attack less that
        under one step.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=4)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.iterative_beats_single_step(examination).status == "PASS"
        ```
    """
    iterative = examination.correct("whitebox_full").mean()
    single = examination.correct("whitebox_full", examination.single_step).mean()
    return Finding(
        iterative - single <= examination.at_least_one_image(_NOISE),
        iterative - single,
        f"{examination.attack.name} leaves {iterative:.1%} right, and one step {single:.1%}",
        "gradients are masked, or the attack's steps are too short",
    )


@check
def more_steps_never_weaker(examination):
    """Checks that twice as many steps find neither less nor much more.

    Less would mean that steps are taken in vain; much more, that the attack had
    not converged and its number in the report is too high.

    Source: Carlini et al., arXiv 1902.06705.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the accuracy under twice as many steps less
        that under the attack.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=4)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.more_steps_never_weaker(examination).status == "PASS"
        ```
    """
    once = examination.correct("whitebox_full").mean()
    twice = examination.correct("whitebox_full", examination.doubled).mean()
    is_weaker = twice - once > examination.at_least_one_image(_NOISE)
    has_converged = once - twice <= examination.at_least_one_image(_CONVERGED)
    return Finding(
        has_converged and not is_weaker,
        twice - once,
        f"{examination.attack.name} leaves {once:.1%} right, and twice as many steps {twice:.1%}",
        "more steps are weaker, so gradients mislead them"
        if is_weaker
        else "the attack has not converged; give it more steps",
    )


@check
def monotone_in_epsilon(examination):
    """Checks that a larger epsilon never leaves more images right.

    Whatever lies in a ball lies in a larger one. Accuracy is measured from a
    quarter of the attack's epsilon to twice of it, as `whitebox_full`.

    Source: Carlini et al., arXiv 1902.06705; Athalye et al., arXiv 1802.00420.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the largest rise of accuracy from one
        epsilon to the next, below 0 where it falls everywhere.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=4)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.monotone_in_epsilon(examination).status == "PASS"
        ```
    """
    accuracies = [
        examination.correct("whitebox_full", epsilon=e).mean() for e in examination.epsilons
    ]
    rise = max(np.diff([examination.correct_without_attack.mean(), *accuracies]))
    curve = ", ".join(
        f"{accuracy:.1%} at {epsilon:.3g}"
        for epsilon, accuracy in zip(examination.epsilons, accuracies, strict=True)
    )
    return Finding(
        rise <= examination.at_least_one_image(_NOISE),
        rise,
        f"Accuracy is {curve}",
        "a larger epsilon leaves more right, so the attack does not make use of it",
    )


@check
def unbounded_attack_succeeds(examination):
    """Checks that an attacker who may do anything succeeds on every image.

    With an L-infinity epsilon of 0.5 every image can be made grey, and with 1 it
    can be made any other; with L2, with half the diagonal of the cube of images,
    and with all of it. So at most chance may be left at the first, the share of
    the most frequent class, and nothing at the second. An attack that cannot even
    do that says nothing at a small epsilon. What counts is the best of the
    attackers with gradients, `whitebox_full` and `bpda`: it is the evaluation as a
    whole that has to find what must be there.

    Source: Carlini et al., arXiv 1902.06705; Athalye et al., arXiv 1802.00420.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the accuracy that the unbounded attack
        leaves.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=4)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.unbounded_attack_succeeds(examination).figure == 0
        ```
    """
    unbounded = examination.unbounded_epsilon
    chance = np.bincount(examination.labels).max() / len(examination.labels)
    grey = examination.correct_under_gradients(epsilon=unbounded / 2).mean()
    anything = examination.correct_under_gradients(epsilon=unbounded).mean()
    return Finding(
        grey <= chance and anything == 0,
        anything,
        f"{grey:.1%} is right at an epsilon of {unbounded / 2:.3g}, where a constant answer gets "
        f"{chance:.1%}, and {anything:.1%} at {unbounded:.3g}, where nothing has to be",
        "gradients are masked, or the attack is broken",
    )


@check
def loss_rises_along_the_attack(examination):
    """Checks that the attack climbs the loss that it is to climb.

    The defence's mean cross-entropy must not fall from one quarter of the way to
    the next, and hardly an image may end lower than it began. `whitebox_full`.

    Source: Carlini et al., arXiv 1902.06705; Pintor et al., "Indicators of Attack
    Failure", arXiv 2106.09947.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the share of images whose loss has risen.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=4)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.loss_rises_along_the_attack(examination).figure == 1
        ```
    """
    way = [examination.adversarial("whitebox_full", stage) for stage in examination.stages]
    losses = np.stack([examination.losses(images) for images in [examination.images, *way]])
    has_risen = losses[-1] >= losses[0]
    means = losses.mean(axis=1)
    # The last quarters walk on a plateau, where a mean may tremble.
    never_falls = np.all(np.diff(means) >= -_LOST_BY_CHANCE * (means.max() - means.min()))
    lost = 1 - has_risen.mean()
    return Finding(
        never_falls and lost <= examination.at_least_one_image(_LOST_BY_CHANCE),
        has_risen.mean(),
        f"The loss has risen on {has_risen.mean():.1%} of images, its mean going "
        f"{', '.join(f'{mean:.3g}' for mean in means)}",
        "the attack does not climb; look at its sign, its step size and its gradient",
    )


@check
def best_iterate_is_kept(examination):
    """Checks that the attack does not lose on its way what it had found.

    An image that is wrong after some steps and right again at the end is a silent
    success: an adversarial image that the attack saw and did not return. The way
    is looked at by quarters, as `whitebox_full`.

    Source: Pintor et al., "Indicators of Attack Failure", arXiv 2106.09947.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the share of images with a silent success.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=4)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.best_iterate_is_kept(examination).status == "PASS"
        ```
    """
    right = [examination.correct("whitebox_full", stage) for stage in examination.stages]
    silent = np.mean(right[-1] & ~np.all(right, axis=0))
    return Finding(
        silent <= examination.at_least_one_image(_LOST_BY_CHANCE),
        silent,
        f"{silent:.1%} of images were wrong on the way and are right at the end",
        "count an image as broken where any step breaks it, or use an attack that keeps its best",
    )


@check
def perturbations_are_valid(examination):
    """Checks that adversarial images are images, within epsilon of the clean ones.

    They must hold no NaN, lie in [0, 1], and be no further off than epsilon, from
    a quarter of the attack's epsilon to twice of it, as `whitebox_full`. And they
    must be wrong still after rounding to 8 bits, as an image that cannot be stored
    is no attack.

    Source: the log of AutoAttack (Croce and Hein, arXiv 2003.01690); Carlini et
    al., arXiv 1902.06705.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the share of images with an invalid
        perturbation, or that are right again after rounding.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=4)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.perturbations_are_valid(examination).figure == 0
        ```
    """
    is_valid = np.all([_is_valid(examination, epsilon) for epsilon in examination.epsilons], axis=0)
    if not is_valid.all():
        share = 1 - is_valid.mean()
        measured = f"{share:.1%} of perturbations leave the ball or [0, 1], or are not finite"
        warning = "robust accuracies belong to no epsilon"
        return Finding(False, share, measured, warning, random_explains=False)
    right = examination.correct("whitebox_full")
    rounded = tf.round(255 * examination.adversarial("whitebox_full")) / 255
    repaired = np.mean(
        ~right & examination.classified_correctly(rounded) & examination.correct_without_attack
    )
    return Finding(
        repaired <= examination.at_least_one_image(_LOST_BY_CHANCE),
        repaired,
        f"All perturbations are valid, and {repaired:.1%} of images are right again after rounding "
        "to 8 bits",
        "report the accuracy on rounded images",
    )


@check
def bare_classifier_falls(examination):
    """Checks that the attack breaks the classifier without any defence.

    An attack that leaves an undefended classifier standing says nothing about a
    defended one.

    Source: Carlini et al., arXiv 1902.06705.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the accuracy that the attack leaves of the
        bare classifier.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.5, steps=4)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.bare_classifier_falls(examination).status == "PASS"
        ```
    """
    left = examination.bare_correct.mean()
    return Finding(
        left <= examination.at_least_one_image(_LEFT_OF_THE_BARE_CLASSIFIER),
        left,
        f"{examination.attack.name} leaves {left:.1%} of the bare classifier at an epsilon of "
        f"{examination.attack.epsilon:.3g}",
        "the attack is broken or epsilon is small, unless the classifier was trained to be robust",
    )


@check
def attack_breaks_known_weak_defence(examination):
    """Checks that the attack breaks a defence that is known not to hold.

    Bit-depth reduction in front of the same classifier has no gradient, and holds
    against an attacker who follows it; under `bpda` it has to fall nearly as far
    as the bare classifier does under the same attack. Otherwise `bpda` proves
    nothing about other restorations either.

    Source: Carlini et al., arXiv 1902.06705; Athalye et al., arXiv 1802.00420.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the accuracy left of the weak defence less
        that of the bare classifier.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.5, steps=4)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.attack_breaks_known_weak_defence(examination).status == "PASS"
        ```
    """
    images, labels = examination.images, examination.labels
    with _trainable_as_before(examination.classifier):
        weak = baselines.BitDepthReduction(examination.classifier, bits=_BITS_OF_A_WEAK_DEFENCE)
    adversarial = examination.attack(threat_models.BPDA().target(weak), images, labels)
    right = examination.classified_correctly(images, weak) & examination.classified_correctly(
        adversarial, weak
    )
    left = right.mean()
    bare = examination.bare_correct.mean()
    return Finding(
        left - bare <= examination.at_least_one_image(_LEFT_BY_A_WEAK_DEFENCE),
        left - bare,
        f"{examination.attack.name} under `bpda` leaves {left:.1%} of bit-depth reduction, and "
        f"{bare:.1%} of the bare classifier",
        "the attack fails on a defence that is known to be weak",
    )


def _is_valid(examination, epsilon):
    """Which perturbations are finite, within epsilon, and leave pixels in [0, 1]."""
    adversarial = examination.adversarial("whitebox_full", epsilon=epsilon).numpy()
    perturbation = (adversarial - examination.images.numpy()).reshape(len(adversarial), -1)
    order = np.inf if examination.attack.norm == "linf" else 2
    # A comparison with NaN is false.
    is_near = np.linalg.norm(perturbation, order, axis=-1) <= epsilon + _ROUNDING_OF_DISTANCES
    return is_near & np.all((adversarial >= 0) & (adversarial <= 1), axis=(1, 2, 3))


@contextlib.contextmanager
def _trainable_as_before(classifier):
    """Undoes that a defence freezes its classifier, which here only lends itself."""
    layers = [(layer, layer.trainable) for layer in classifier._flatten_layers()]
    yield
    # From the outside in, as a layer passes the setting on to those within it.
    for layer, trainable in layers:
        layer.trainable = trainable
