"""CIFAR-10: the preset `trn_hardened_cifar10`."""

import functools

from experiments.recipe import HardeningOnJax
from experiments.recipe import HardeningRecipe
from experiments.recipes import cifar10
from experiments.recipes import color_images
from experiments.recipes.hardened_fashion_mnist import hardened_evaluation

RECIPE = HardeningRecipe(
    plain=cifar10.RECIPE,
    # On validation images, all of them were at their best within 40 epochs.
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
    evaluations=[hardened_evaluation(cifar10.EPSILON)],
    preset="trn_hardened_cifar10",
)
