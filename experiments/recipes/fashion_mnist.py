"""Fashion-MNIST: the preset `trn_fashion_mnist`."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_trn
from experiments.recipe import ADAPTIVE
from experiments.recipe import Arrays
from experiments.recipe import ClassifierRecipe
from experiments.recipe import Data
from experiments.recipe import Evaluation
from experiments.recipe import Recipe
from experiments.training import SEED
from experiments.training import restorer_attacks
from experiments.training import train_classifier
from keras_trn import attacks

IMAGE_SHAPE = (28, 28, 1)
EPSILON = 0.1


def load_arrays() -> tuple[Arrays, Arrays, Arrays]:
    """Loads training, validation and test images with their labels."""
    splits = keras_trn.datasets.load("fashion_mnist", batch_size=1000)
    train, validation, test = (keras_trn.datasets.to_arrays(split) for split in splits)
    return train, validation, test


def shuffled(arrays: Arrays, seed: int = SEED) -> tf.data.Dataset:
    """Makes a pipeline of single images, in a new order in each epoch."""
    return tf.data.Dataset.from_tensor_slices(arrays).shuffle(len(arrays[0]), seed=seed)


def batches(images: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Makes batches of equal size."""
    return images.batch(batch_size, drop_remainder=True).prefetch(4)


def make_data(train: Arrays, validation: Arrays, test: Arrays) -> Data:
    """Makes the data; all models but one classifier train on the validation images too."""
    both = np.concatenate([train[0], validation[0]]), np.concatenate([train[1], validation[1]])
    # Made once, before anything sets the global seed, because the order depends on both seeds.
    without_validation, everything = shuffled(train), shuffled(both)
    return Data(
        train=lambda batch_size: batches(everything, batch_size),
        validation=validation,
        test=test,
        train_without_validation=lambda batch_size: batches(without_validation, batch_size),
        arrays=train,
    )


def mirrored(train: tf.data.Dataset) -> tf.data.Dataset:
    """Mirrors half of the training images, drawn in each epoch."""
    flip = layers.RandomFlip("horizontal")
    return train.map(lambda images, labels: (flip(images, training=True), labels)).prefetch(2)


def make_classifier() -> keras.Model:
    """Makes the untrained classifier to protect."""
    return keras.Sequential(
        [
            keras.Input(IMAGE_SHAPE),
            *convolution(32, 5, strides=2),
            *convolution(64, 3, strides=2),
            *convolution(96, 3),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(10),
        ]
    )


def convolution(filters: int, kernel_size: int, strides: int = 1) -> list[layers.Layer]:
    """Makes a convolution with batch normalization."""
    layer = layers.Conv2D(filters, kernel_size, strides=strides, padding="same", use_bias=False)
    return [layer, layers.BatchNormalization(), layers.ReLU()]


def make_surrogate() -> keras.Model:
    """Makes a classifier of another architecture, for attacks that transfer."""
    return keras.Sequential(
        [
            keras.Input(IMAGE_SHAPE),
            layers.Conv2D(24, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(48, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(96, activation="relu"),
            layers.Dense(10),
        ]
    )


def preset_evaluations(
    epsilon: float, epsilons: tuple[float, float], examples: int
) -> list[Evaluation]:
    """Plans a preset's reports: unaware attackers, aware attackers, and all test images."""
    descent = attacks.ProjectedGradientDescent(epsilon)
    fast = attacks.FastGradientMethod(epsilon)
    iterative = [attacks.BasicIterativeMethod(epsilon), attacks.MomentumIterativeMethod(epsilon)]
    return [
        Evaluation(
            [descent, fast, *iterative],
            ("oblivious", "transfer"),
            examples=examples,
            epsilons=epsilons,
            plots=("accuracy",),
        ),
        Evaluation(
            [descent, attacks.Square(epsilon, queries=100)],
            ("oblivious", *ADAPTIVE, "blackbox"),
            suffix="_worst",
            examples=1000,
        ),
        Evaluation([fast], ("oblivious",), suffix="_all"),
    ]


RECIPE = Recipe(
    data="fashion_mnist",
    load=lambda recipe: make_data(*load_arrays()),
    epsilon=EPSILON,
    classifier=ClassifierRecipe(make_classifier, epochs=(12,)),
    surrogate=ClassifierRecipe(make_surrogate, epochs=(12,)),
    train_classifier=train_classifier,
    augment=mirrored,
    # The restorer can be small, because the first restoration does most of the work.
    restorer={"width": 16, "depth": 2},
    attacks=restorer_attacks((0.0, 0.2), (0.02, 2.0)),
    epochs=4,
    adversarial_attacks=[attacks.ProjectedGradientDescent(EPSILON, steps=7)],
    adversarial_epochs=12,
    preset="trn_fashion_mnist",
    class_names=tuple(
        [
            "T-shirt",
            "trousers",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ]
    ),
    evaluations=preset_evaluations(EPSILON, (0.05, 0.2), examples=2000),
)
