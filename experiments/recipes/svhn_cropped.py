"""SVHN: the recipe of CIFAR-10 on house numbers, from its preset where there are few images."""

import dataclasses
import functools

from experiments.recipes import cifar10
from experiments.recipes import color_images

RECIPE = dataclasses.replace(
    cifar10.RECIPE,
    data="svhn_cropped",
    # The mirror image of a digit is none, but a digit is the same on any wall.
    load=functools.partial(color_images.load, variation=color_images.recolor),
    start_from="trn_cifar10",
    preset=None,
    class_names=tuple("0123456789"),
)
