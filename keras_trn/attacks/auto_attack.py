"""AutoAttack: the ensemble that robust accuracies are compared by."""

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.attack import Epsilon
from keras_trn.attacks.attack_ensemble import AttackEnsemble
from keras_trn.attacks.auto_projected_gradient_descent import AutoProjectedGradientDescent
from keras_trn.attacks.fast_adaptive_boundary import FastAdaptiveBoundary
from keras_trn.attacks.restarts import Restarts
from keras_trn.attacks.square import Square

_CE, _DLR = "cross_entropy", "difference_of_logits_ratio"
