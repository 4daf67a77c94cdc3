"""Checks of attackers against each other: whoever knows more must not find less."""

import numpy as np

from keras_trn.evaluation.checks.registry import Finding
from keras_trn.evaluation.checks.registry import NotApplicable
from keras_trn.evaluation.checks.registry import check

# AutoAttack's `check_square_sr`.
_BETTER_BY_CHANCE = 0.002
# The share of images that only an attacker who knows less may break (Carlini et al.).
_BROKEN_BY_CHANCE = 0.01
# What a different path of the gradient may change, half a point as between numbers of steps.
_OTHER_PATH = 0.005
# So many of the images that only a black box breaks are named.
_LISTED_IMAGES = 10
_NO_QUERY_ATTACK = (
    "No attack without gradients takes images so small or oblong in this norm; Square needs room "
    "for its squares, and SPSA knows the L-infinity norm alone"
)


@check
def blackbox_not_stronger(examination):
    """Checks that an attack without gradients finds no more than those with them.

    Square only asks for logits, and so does SPSA, which stands in for it where images
    are too small or oblong. Where it leaves fewer images right, gradients hide what is
    there. It is compared with the best of the attackers with gradients,
    per image, of `whitebox_full` and `bpda`: the question is whether gradients of
    any kind were used well enough, and a restoration without a gradient of its own
    is evaluated by `bpda`.

    Source: `check_square_sr` of AutoAttack (Croce and Hein, arXiv 2003.01690).

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the accuracy under gradients less that under
        Square. Not applicable where no such attack takes the images.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=4)
        examination = checks.Examination(classifier, images, labels, attack, queries=10)
        assert checks.blackbox_not_stronger(examination).status == "PASS"
        ```
    """
    attack = examination.query_attack
    if attack is None:
        return NotApplicable(_NO_QUERY_ATTACK)
    queries = examination.correct("blackbox", attack).mean()
    gradients = examination.correct_under_gradients().mean()
    return Finding(
        gradients - queries <= examination.at_least_one_image(_BETTER_BY_CHANCE),
        gradients - queries,
        f"{attack.name} leaves {queries:.1%} right, and attacks with gradients {gradients:.1%}",
        f"gradients are masked; believe no white-box number, and give {attack.name} more queries",
    )


@check
def random_noise_is_weaker(examination):
    """Checks that a blind search finds no more than attacks with gradients.

    Each image is perturbed at random as often as the examination has queries, and
    counts as broken when any of these is. It is compared with the best of the
    attackers with gradients, `whitebox_full` and `bpda` per image: luck must not
    beat the evaluation as a whole.

    Source: Carlini et al., arXiv 1902.06705; Athalye et al., arXiv 1802.00420.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the accuracy under gradients less that under
        noise.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=4)
        examination = checks.Examination(classifier, images, labels, attack, queries=10)
        assert checks.random_noise_is_weaker(examination).status == "PASS"
        ```
    """
    noise = examination.correct_under_noise().mean()
    gradients = examination.correct_under_gradients().mean()
    return Finding(
        gradients - noise <= examination.at_least_one_image(_BETTER_BY_CHANCE),
        gradients - noise,
        f"The worst of {examination.queries} random perturbations leaves {noise:.1%} right, and "
        f"attacks with gradients {gradients:.1%}",
        "gradients are masked, or the attack is broken",
    )


@check
def whitebox_covers_blackbox(examination):
    """Checks, image by image, that an attacker who knows the defence breaks what others do.

    Two attacks may leave the same share right and yet other images. What only Square
    breaks (or SPSA in its place), or only adversarial images that were crafted for the
    bare classifier, are images on which the attackers with gradients failed. These are
    taken together, `whitebox_full` and `bpda`, as they are in the report's worst
    case.

    Source: Carlini et al., arXiv 1902.06705.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the share of images that only attackers who know
        less break. Not applicable where nobody knows less: no restoration, and no attack
        without gradients that takes the images.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=4)
        examination = checks.Examination(classifier, images, labels, attack, queries=10)
        assert checks.whitebox_covers_blackbox(examination).status == "PASS"
        ```
    """
    attack = examination.query_attack
    who_know_less = [] if attack is None else [examination.correct("blackbox", attack)]
    if examination.is_restored:
        who_know_less.append(examination.correct("oblivious"))
    if not who_know_less:
        return NotApplicable(_NO_QUERY_ATTACK)
    right = np.all(who_know_less, axis=0)
    missed = np.flatnonzero(examination.correct_under_gradients() & ~right)
    share = len(missed) / len(right)
    return Finding(
        share <= examination.at_least_one_image(_BROKEN_BY_CHANCE),
        share,
        f"{share:.1%} of images are broken only by who knows less{_listed(missed)}",
        "the attacks with gradients miss what is there; give them more steps or restarts",
    )


@check
def bpda_not_stronger(examination):
    """Checks that differentiating a restoration is better than ignoring it.

    `bpda` differentiates as if restoration did nothing, `whitebox_full` through
    all of it. Where the poorer knowledge finds more, the restoration or its
    gradient map masks gradients.

    Source: Athalye et al., "Obfuscated Gradients Give a False Sense of Security",
    arXiv 1802.00420.

    Args:
        examination: The `Examination`.

    Returns:
        A `CheckResult`; its figure is the accuracy under `whitebox_full` less that
        under `bpda`. Not applicable where there is no restoration.

    Example:
        ```python
        from keras_trn.evaluation import checks

        attack = keras_trn.attacks.ProjectedGradientDescent(epsilon=0.2, steps=4)
        examination = checks.Examination(classifier, images, labels, attack)
        assert checks.bpda_not_stronger(examination).status == "not applicable"
        ```
    """
    if not examination.is_restored:
        return NotApplicable("There is no restoration")
    whitebox = examination.correct("whitebox_full").mean()
    bpda = examination.correct("bpda").mean()
    return Finding(
        whitebox - bpda <= examination.at_least_one_image(_OTHER_PATH),
        whitebox - bpda,
        f"`whitebox_full` leaves {whitebox:.1%} right, and `bpda` {bpda:.1%}",
        "the restoration masks gradients; count the worse of both for every image",
    )


def _listed(indices):
    """The first of some images by their numbers."""
    if not len(indices):
        return ""
    listed = ", ".join(map(str, indices[:_LISTED_IMAGES]))
    return f" (number {listed}{', ...' if len(indices) > _LISTED_IMAGES else ''})"
