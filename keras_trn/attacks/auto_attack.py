"""AutoAttack, the standard ensemble for measuring robust accuracy."""

from collections.abc import Callable

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.attack import Epsilon
from keras_trn.attacks.attack_ensemble import AttackEnsemble
from keras_trn.attacks.auto_projected_gradient_descent import AutoProjectedGradientDescent
from keras_trn.attacks.expectation import ExpectationOverTransformation
from keras_trn.attacks.fast_adaptive_boundary import FastAdaptiveBoundary
from keras_trn.attacks.restarts import Restarts
from keras_trn.attacks.square import Square

_CE, _DLR = "cross_entropy", "difference_of_logits_ratio"


def _standard(epsilon: Epsilon, norm: str) -> list[Attack]:
    return [
        AutoProjectedGradientDescent(epsilon, norm, _CE),
        AutoProjectedGradientDescent(epsilon, norm, _DLR, targets=9),
        FastAdaptiveBoundary(epsilon, norm, targets=9),
        Square(epsilon, norm, queries=5000, scaled_schedule=False),
    ]


def _plus(epsilon: Epsilon, norm: str) -> list[Attack]:
    return [
        Restarts(AutoProjectedGradientDescent(epsilon, norm, _CE), 5),
        Restarts(AutoProjectedGradientDescent(epsilon, norm, _DLR), 5),
        FastAdaptiveBoundary(epsilon, norm, targets=None, restarts=5),
        Square(epsilon, norm, queries=5000, scaled_schedule=False),
        AutoProjectedGradientDescent(epsilon, norm, _DLR, targets=9),
        FastAdaptiveBoundary(epsilon, norm, targets=9),
    ]


def _rand(epsilon: Epsilon, norm: str) -> list[Attack]:
    return [
        ExpectationOverTransformation(AutoProjectedGradientDescent(epsilon, norm, loss), 20)
        for loss in (_CE, _DLR)
    ]


def _fast(epsilon: Epsilon, norm: str) -> list[Attack]:
    return [
        AutoProjectedGradientDescent(epsilon, norm, _CE, steps=20),
        AutoProjectedGradientDescent(epsilon, norm, _DLR, steps=30, targets=4),
        Square(epsilon, norm, queries=300),
    ]


_VERSIONS: dict[str, tuple[str, Callable[[Epsilon, str], list[Attack]]]] = {
    "standard": ("AutoAttack", _standard),
    "plus": ("AutoAttack plus", _plus),
    "rand": ("AutoAttack rand", _rand),
    "fast": ("AutoAttack fast", _fast),
}


def auto_attack(
    version: str = "standard",
    epsilon: Epsilon = 8 / 255,
    norm: str = "linf",
    seed: int | None = None,
) -> AttackEnsemble:
    """Makes AutoAttack, the standard ensemble for published robust accuracies.

    The numbers of steps, targets, restarts and queries match the authors' code. Report an
    accuracy as an AutoAttack accuracy only if you measured it with `"standard"`. Use `"fast"`,
    which costs a fraction, for daily work.

    Source: Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of
    Diverse Parameter-Free Attacks", arXiv 2003.01690. The fast version is this project's own.

    Args:
        version: `"standard"`: APGD-CE, APGD-T and FAB-T with nine targets each, and Square with
            5,000 queries. `"plus"`: also untargeted APGD-DLR and FAB, and five restarts.
            `"rand"`, for random defences: APGD-CE and APGD-DLR on the mean of 20 runs.
            `"fast"`: fewer steps, targets and queries, and no FAB.
        epsilon: Largest distance, in units of the image range [0, 1].
        norm: `"linf"` or `"l2"`.
        seed: Whole number that fixes all randomness.

    Returns:
        An [`AttackEnsemble`][keras_trn.attacks.AttackEnsemble].

    Raises:
        ValueError: If the version is unknown or does not support the norm.

    Example:
        ```python
        attack = keras_trn.attacks.auto_attack("standard", epsilon=8 / 255)
        names = [part.name for part in attack.attacks]
        assert names == ["APGD-CE", "APGD-T", "FAB-T", "Square"]
        ```
    """
    if not isinstance(version, str) or version not in _VERSIONS:
        names = ", ".join(map(repr, _VERSIONS))
        raise ValueError(f"version must be one of {names}, received {version!r}.")
    if norm not in FastAdaptiveBoundary.norms:
        raise ValueError(
            f"AutoAttack supports the norms 'linf' and 'l2', received {norm!r}. For 'l1' use "
            "`keras_trn.attacks.AutoProjectedGradientDescent(epsilon, norm='l1')`."
        )
    name, make_attacks = _VERSIONS[version]
    return AttackEnsemble(make_attacks(epsilon, norm), name, seed)
