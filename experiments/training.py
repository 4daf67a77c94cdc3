"""Trains classifiers and defences in a way that survives interruptions."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import keras_trn
from experiments.recipe import ClassifierRecipe
from experiments.recipe import Recipe
from keras_trn import attacks
from keras_trn.attacks import Attack
from keras_trn.files import unfinished_file

SEED = 0


def load_or_train(path: Path, train: Callable[[], keras.Model]) -> keras.Model:
    """Loads an uncompiled model from a `.keras` file; trains and saves it first if needed."""
    if not path.exists():
        model = train()
        # The next run must not load a half-written file.
        with unfinished_file(path) as unfinished:
            model.save(unfinished)
            os.replace(unfinished, path)
    return keras.saving.load_model(path, compile=False)


def backup(folder: Path) -> keras.callbacks.Callback:
    """Makes a callback that resumes interrupted training at its last epoch."""
    return keras_trn.callbacks.BackupAndRestore(folder)


def make_optimizer(
    learning_rate: float, train: tf.data.Dataset, epochs: int, warmup_steps: int = 300
) -> keras.optimizers.Optimizer:
    """Makes an optimizer whose learning rate rises for some steps and then falls to zero."""
    steps = epochs * len(train)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    if warmup_steps:
        warmup_steps = min(warmup_steps, steps // 10)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, steps - warmup_steps, warmup_target=learning_rate, warmup_steps=warmup_steps
        )
    return keras.optimizers.Adam(schedule, global_clipnorm=1.0)


def enough_epochs(epochs: int, train: tf.data.Dataset, smallest_steps: int) -> int:
    """Raises the number of epochs if so few images would give too few steps."""
    return max(epochs, math.ceil(smallest_steps / len(train)))


def restorer_attacks(
    epsilons: tuple[float, float], l2_epsilons: tuple[float, float]
) -> list[Attack]:
    """Makes the training attacks of restorers: one step, several steps, and noise."""
    return [
        attacks.FastGradientMethod(epsilons),
        attacks.ProjectedGradientDescent(epsilons, steps=5),
        attacks.ProjectedGradientDescent(epsilons, steps=10),
        attacks.ProjectedGradientDescent(l2_epsilons, norm="l2", steps=5),
        attacks.RandomNoise(epsilons),
    ]


def fit_classifier(
    classifier: keras.Model,
    train: tf.data.Dataset,
    epochs: int,
    learning_rate: float,
    warmup_steps: int = 300,
    augment: Callable[[tf.data.Dataset], tf.data.Dataset] = lambda pipeline: pipeline,
    **fit_arguments: Any,
) -> keras.Model:
    """Trains a classifier on augmented images."""
    classifier.compile(
        make_optimizer(learning_rate, train, epochs, warmup_steps),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    fit_arguments = {"shuffle": False, "verbose": 0, **fit_arguments}
    classifier.fit(augment(train), epochs=epochs, **fit_arguments)
    return classifier


def train_classifier(
    recipe: Recipe, planned: ClassifierRecipe, train: tf.data.Dataset, folder: Path
) -> keras.Model:
    """Trains a classifier in one phase, or continues its training."""
    return fit_classifier(
        planned.make(),
        train,
        planned.epochs[0],
        planned.learning_rate,
        recipe.warmup_steps,
        recipe.augment,
        callbacks=[backup(folder)],
        verbose=2,
    )


def train_defence(
    make: Callable[[], keras.Model],
    make_pipeline: Callable[[], tf.data.Dataset],
    epochs: int,
    recipe: Recipe,
    folder: Path,
    learning_rate: float,
    seed: int = SEED,
    **compile_arguments: Any,
) -> keras.Model:
    """Trains a defence, and returns it without the optimizer, which takes twice the space."""
    keras.utils.set_random_seed(seed)
    train = make_pipeline()
    epochs = enough_epochs(epochs, train, recipe.smallest_steps)
    defence = make()
    optimizer = make_optimizer(learning_rate, train, epochs, recipe.warmup_steps)
    defence.compile(optimizer=optimizer, **compile_arguments)
    defence.fit(train, epochs=epochs, callbacks=[backup(folder)], verbose=2)
    return copy_weights(defence, make())


def copy_weights(source: keras.Model, target: keras.Model) -> keras.Model:
    """Copies the trained weights of one defence to another, and returns the latter."""
    is_restorer = isinstance(target, keras_trn.RestoredClassifier)
    for name in ("restorer", "gradient_map") if is_restorer else ("classifier",):
        if getattr(target, name) is not None:
            getattr(target, name).set_weights(getattr(source, name).get_weights())
    return target


def count_parameters(protected: keras_trn.ProtectedClassifier) -> int:
    """Counts the trained parameters of restorer and gradient map together."""
    return sum(weight.shape.num_elements() for weight in protected.trainable_weights)


def make_single_stream(protected: keras_trn.ProtectedClassifier) -> keras.Model:
    """Makes a restorer without gradient map, with the parameters of restorer and map."""
    return keras_trn.SingleStreamRestorationNetwork.with_parameters(
        count_parameters(protected),
        (None, *protected.image_shape),
        depth=protected.restorer.depth,
        block_size=protected.restorer.block_size,
    )
