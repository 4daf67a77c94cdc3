"""Fashion-MNIST: the preset `trn_hardened_fashion_mnist`."""

from collections.abc import Iterable
from typing import Any

import keras
from keras import layers

from experiments.recipe import ADAPTIVE
from experiments.recipe import Evaluation
from experiments.recipe import Hardening
from experiments.recipe import HardeningRecipe
from experiments.recipes import fashion_mnist
from experiments.recipes.fashion_mnist import convolution
from keras_trn import attacks


def hardened_evaluation(epsilon: float) -> Evaluation:
    """Plans the report on a hardened preset."""
    return Evaluation(
        [attacks.ProjectedGradientDescent(epsilon), attacks.auto_attack("fast", epsilon)],
        ("oblivious", "transfer", *ADAPTIVE),
        examples=1000,
    )


def make_large_classifier() -> keras.Model:
    """Makes a residual classifier as large as the classifier and the restorer together."""
    images = keras.Input(fashion_mnist.IMAGE_SHAPE)
    stem = (*convolution(50, 5, strides=2), *convolution(100, 3, strides=2))
    features = apply(stem, images)
    for _ in range(3):
        branch = (*convolution(100, 3), layers.Conv2D(100, 3, padding="same", use_bias=False))
        changed = apply(branch, features)
        changed = layers.BatchNormalization(gamma_initializer="zeros")(changed)
        features = layers.ReLU()(layers.Add()([features, changed]))
    features = layers.Flatten()(layers.AveragePooling2D(2)(features))
    return keras.Model(images, layers.Dense(10)(features))


def apply(stack: Iterable[layers.Layer], features: Any) -> Any:
    """Applies layers in sequence."""
    for layer in stack:
        features = layer(features)
    return features


RECIPE = HardeningRecipe(
    plain=fashion_mnist.RECIPE,
    settings=Hardening(epochs=30, pixel=1.0),
    restorer={"width": 96, "depth": 2},
    make_large_classifier=make_large_classifier,
    filters={"bit depth": 1},
    evaluations=[hardened_evaluation(fashion_mnist.EPSILON)],
    preset="trn_hardened_fashion_mnist",
)
