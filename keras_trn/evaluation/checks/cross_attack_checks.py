"""Compares attackers: an attacker who knows more must not find less."""

import numpy as np

from keras_trn.evaluation.checks.examination import Examination
from keras_trn.evaluation.checks.registry import Finding
from keras_trn.evaluation.checks.registry import NotApplicable
from keras_trn.evaluation.checks.registry import Outcome
from keras_trn.evaluation.checks.registry import check

# AutoAttack's `check_square_sr`.
_BETTER_BY_CHANCE = 0.002
# The share of images that only weaker attackers may break (Carlini et al.).
_BROKEN_BY_CHANCE = 0.01
# Accuracy may differ by this much between two paths of the gradient.
_OTHER_PATH = 0.005
# How many of the images that only weaker attackers break to list.
_LISTED_IMAGES = 10


@check(
    finds="queries that achieve more than gradients",
    source="`check_square_sr` of AutoAttack, arXiv 2003.01690",
    subject="main attack",
)
def blackbox_not_stronger(examination: Examination) -> Outcome:
    """Checks that an attack without gradients finds no more than attacks with them.

    Square only queries logits. If it leaves a lower accuracy than the best attack with gradients
    for each image (`whitebox_full` or `bpda`), gradients are masked. The figure is the accuracy
    under gradients minus the accuracy under queries.
    """
    attack = examination.query_attack
    if attack is None:
        return NotApplicable("No query attack supports the norm of the main attack")
    queries = examination.correct("blackbox", attack).mean()
    gradients = examination.correct_under_gradients().mean()
    return Finding(
        gradients - queries <= examination.tolerance(_BETTER_BY_CHANCE),
        gradients - queries,
        f"{attack.name} leaves an accuracy of {queries:.1%}, and attacks with gradients "
        f"{gradients:.1%}",
        "gradients are masked; distrust white-box accuracies, and give the black box more queries",
    )


@check(
    finds="random noise that achieves more than gradients",
    source="arXiv 1902.06705, arXiv 1802.00420",
    subject="main attack",
)
def random_noise_is_weaker(examination: Examination) -> Finding:
    """Checks that a random search finds no more than attacks with gradients.

    Each image gets one random perturbation per query, and any of them may break it. The best
    attack with gradients for each image (`whitebox_full` or `bpda`) must break as many images.
    The figure is the accuracy under gradients minus the accuracy under noise.
    """
    noise = examination.correct_under_noise().mean()
    gradients = examination.correct_under_gradients().mean()
    return Finding(
        gradients - noise <= examination.tolerance(_BETTER_BY_CHANCE),
        gradients - noise,
        f"The worst of {examination.queries} random perturbations leaves an accuracy of "
        f"{noise:.1%}, and attacks with gradients {gradients:.1%}",
        "gradients are masked, or the attack is broken",
    )


@check(
    finds="images that only weaker attackers break",
    source="arXiv 1902.06705",
    subject="main attack",
)
def whitebox_covers_blackbox(examination: Examination) -> Outcome:
    """Checks that attacks with gradients break every image that weaker attackers break.

    Two attacks may leave the same accuracy but break different images. The attacks with gradients
    are `whitebox_full` and `bpda` together. They fail on an image that only queries break, or only
    an attack on a part of the defence. The parts are the bare classifier and, in some
    `ProtectedClassifier`s, the first restorer and the restorer without a map. The figure is the
    share of images that only weaker attackers break.
    """
    weaker = [examination.correct(part) for part in examination.parts]
    if examination.query_attack is not None:
        weaker.append(examination.correct("blackbox", examination.query_attack))
    if not weaker:
        return NotApplicable("No weaker attacker supports the norm of the main attack")
    missed = np.flatnonzero(examination.correct_under_gradients() & ~np.all(weaker, axis=0))
    share = len(missed) / len(examination.labels)
    return Finding(
        share <= examination.tolerance(_BROKEN_BY_CHANCE),
        share,
        f"Only weaker attackers break {share:.1%} of images{_listed(missed)}",
        "the attacks with gradients miss adversarial images; give them more steps or restarts",
    )


@check(
    finds="a gradient through the restoration that finds less than one around it",
    source="arXiv 1802.00420",
    subject="main attack",
)
def bpda_not_stronger(examination: Examination) -> Outcome:
    """Checks that an attack through the restoration finds no less than one around it.

    The attack around it (`bpda`) treats the restoration as the identity; the attack through it
    (`whitebox_full`) differentiates all of it. If `bpda` finds more, the restoration or its
    gradient map masks gradients. The figure is the accuracy under `whitebox_full` minus the
    accuracy under `bpda`.
    """
    if not examination.is_restored:
        return NotApplicable("There is no restoration")
    whitebox = examination.correct("whitebox_full").mean()
    bpda = examination.correct("bpda").mean()
    return Finding(
        whitebox - bpda <= examination.tolerance(_OTHER_PATH),
        whitebox - bpda,
        f"`whitebox_full` leaves an accuracy of {whitebox:.1%}, and `bpda` {bpda:.1%}",
        "the restoration masks gradients; use the worse result of both for every image",
    )


def _listed(indices: np.ndarray) -> str:
    """Lists the numbers of the first images."""
    if not len(indices):
        return ""
    listed = ", ".join(map(str, indices[:_LISTED_IMAGES]))
    return f" (number {listed}{', ...' if len(indices) > _LISTED_IMAGES else ''})"
