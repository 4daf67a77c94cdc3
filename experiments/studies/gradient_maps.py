r"""Compares gradient maps and ways to fuse the streams on Fashion-MNIST: does the map help?

    python -m experiments.studies.gradient_maps results/gradient_maps_fashion_mnist.json

The study trains a classifier, and then a restorer for each variant and seed on a part of the
training images. It evaluates all of them on the same adversarial examples of validation images.
The attacks start from the classifier's own predictions, and the study measures agreement with
them, so a leaked true label does not help. It writes tables and a plot next to the JSON file. A
folder next to the results keeps the weights, so an interrupted run can continue.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from tqdm import tqdm

import keras_trn
from experiments.filters import first_batches
from experiments.recipes import fashion_mnist
from experiments.studies import variants
from experiments.studies.gradient_maps_plots import attacks_table
from experiments.studies.gradient_maps_plots import plot_gradient_maps
from experiments.studies.gradient_maps_plots import variants_table
from experiments.studies.small_fashion_mnist import RECIPE
from experiments.studies.small_fashion_mnist import Settings
from experiments.studies.small_fashion_mnist import Study
from experiments.training import copy_weights
from experiments.training import count_parameters
from experiments.writing import write_results
from keras_trn import attacks
from keras_trn import threat_models
from keras_trn.evaluation.environment import describe_environment
from keras_trn.gradient_maps import EstimatedLabel
from keras_trn.gradient_maps import GradientMap
from keras_trn.gradient_maps import UniformLabel

SETTINGS = Settings(classifier_epochs=6, batch_size=32, validation_images=1000)
MEASURED = (
    "attack",
    "threat_model",
    "labels",
    "norm",
    "epsilon",
    "settings",
    "examples",
    "accuracy",
    "agreement",
    "attacked_psnr",
    "attacked_ssim",
    "restored_psnr",
    "restored_ssim",
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """Describes a gradient map, or none, the fusion of the streams, and the training seeds."""

    gradient_map: Callable[[], GradientMap] | None = None
    fusion: str | layers.Layer = "product"
    sizes: dict[str, int] = dataclasses.field(default_factory=lambda: RECIPE.restorer)
    seeds: tuple[int, ...] = (0, 1)
    # The variant whose weights to reuse, if only their use differs.
    trained_as: str | None = None

    def protect(self, classifier: keras.Model) -> keras_trn.ProtectedClassifier:
        """Puts the untrained variant in front of a classifier."""
        if self.gradient_map is not None:
            restorer = keras_trn.TwoStreamRestorationNetwork(fusion=self.fusion, **self.sizes)
            return keras_trn.ProtectedClassifier(classifier, restorer, self.gradient_map())
        restorer = keras_trn.SingleStreamRestorationNetwork.with_parameters(
            count_parameters(RECIPE.protect(classifier)),
            (None, *fashion_mnist.IMAGE_SHAPE),
            **self.sizes,
        )
        return keras_trn.ProtectedClassifier(classifier, restorer)


# The variants that decide whether the map helps.
Deciding = functools.partial(Variant, seeds=(0, 1, 2))
VARIANTS = {
    "single stream": Deciding(sizes={"depth": 3}),
    "single stream, deeper": Deciding(sizes={"depth": 5}),
    "EstimatedLabel": Deciding(EstimatedLabel),
    "EstimatedLabel, map zeroed": Deciding(variants.MapZeroed),
    "EstimatedLabel, label known": Deciding(variants.LabelKnown, trained_as="EstimatedLabel"),
    "EstimatedLabel, taught with estimates": Variant(variants.TaughtWithEstimates),
    "EstimatedLabel, at the image": Variant(functools.partial(EstimatedLabel, position=0)),
    "EstimatedLabel, at its restoration": Variant(functools.partial(EstimatedLabel, position=1)),
    # It has no network to estimate the label, so the restorer gets those parameters.
    "UniformLabel": Variant(UniformLabel, sizes={"width": 24, "depth": 3}),
    "concatenation": Variant(EstimatedLabel, variants.Concatenation()),
    "channel attention": Variant(EstimatedLabel, variants.ChannelAttention()),
    "cross-attention": Variant(EstimatedLabel, variants.CrossAttention()),
}


def measure(
    defences: Mapping[str, keras.Model],
    surrogate: keras.Model,
    validation: tf.data.Dataset,
    checkpoint: Path,
    epsilons: Sequence[float],
) -> list[dict[str, Any]]:
    """Measures all defences on the same adversarial examples, the bare classifier first."""
    epsilon = RECIPE.epsilon
    descent = attacks.ProjectedGradientDescent(epsilon, seed=0)
    momentum = attacks.MomentumIterativeMethod(epsilon)
    oblivious = [
        descent,
        attacks.FastGradientMethod(epsilon),
        attacks.BasicIterativeMethod(epsilon),
        momentum,
        attacks.AutoProjectedGradientDescent(epsilon, seed=0),
        attacks.ProjectedGradientDescent(1.5, norm="l2", seed=0),
        attacks.CarliniWagner(1.5),
        attacks.DeepFool(1.5),
        attacks.RandomNoise(epsilon, seed=0),
    ]
    cells = functools.partial(
        keras_trn.evaluation.measure,
        defences,
        validation,
        checkpoint=checkpoint,
    )
    unaware = threat_models.Oblivious(labels="predicted")
    transferred = threat_models.Transfer(surrogate, labels="predicted")
    return [
        *cells(oblivious, [unaware], epsilons),
        # The first call has measured the benign images.
        *cells([descent, momentum], [transferred])[len(defences) :],
    ]


def milliseconds_per_image(protected: keras_trn.ProtectedClassifier, images: np.ndarray) -> float:
    """Measures the time to restore an image, in batches of 128."""
    labels = np.zeros(len(images), "int64") if protected.needs_labels else None
    protected.restore(images[:128], labels)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        protected.restore(images, labels)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times)) / len(images)


def describe(
    variant: str,
    seed: int | None,
    defence: keras.Model,
    cells: list[dict[str, Any]],
    images: np.ndarray,
) -> dict[str, Any]:
    """Describes the cost and the measurements of one defence."""
    run: dict[str, Any] = {"variant": variant, "seed": seed}
    if variant != "bare":
        gradient_map = defence.gradient_map
        run["parameters"] = count_parameters(defence)
        run["backward_passes"] = gradient_map.backward_passes(10) if gradient_map else 0
        run["milliseconds_per_image"] = milliseconds_per_image(defence, images)
    return {**run, "cells": [{column: cell.get(column) for column in MEASURED} for cell in cells]}


def main(
    path: Path,
    planned: Mapping[str, Variant] = VARIANTS,
    settings: Settings = SETTINGS,
    epsilons: Sequence[float] = (0.02, 0.05, 0.15, 0.2, 0.25),
) -> None:
    """Runs the steps missing from the work folder, and writes the results."""
    study = Study(path, settings)
    bare, surrogate = study.classifiers()
    defences: dict[tuple[str, int | None], keras.Model] = {("bare", None): bare}
    for name, variant in tqdm(planned.items()):
        for seed in variant.seeds:
            trained_as = variant.trained_as or name
            make = functools.partial(planned[trained_as].protect, bare)
            trained = study.restorer(trained_as, make, seed)
            if variant.trained_as:
                trained = copy_weights(trained, variant.protect(bare))
            defences[name, seed] = trained

    by_name = {f"{name}, seed {seed}": defence for (name, seed), defence in defences.items()}
    images = first_batches(study.data.validation, settings.validation_images, 250)
    cells = measure(by_name, surrogate, images, study.folder / "cells.jsonl", epsilons)
    timed = study.data.validation[0][: settings.validation_images]
    runs = [
        describe(*key, defence, [cell for cell in cells if cell["defence"] == name], timed)
        for (key, defence), name in zip(defences.items(), by_name, strict=True)
    ]
    results = {
        "split": "validation",
        "training_images": settings.training_images,
        "batch_size": settings.batch_size,
        "epochs": settings.epochs,
        "learning_rate": RECIPE.learning_rate,
        "training_attacks": [repr(attack) for attack in RECIPE.attacks],
        **describe_environment(),
        "runs": runs,
    }
    write_results(path, results, tables(runs))
    plot_gradient_maps(runs).savefig(path.with_suffix(".png"), dpi=120)


def tables(runs: list[dict[str, Any]]) -> dict[str, str]:
    """Makes the Markdown tables, by the ending of their file names."""
    return {
        "_variants": variants_table(runs),
        "_agreement": attacks_table(runs, "agreement", 100),
        "_psnr": attacks_table(runs, "restored_psnr"),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
