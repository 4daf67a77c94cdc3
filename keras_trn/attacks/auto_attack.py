"""AutoAttack, the ensemble by which robust accuracies are compared."""

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.attack import Epsilon
from keras_trn.attacks.auto_projected_gradient_descent import AutoProjectedGradientDescent
from keras_trn.attacks.fast_adaptive_boundary import FastAdaptiveBoundary
from keras_trn.attacks.restarts import Restarts
from keras_trn.attacks.square import Square

_CE, _DLR = "cross_entropy", "difference_of_logits_ratio"
_TARGETS = 9


def _standard(epsilon: Epsilon, norm: str) -> list[Attack]:
    return [
        AutoProjectedGradientDescent(epsilon, norm, _CE),
        AutoProjectedGradientDescent(epsilon, norm, _DLR, targets=_TARGETS),
        FastAdaptiveBoundary(epsilon, norm, targets=_TARGETS),
        Square(epsilon, norm, queries=5000),
    ]


def _plus(epsilon: Epsilon, norm: str) -> list[Attack]:
    return [
        Restarts(AutoProjectedGradientDescent(epsilon, norm, _CE), 5),
        Restarts(AutoProjectedGradientDescent(epsilon, norm, _DLR), 5),
        Restarts(FastAdaptiveBoundary(epsilon, norm, targets=None), 5),
        Square(epsilon, norm, queries=5000),
        *_standard(epsilon, norm)[1:3],
    ]
