"""Shared settings of the studies on Fashion-MNIST: restorers learn from a part of the images."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from experiments.recipe import Data
from experiments.recipes import fashion_mnist
from experiments.run import Experiment
from experiments.training import SEED

RECIPE = dataclasses.replace(fashion_mnist.RECIPE, learning_rate=2e-3)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sets the amounts of training and evaluation."""

    classifier_epochs: int
    batch_size: int
    validation_images: int
    training_images: int = 6000
    epochs: int = 5
    classifier_batch_size: int = 128


class Study(Experiment):
    """Trains classifiers on all training images, and restorers on a part of them."""

    def __init__(self, path: Path, settings: Settings) -> None:
        (images, labels), validation, test = fashion_mnist.load_arrays()
        self.few = images[: settings.training_images], labels[: settings.training_images]
        all_images = fashion_mnist.shuffled((images, labels))
        data = Data(lambda size: fashion_mnist.batches(all_images, size), validation, test)
        recipe = dataclasses.replace(RECIPE, classifier_batch_size=settings.classifier_batch_size)
        super().__init__(recipe, path, data)
        self.settings = settings

    def classifiers(self) -> list[keras.Model]:
        """Trains the classifier and the surrogate, or loads them."""
        epochs = (self.settings.classifier_epochs,)
        return [
            self.train_classifier(
                dataclasses.replace(getattr(RECIPE, name), epochs=epochs), name, self.data.train
            )
            for name in ("classifier", "surrogate")
        ]

    def restorer(
        self,
        name: str,
        make: Callable[[], keras.Model],
        seed: int = SEED,
        prepare: Callable[..., Any] = lambda *batch: batch,
    ) -> keras.Model:
        """Trains a restorer on prepared batches of a part of the images, or loads it."""

        def make_pipeline() -> tf.data.Dataset:
            few = fashion_mnist.shuffled(self.few, seed)
            return fashion_mnist.batches(few, self.settings.batch_size).map(prepare)

        return self.train_defence(
            f"{name}, seed {seed}",
            make,
            make_pipeline,
            self.settings.epochs,
            seed=seed,
        )
