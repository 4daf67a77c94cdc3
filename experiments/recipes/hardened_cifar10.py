"""CIFAR-10: the preset `trn_hardened_cifar10`."""

import functools

from experiments.recipe import HardeningOnJax
from experiments.recipe import HardeningRecipe
from experiments.recipes import cifar10
from experiments.recipes import color_images
from experiments.recipes.hardened_fashion_mnist import hardened_evaluation

RECIPE = HardeningRecipe(
    plain=cifar10.RECIPE,
    settings=HardeningOnJax(
        epochs={
            "restorer": 140,
            "adversarial training": 60,
            "adversarial training, larger network": 40,
        },
        # Without CutMix, all three overfitted after 25 to 36 epochs.
        cutmix_share={
            "restorer": 0.7,
            "adversarial training": 0.5,
            "adversarial training, larger network": 0.5,
        },
    ),
    restorer={"width": 96, "depth": 6},
    make_large_classifier=functools.partial(
        color_images.make_classifier, filters=(39, 78, 156, 260)
    ),
    filters={"bit depth": 2},
    evaluations=[hardened_evaluation(cifar10.EPSILON)],
    preset="trn_hardened_cifar10",
)
