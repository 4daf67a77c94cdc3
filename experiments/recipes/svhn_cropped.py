"""SVHN: the recipe of CIFAR-10 on house numbers, starting from its preset with few images."""

import dataclasses
import functools

from experiments.recipes import cifar10
from experiments.recipes import color_images

RECIPE = dataclasses.replace(
    cifar10.RECIPE,
    data="svhn_cropped",
    # Mirroring would destroy a digit, but new colours leave it readable.
    load=functools.partial(color_images.load, variation=color_images.recolor),
    start_from="trn_cifar10",
    preset=None,
    class_names=tuple("0123456789"),
)
