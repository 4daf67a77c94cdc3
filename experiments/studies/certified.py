"""Measures a certified method: a classifier trained with interval bound propagation.

`python -m experiments.studies.certified fashion_mnist results/certified_fashion_mnist.json`

Trains the classifier, and counts the test images whose answer it proves. Writes a report of
the attacks on it and on the preset's classifier, and the counts next to it. An interrupted run
continues where it stopped.
"""

import dataclasses
import importlib
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_trn
from experiments.filters import first_batches
from experiments.interval_bounds import IntervalTraining
from experiments.interval_bounds import certified
from experiments.interval_bounds import interval_normal
from experiments.recipe import Arrays
from experiments.recipe import Data
from experiments.recipe import Recipe
from experiments.training import SEED
from experiments.training import backup
from experiments.training import load_or_train
from experiments.writing import write_results
from keras_trn import attacks
from keras_trn.evaluation.environment import describe_environment
from keras_trn.evaluation.packing import pack_bits

NAME = "interval bounds"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sets the sizes of the classifier, of its training and of its evaluation.

    Args:
        convolutions: Filters and strides of each 3x3 convolution.
        units: Units of the dense layer after them.
        epochs: Number of epochs of training.
        batch_size: Images of a training step.
        learning_rate: Of Adam; falls to a fifth at 80% of the steps and again at 90%.
        warmup_share: Share of the steps over which epsilon rises.
        benign_share: Weight of the loss of unperturbed images in the end.
        images: Number of test images.
        check_examples: Number of images of the sanity checks.
    """

    convolutions: tuple[tuple[int, int], ...] = ((16, 1), (32, 2), (64, 2))
    units: int = 128
    epochs: int = 40
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup_share: float = 0.5
    benign_share: float = 0.0
    images: int = 1000
    check_examples: int = 30


def make_classifier(image_shape: tuple[int, ...], classes: int, settings: Settings) -> keras.Model:
    """Makes the untrained classifier."""
    images = features = keras.Input(image_shape)
    for filters, strides in settings.convolutions:
        weights = interval_normal(9 * features.shape[-1], SEED)
        features = layers.Conv2D(filters, 3, strides, "same", kernel_initializer=weights)(features)
        features = layers.ReLU()(features)
    features = layers.Flatten()(features)
    weights = interval_normal(features.shape[-1], SEED)
    features = layers.ReLU()(layers.Dense(settings.units, kernel_initializer=weights)(features))
    head = layers.Dense(classes, kernel_initializer=interval_normal(settings.units, SEED))
    return keras.Model(images, head(features))


def train(
    data: Data, epsilon: float, classes: int, settings: Settings, folder: Path
) -> keras.Model:
    """Trains a classifier, or continues its training."""
    keras.utils.set_random_seed(SEED)
    images, labels = data.arrays or keras_trn.datasets.to_arrays(data.ordered)
    classifier = make_classifier(images.shape[1:], classes, settings)
    steps = settings.epochs * (len(images) // settings.batch_size)
    training = IntervalTraining(
        classifier, epsilon, int(settings.warmup_share * steps), settings.benign_share
    )
    rates = [settings.learning_rate / 5**falls for falls in range(3)]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [int(0.8 * steps), int(0.9 * steps)], rates
    )
    # On a CPU, convolutions are faster without XLA.
    training.compile(keras.optimizers.Adam(schedule, global_clipnorm=8.0), jit_compile=False)
    pipeline = tf.data.Dataset.from_tensor_slices((images, labels.astype("int64")))
    pipeline = pipeline.shuffle(len(images), seed=SEED)
    training.fit(
        pipeline.batch(settings.batch_size, drop_remainder=True).prefetch(2),
        epochs=settings.epochs,
        validation_data=test_batches(data.validation, None),
        callbacks=[
            backup(folder / "backup"),
            keras.callbacks.CSVLogger(folder / "log.csv", append=True),
        ],
        shuffle=False,
        verbose=2,
    )
    return classifier


def test_batches(arrays: Arrays, number: int | None) -> tf.data.Dataset:
    """Makes batches of the first images, with labels as the training step takes them."""
    images, labels = arrays
    return first_batches((images, labels.astype("int64")), number, 250)


def prove(
    classifier: keras.Model, examples: tf.data.Dataset, epsilon: float
) -> dict[str, float | str]:
    """Returns the shares of right and of certified images, and a bit for each certified one."""
    is_certified = np.concatenate([certified(classifier, *batch, epsilon) for batch in examples])
    is_correct = np.concatenate(
        [tf.argmax(classifier(images), axis=-1) == labels for images, labels in examples]
    )
    return {
        "accuracy": is_correct.mean(),
        "certified_accuracy": is_certified.mean(),
        "certified": pack_bits(is_certified),
    }


def run(recipe: Recipe, path: Path, settings: Settings | None = None) -> None:
    """Trains the classifier, and writes what it proves and what attacks leave of it."""
    settings = settings or Settings()
    folder = path.with_suffix(".work")
    folder.mkdir(parents=True, exist_ok=True)
    data = recipe.load(recipe)
    bare = keras_trn.ProtectedClassifier.from_preset(recipe.preset).classifier
    classifier = load_or_train(
        folder / "classifier.keras",
        lambda: train(data, recipe.epsilon, bare.output_shape[-1], settings, folder),
    )
    proofs = {
        part: prove(classifier, test_batches(getattr(data, part), number), recipe.epsilon)
        for part, number in (("validation", None), ("test", settings.images))
    }
    report = keras_trn.evaluate(
        bare,
        first_batches(data.test, settings.images, 250),
        [
            attacks.ProjectedGradientDescent(recipe.epsilon),
            attacks.auto_attack("fast", recipe.epsilon),
        ],
        ["oblivious", "whitebox_full"],
        baselines={NAME: classifier},
        check_examples=settings.check_examples,
        checkpoint=folder / "reports.jsonl",
        seed=SEED,
    )
    report.to_json(path)
    results = {
        "settings": {**dataclasses.asdict(settings), "epsilon": recipe.epsilon, "seed": SEED},
        "parameters": classifier.count_params(),
        **proofs,
        "environment": describe_environment(),
    }
    write_results(path.with_name(f"{path.stem}_proofs.json"), results)


if __name__ == "__main__":
    name, path = sys.argv[1:]
    run(importlib.import_module(f"experiments.recipes.{name}").RECIPE, Path(path))
