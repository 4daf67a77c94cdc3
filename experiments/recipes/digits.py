"""The digits: the preset `trn_digits`, in the setting of the quickstart."""

import keras
import tensorflow as tf
from keras import layers

import keras_trn
from experiments.recipe import ADAPTIVE
from experiments.recipe import ESTIMATE
from experiments.recipe import ClassifierRecipe
from experiments.recipe import Data
from experiments.recipe import Evaluation
from experiments.recipe import Recipe
from experiments.training import train_classifier
from keras_trn import attacks

EPSILON = 0.2
EPSILONS = (EPSILON / 4, 1.5 * EPSILON)
TRAINING_ATTACKS = [
    attacks.FastGradientMethod(EPSILONS),
    attacks.ProjectedGradientDescent(EPSILONS, steps=5),
    attacks.RandomNoise(EPSILONS),
]


def load_shifted_digits(
    batch_size: int = 64,
) -> tuple[tf.data.Dataset, tf.data.Dataset, tf.data.Dataset]:
    """Loads training images, shifted by up to one pixel, validation and test images."""
    train, validation, test = keras_trn.datasets.load("digits", batch_size)
    shift = keras.Sequential([layers.ZeroPadding2D(1), layers.RandomCrop(8, 8)])
    shifted = train.map(lambda images, labels: (shift(images, training=True), labels))
    return shifted, validation, test


def load(recipe: Recipe) -> Data:
    """Loads the digits; each training draws its own shifts."""
    _, validation, test = load_shifted_digits()
    return Data(
        train=lambda batch_size: load_shifted_digits(batch_size)[0],
        validation=keras_trn.datasets.to_arrays(validation),
        test=keras_trn.datasets.to_arrays(test),
    )


def make_classifier() -> keras.Model:
    """Makes the untrained classifier of the quickstart."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu", strides=2),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(10),
        ]
    )


def make_surrogate() -> keras.Model:
    """Makes a transfer attacker's surrogate of another architecture."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.4),
            layers.Dense(10),
        ]
    )


REPORT = Evaluation(
    attacks=[
        attacks.ProjectedGradientDescent(EPSILON),
        attacks.FastGradientMethod(EPSILON),
        attacks.MomentumIterativeMethod(EPSILON),
        attacks.auto_attack("fast", EPSILON),
        attacks.Square(EPSILON, queries=120),
        attacks.ProjectedGradientDescent(1.0, norm="l2"),
        # With so few steps, each must be long.
        attacks.CarliniWagner(1.0, steps=20, search_steps=3, learning_rate=0.5),
        attacks.DeepFool(1.0, steps=10),
    ],
    threat_models=("oblivious", "transfer", *ADAPTIVE, "blackbox"),
    epsilons=(0.5 * EPSILON, 1.5 * EPSILON),
    plots=("accuracy", "pictures"),
)

RECIPE = Recipe(
    data="digits",
    load=load,
    epsilon=EPSILON,
    classifier=ClassifierRecipe(make_classifier, epochs=(40,), learning_rate=3e-3),
    surrogate=ClassifierRecipe(make_surrogate, epochs=(40,), learning_rate=3e-3),
    train_classifier=train_classifier,
    restorer={"width": 16, "depth": 3, "block_size": 1},
    gradient_map={"width": 16, "depth": 2, "block_size": 1, **ESTIMATE},
    attacks=TRAINING_ATTACKS,
    epochs=50,
    learning_rate=8e-3,
    warmup_steps=0,
    adversarial_attacks=TRAINING_ATTACKS,
    adversarial_epochs=40,
    preset="trn_digits",
    evaluations=[REPORT],
    evaluation_batch_size=360,
    check_examples=50,
    deterministic=True,
)
