"""Checks whether an attack climbs, converges, and stays within bounds."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from keras_trn import threat_models
from keras_trn.attacks.attack import Attack
from keras_trn.attacks.norms import distances_between
from keras_trn.attacks.norms import rounding_of_distances
from keras_trn.evaluation.checks.examination import Examination
from keras_trn.evaluation.checks.examination import can_be_stopped
from keras_trn.evaluation.checks.registry import Finding
from keras_trn.evaluation.checks.registry import NotApplicable
from keras_trn.evaluation.checks.registry import Outcome
from keras_trn.evaluation.checks.registry import check
from keras_trn.logits import logits_function

# Random starts alone may change accuracy by this much.
_NOISE = 0.005
# Twice as many steps may lower accuracy by this much if the attack has converged.
_CONVERGED = 0.005
# A local search may lose what it has found on this share of images.
_LOST_BY_CHANCE = 0.01
# The largest accuracy to expect of an undefended classifier (Carlini et al.: 1 % at 8/255).
_LEFT_OF_THE_BARE_CLASSIFIER = 0.01
# Rounding should add no more than this against an attacker who knows the defence.
_LEFT_BY_A_WEAK_DEFENCE = 0.03
# Enough levels to keep the classifier accurate, but few enough to hide every gradient.
_BITS_OF_A_WEAK_DEFENCE = 4
_CANNOT_BE_STOPPED = NotApplicable(
    "The attack does not follow gradients, or cannot stop after any number of steps"
)


@check(
    finds="one step that achieves more than many",
    source="arXiv 1902.06705, arXiv 1802.00420",
    subject="every attack",
)
def iterative_beats_single_step(examination: Examination, attack: Attack) -> Outcome:
    """Checks that many steps find at least as much as one long step.

    Many small steps can reach whatever one large step reaches. If they find less, the gradient
    misleads them, which is a symptom of masked gradients. Both attacks know everything
    (`whitebox_full`). The figure is the accuracy under the attack minus the accuracy under one
    step.
    """
    if not can_be_stopped(attack):
        return _CANNOT_BE_STOPPED
    iterative = examination.correct("whitebox_full", attack).mean()
    single = examination.withstands(examination.one_step(attack)).mean()
    return Finding(
        iterative - single <= examination.tolerance(_NOISE),
        iterative - single,
        f"{attack.name} leaves an accuracy of {iterative:.1%}, and one step {single:.1%}",
        "gradients are masked, or the attack's steps are too short",
    )


@check(finds="an attack that has not converged", source="arXiv 1902.06705", subject="every attack")
def more_steps_never_weaker(examination: Examination, attack: Attack) -> Outcome:
    """Checks that twice as many steps find neither less nor much more.

    If they find less, gradients mislead the attack. If they find much more, the attack has not
    converged, and the accuracy in the report is optimistic. The figure is the accuracy under
    twice as many steps minus the accuracy under the attack.
    """
    if not can_be_stopped(attack):
        return _CANNOT_BE_STOPPED
    once = examination.correct("whitebox_full", attack).mean()
    twice = examination.withstands(examination.with_twice_the_steps(attack)).mean()
    is_weaker = twice - once > examination.tolerance(_NOISE)
    has_converged = once - twice <= examination.tolerance(_CONVERGED)
    return Finding(
        has_converged and not is_weaker,
        twice - once,
        f"{attack.name} leaves an accuracy of {once:.1%}, and twice as many steps {twice:.1%}",
        "more steps find less, so gradients mislead the attack"
        if is_weaker
        else "the attack has not converged; give it more steps",
    )


@check(
    finds="a larger epsilon that achieves less",
    source="arXiv 1902.06705, arXiv 1802.00420",
    subject="every attack",
)
def monotone_in_epsilon(examination: Examination, attack: Attack) -> Outcome:
    """Checks that a larger epsilon never leaves a higher accuracy.

    A larger ball contains the smaller one. The main attack runs at a quarter of its epsilon up to
    twice its epsilon, other attacks at half and at all of theirs. The check does not apply to a
    single step, which may overshoot, or to a search for the smallest perturbation. The figure is
    the largest rise of accuracy from one epsilon to the next.
    """
    if not attack.is_iterative or attack.minimal_norm:
        return NotApplicable("The attack does not take steps that depend on epsilon")
    epsilons, threat_model = examination.epsilons(attack), _threat_model(attack)
    accuracies = [examination.correct(threat_model, attack, e).mean() for e in epsilons]
    rise = max(np.diff([examination.correct_without_attack.mean(), *accuracies]))
    pairs = zip(epsilons, accuracies, strict=True)
    return Finding(
        rise <= examination.tolerance(_NOISE),
        rise,
        "Accuracy is " + ", ".join(f"{acc:.1%} at {epsilon:.3g}" for epsilon, acc in pairs),
        "accuracy rises with epsilon, so the attack does not use a larger epsilon",
    )


@check(
    finds="an attack that fails even without bounds",
    source="arXiv 1902.06705, arXiv 1802.00420",
    subject="main attack",
)
def unbounded_attack_succeeds(examination: Examination) -> Finding:
    """Checks that an attacker without bounds succeeds on every image.

    An attack can turn every image grey within an L-infinity epsilon of 0.5, and into any other
    image within 1. For L2 these bounds are half and all of the diagonal of the cube of images.
    Accuracy must fall to the share of the most frequent class at the first, and to zero at the
    second. The attacker picks the best attack with gradients (`whitebox_full` or `bpda`) for each
    image. The figure is the accuracy under the unbounded attack.
    """
    unbounded = examination.unbounded_epsilon(examination.attack)
    chance = np.bincount(examination.labels).max() / len(examination.labels)
    grey = examination.correct_under_gradients(epsilon=unbounded / 2).mean()
    anything = examination.correct_under_gradients(epsilon=unbounded).mean()
    return Finding(
        grey <= chance and anything == 0,
        anything,
        f"Accuracy is {grey:.1%} at an epsilon of {unbounded / 2:.3g}, where a constant answer "
        f"reaches {chance:.1%}, and {anything:.1%} at {unbounded:.3g}, where it should be zero",
        "gradients are masked, or the attack is broken",
    )


@check(
    finds="an attack that does not climb",
    source="arXiv 1902.06705, arXiv 2106.09947",
    subject="every attack",
)
def loss_rises_along_the_attack(examination: Examination, attack: Attack) -> Outcome:
    """Checks that the attack increases the loss.

    The defence's mean cross-entropy must not fall from one quarter of the steps to the next. Only
    very few images may end with a lower loss. The figure is the share of images whose loss has
    risen.
    """
    if not can_be_stopped(attack):
        return _CANNOT_BE_STOPPED
    stages = [examination.images, *examination.stages(attack)]
    losses = np.stack([examination.losses(images) for images in stages])
    risen = (losses[-1] >= losses[0]).mean()
    means = losses.mean(axis=1)
    # The mean may fluctuate on a plateau in the last quarters.
    never_falls = bool(np.all(np.diff(means) >= -_LOST_BY_CHANCE * (means.max() - means.min())))
    return Finding(
        never_falls and 1 - risen <= examination.tolerance(_LOST_BY_CHANCE),
        risen,
        f"The loss has risen on {risen:.1%} of images, and its mean goes "
        f"{', '.join(f'{mean:.3g}' for mean in means)}",
        "the attack does not climb; look at its sign, its step size and its gradient",
    )


@check(
    finds="an attack that finds adversarial images on its way and loses them in the end",
    source="arXiv 2106.09947",
    subject="every attack",
)
def best_iterate_is_kept(examination: Examination, attack: Attack) -> Outcome:
    """Checks that the attack does not lose what it has found.

    If an image is misclassified after some steps but correct at the end, the attack found an
    adversarial image and did not return it. The check examines the attack after each quarter of
    its steps. The figure is the share of such silent successes.
    """
    if not can_be_stopped(attack):
        return _CANNOT_BE_STOPPED
    correct = [examination.withstands(stage) for stage in examination.stages(attack)]
    silent = np.mean(correct[-1] & ~np.all(correct, axis=0))
    return Finding(
        silent <= examination.tolerance(_LOST_BY_CHANCE),
        silent,
        f"{silent:.1%} of images are misclassified on the way and correct at the end",
        "count an image as broken if any step breaks it, or use an attack that keeps its best",
    )


@check(
    finds="images outside the bounds, or harmless once they are saved with 8 bits",
    source="the log of AutoAttack, arXiv 2003.01690; arXiv 1902.06705",
    subject="every attack",
)
def perturbations_are_valid(examination: Examination, attack: Attack) -> Finding:
    """Checks that adversarial images are valid images within epsilon of the clean ones.

    They must be finite, lie in [0, 1] and within epsilon, at all epsilons of `monotone_in_epsilon`.
    They must also stay adversarial after rounding to 8 bits, because an attacker has to store
    them. The figure is the share of images that fail.
    """
    threat_model = _threat_model(attack)
    is_valid = np.all(
        [_is_valid(examination, attack, epsilon) for epsilon in examination.epsilons(attack)],
        axis=0,
    )
    if not is_valid.all():
        share = 1 - is_valid.mean()
        observation = f"{share:.1%} of perturbations leave the ball or [0, 1], or are not finite"
        return Finding(False, share, observation, "the robust accuracies are wrong", "adds")
    correct = examination.correct(threat_model, attack)
    rounded = tf.round(255 * examination.adversarial(threat_model, attack)) / 255
    repaired = np.mean(~correct & examination.withstands(rounded))
    return Finding(
        repaired <= examination.tolerance(_LOST_BY_CHANCE),
        repaired,
        f"All perturbations are valid, and {repaired:.1%} of images are correct again after "
        "rounding to 8 bits",
        "report the accuracy on rounded images",
    )


@check(
    finds="an attack too weak for an undefended classifier",
    source="arXiv 1902.06705",
    subject="main attack",
)
def bare_classifier_falls(examination: Examination) -> Finding:
    """Checks that the attack breaks the classifier without any defence.

    An attack that fails on an undefended classifier proves nothing about a defended one. The
    figure is the accuracy of the bare classifier under the attack.
    """
    left = examination.bare_correct.mean()
    return Finding(
        left <= examination.tolerance(_LEFT_OF_THE_BARE_CLASSIFIER),
        left,
        f"{examination.attack.name} leaves the bare classifier an accuracy of {left:.1%} at an "
        f"epsilon of {examination.attack.epsilon:.3g}",
        "the attack is broken or epsilon is small, unless the classifier was trained to be robust",
    )


@check(
    finds="an attack too weak even for a defence that is known to be weak",
    source="arXiv 1902.06705, arXiv 1802.00420",
    subject="main attack",
)
def attack_breaks_known_weak_defence(examination: Examination) -> Finding:
    """Checks that the attack breaks a defence that is known to be weak.

    Rounding pixels in front of the same classifier hides its gradient. An attack around the
    restoration (`bpda`) must break it nearly as often as the bare classifier. Otherwise `bpda`
    proves nothing about other restorations. The figure is the difference of the two accuracies.
    """
    images, labels = examination.images, examination.labels
    rounding = _Rounding(examination.classifier)
    adversarial = examination.attack(threat_models.BPDA().target(rounding), images, labels)
    correct = [examination.classified_correctly(each, rounding) for each in (images, adversarial)]
    left, bare = np.all(correct, axis=0).mean(), examination.bare_correct.mean()
    return Finding(
        left - bare <= examination.tolerance(_LEFT_BY_A_WEAK_DEFENCE),
        left - bare,
        f"{examination.attack.name} under `bpda` leaves an accuracy of {left:.1%} behind bit-depth "
        f"reduction, and {bare:.1%} for the bare classifier",
        "the attack fails on a defence that is known to be weak",
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Rounding:
    """Rounds images before the classifier; unlike a baseline, it does not freeze weights."""

    classifier: keras.Model

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        return logits_function(self.classifier)(self.restore_batch(images))

    def restore_batch(self, images: tf.Tensor) -> tf.Tensor:
        highest_level = 2.0**_BITS_OF_A_WEAK_DEFENCE - 1
        return tf.round(images * highest_level) / highest_level


def _threat_model(attack: Attack) -> str:
    return "blackbox" if attack.gradient_free else "whitebox_full"


def _is_valid(examination: Examination, attack: Attack, epsilon: float) -> np.ndarray:
    """Tells which perturbations are finite and within epsilon, with pixels in [0, 1]."""
    adversarial = examination.adversarial(_threat_model(attack), attack, epsilon).numpy()
    distances = distances_between(adversarial, examination.images, attack.norm)
    # A comparison with NaN is false.
    is_near = distances <= epsilon + rounding_of_distances(epsilon)
    return is_near & np.all((adversarial >= 0) & (adversarial <= 1), axis=(1, 2, 3))
