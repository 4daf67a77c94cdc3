"""Crafts adversarial images: attacks that all share one interface."""

from keras_trn.attacks.attack import Attack
from keras_trn.attacks.attack_ensemble import AttackEnsemble
from keras_trn.attacks.auto_attack import auto_attack
from keras_trn.attacks.auto_projected_gradient_descent import AutoProjectedGradientDescent
from keras_trn.attacks.basic_iterative_method import BasicIterativeMethod
from keras_trn.attacks.carlini_wagner import CarliniWagner
from keras_trn.attacks.deep_fool import DeepFool
from keras_trn.attacks.expectation import ExpectationOverTransformation
from keras_trn.attacks.fast_adaptive_boundary import FastAdaptiveBoundary
from keras_trn.attacks.fast_gradient_method import FastGradientMethod
from keras_trn.attacks.mixture import Mixture
from keras_trn.attacks.momentum_iterative_method import MomentumIterativeMethod
from keras_trn.attacks.noisy_fast_gradient_method import NoisyFastGradientMethod
from keras_trn.attacks.projected_gradient_descent import ProjectedGradientDescent
from keras_trn.attacks.random_noise import RandomNoise
from keras_trn.attacks.restarts import Restarts
from keras_trn.attacks.spsa import SPSA
from keras_trn.attacks.square import Square

__all__ = [
    "SPSA",
    "Attack",
    "AttackEnsemble",
    "AutoProjectedGradientDescent",
    "BasicIterativeMethod",
    "CarliniWagner",
    "DeepFool",
    "ExpectationOverTransformation",
    "FastAdaptiveBoundary",
    "FastGradientMethod",
    "Mixture",
    "MomentumIterativeMethod",
    "NoisyFastGradientMethod",
    "ProjectedGradientDescent",
    "RandomNoise",
    "Restarts",
    "Square",
    "auto_attack",
]
