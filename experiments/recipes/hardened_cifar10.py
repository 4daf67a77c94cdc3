"""CIFAR-10: the preset `trn_hardened_cifar10`."""

import functools

from experiments.recipe import ADAPTIVE
from experiments.recipe import Evaluation
from experiments.recipe import HardeningOnJax
from experiments.recipe import HardeningRecipe
from experiments.recipes import cifar10
from experiments.recipes import color_images
from keras_trn import attacks

EPSILON = cifar10.EPSILON

RECIPE = HardeningRecipe(
    plain=cifar10.RECIPE,
    # Within 40 epochs, all of them are at their best on validation images.
    settings=HardeningOnJax(
        epochs={
            "restorer": 190,
            "adversarial training": 60,
            "adversarial training, equal size": 40,
        }
    ),
    restorer={"width": 96, "depth": 6},
    make_large_classifier=functools.partial(
        color_images.make_classifier, filters=(39, 78, 156, 260)
    ),
    best_filter=("bit depth", 2),
    evaluations=[
        Evaluation(
            [attacks.ProjectedGradientDescent(EPSILON), attacks.auto_attack("fast", EPSILON)],
            ("oblivious", "transfer", *ADAPTIVE),
            examples=1000,
            plots=("accuracy",),
        ),
    ],
    preset="trn_hardened_cifar10",
)
