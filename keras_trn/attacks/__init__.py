"""Gradient-based attacks with one signature, on CleverHans."""

from keras_trn.attacks.attack import Attack as Attack
from keras_trn.attacks.basic_iterative_method import BasicIterativeMethod as BasicIterativeMethod
from keras_trn.attacks.fast_gradient_method import FastGradientMethod as FastGradientMethod
from keras_trn.attacks.mixture import Mixture as Mixture
from keras_trn.attacks.momentum_iterative_method import (
    MomentumIterativeMethod as MomentumIterativeMethod,
)
from keras_trn.attacks.projected_gradient_descent import (
    ProjectedGradientDescent as ProjectedGradientDescent,
)

__all__ = [
    "Attack",
    "BasicIterativeMethod",
    "FastGradientMethod",
    "Mixture",
    "MomentumIterativeMethod",
    "ProjectedGradientDescent",
]
