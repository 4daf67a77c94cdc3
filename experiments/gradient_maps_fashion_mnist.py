r"""Compares gradient maps and fusion blocks on Fashion-MNIST: does the second stream pay?

    python -m experiments.gradient_maps_fashion_mnist \
        results/gradient_maps_fashion_mnist.json

Trains a classifier, and in front of it a restorer for each variant and seed, on a part
of the training images; then measures all of them on the same adversarial examples of
validation images. What is measured is what a perturbation that carries
the true label cannot flatter: the attacks lead away from the classifier's own
prediction, and the agreement with that prediction counts. Weights are kept in a
folder beside the results, so that a run that was interrupted goes on where it was.
Writes tables in Markdown and a plot beside the JSON file.
"""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

import keras_trn
from experiments import common_setting
from experiments import fashion_mnist
from experiments import fusion_blocks
from experiments import label_estimators
from experiments.common_setting import count_parameters
from experiments.gradient_maps_plots import attacks_table
from experiments.gradient_maps_plots import plot_gradient_maps
from experiments.gradient_maps_plots import variants_table
from experiments.trained_models import load_or_train
from experiments.trained_models import load_weights_or_train
from keras_trn import attacks
from keras_trn import gradient_maps
from keras_trn import threat_models
from keras_trn.evaluation.environment import describe_environment
from keras_trn.gradient_maps import EstimatedLabel

# Of the variants that decide whether the second stream pays, and of the others.
DECIDING_SEEDS = (0, 1, 2)
SEEDS = (0, 1)
CLASSIFIER_EPOCHS = 6
TRAINING_IMAGES = 6000
BATCH_SIZE = 32
RESTORER_EPOCHS = 5
LEARNING_RATE = 2e-3
VALIDATION_IMAGES = 1000
# Where no network estimates the label, its parameters go to the restorer.
SIZES_WITHOUT_ESTIMATION = {"width": 24, "depth": 3}
EPSILONS = (0.02, 0.05, 0.15, 0.2, 0.25)
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


@dataclasses.dataclass
class Variant:
    """What restores the images: a gradient map, or none, and how it is fused."""

    gradient_map: Callable | None = None
    fusion_block: type = keras_trn.layers.FusionBlock
    sizes: dict = dataclasses.field(default_factory=lambda: fashion_mnist.RESTORER_SIZES)
    seeds: tuple = SEEDS
    # The variant whose weights it has, where it differs in use alone.
    trained_as: str | None = None

    def protect(self, classifier):
        """Puts it in front of a classifier, not yet trained."""
        if self.gradient_map is None:
            return keras_trn.ProtectedClassifier(classifier, _baseline(classifier, **self.sizes))
        restorer = fusion_blocks.make_restorer(self.fusion_block, **self.sizes)
        return keras_trn.ProtectedClassifier(classifier, restorer, self.gradient_map())


def _baseline(classifier, depth):
    """The single stream with as many parameters as the default map and its restorer together."""
    default = fashion_mnist.protect(classifier)
    restorer = keras_trn.TwoStreamRestorationNetwork(depth=depth)
    return restorer.single_stream_baseline(
        (None, *fashion_mnist.IMAGE_SHAPE), count_parameters(default)
    )


VARIANTS = {
    "single stream": Variant(sizes={"depth": 3}, seeds=DECIDING_SEEDS),
    "single stream, deeper": Variant(sizes={"depth": 5}, seeds=DECIDING_SEEDS),
    "EstimatedLabel": Variant(EstimatedLabel, seeds=DECIDING_SEEDS),
    "EstimatedLabel, map zeroed": Variant(label_estimators.MapZeroed, seeds=DECIDING_SEEDS),
    "EstimatedLabel, label known": Variant(
        label_estimators.LabelKnown, seeds=DECIDING_SEEDS, trained_as="EstimatedLabel"
    ),
    "EstimatedLabel, taught with estimates": Variant(label_estimators.TaughtWithEstimates),
    "EstimatedLabel, at the image": Variant(functools.partial(EstimatedLabel, position=0)),
    "EstimatedLabel, at its restoration": Variant(functools.partial(EstimatedLabel, position=1)),
    "UniformLabel": Variant(gradient_maps.UniformLabel, sizes=SIZES_WITHOUT_ESTIMATION),
    "concatenation": Variant(EstimatedLabel, fusion_blocks.Concatenation),
    "channel attention": Variant(EstimatedLabel, fusion_blocks.ChannelAttention),
    "cross-attention": Variant(EstimatedLabel, fusion_blocks.CrossAttention),
}


def train_variant(variant, classifier, images, labels, seed, path):
    """Trains a variant, or loads the weights of an earlier run.

    Args:
        variant: A `Variant`.
        classifier: The trained classifier.
        images: Training images.
        labels: Their class indices.
        seed: Whole number.
        path: Path of a `.weights.h5` file to keep the weights in.

    Returns:
        A `ProtectedClassifier`.
    """

    def train(protected):
        pipeline = fashion_mnist.training_pipeline(images, labels, BATCH_SIZE, seed)
        protected.compile(
            optimizer=common_setting.make_optimizer(LEARNING_RATE, pipeline, RESTORER_EPOCHS),
            attack=fashion_mnist.training_attacks(),
        )
        protected.fit(pipeline, epochs=RESTORER_EPOCHS, verbose=2)

    keras.utils.set_random_seed(seed)
    return load_weights_or_train(variant.protect(classifier), path, train)


def train_classifier(make, images, labels):
    """Trains a classifier on all training images."""
    keras.utils.set_random_seed(SEEDS[0])
    pipeline = fashion_mnist.training_pipeline(images, labels, 4 * BATCH_SIZE)
    return fashion_mnist.train_classifier(make(), pipeline, CLASSIFIER_EPOCHS)


def measure(defences, other, validation, backup):
    """Measures all defences on the same adversarial examples.

    Args:
        defences: Dictionary of models, the bare classifier first.
        other: Another classifier, for transfer.
        validation: Pipeline of validation images.
        backup: Path of a file that keeps what is finished.

    Returns:
        A list of dictionaries, see `keras_trn.evaluation.measure`.
    """
    epsilon = fashion_mnist.EPSILON
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
    transfer = threat_models.Transfer(other, labels="predicted")
    return [
        *keras_trn.evaluation.measure(
            defences,
            validation,
            oblivious,
            [threat_models.Oblivious(labels="predicted")],
            EPSILONS,
            backup,
        ),
        *keras_trn.evaluation.measure(
            defences, validation, [descent, momentum], [transfer], checkpoint=backup
        )[len(defences) :],
    ]


def milliseconds_per_image(protected, images):
    """Measures what it takes to restore an image and to classify it, in batches of 128."""
    labels = np.zeros(len(images), "int64") if protected.needs_labels else None
    protected.restore(images[:128], labels)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        protected.restore(images, labels)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times)) / len(images)


def describe(variant, seed, defence, cells, images):
    """Describes one defence: what it costs, and what was measured."""
    run = {"variant": variant, "seed": seed}
    if variant != "bare":
        gradient_map = defence.gradient_map
        run["parameters"] = count_parameters(defence)
        run["backward_passes"] = gradient_map.backward_passes(10) if gradient_map else 0
        run["milliseconds_per_image"] = milliseconds_per_image(defence, images)
    return {**run, "cells": [{column: cell.get(column) for column in MEASURED} for cell in cells]}


def main(path):
    """Runs what no earlier run has left in the folder, and writes the results to `path`."""
    path = Path(path)
    folder = path.with_suffix(".work")
    folder.mkdir(parents=True, exist_ok=True)
    train, validation, _ = fashion_mnist.load_arrays()
    few = [part[:TRAINING_IMAGES] for part in train]
    classifier, other = (
        load_or_train(
            folder / f"{make.__name__}.keras", lambda make=make: train_classifier(make, *train)
        )
        for make in (fashion_mnist.make_classifier, fashion_mnist.make_other_classifier)
    )
    defences = {("bare", None): classifier}
    planned = [(name, seed) for name, variant in VARIANTS.items() for seed in variant.seeds]
    for name, seed in tqdm(planned):
        variant = VARIANTS[name]
        trained_as = (variant.trained_as or name).replace(" ", "_")
        weights = folder / f"{trained_as}_{seed}.weights.h5"
        defences[name, seed] = train_variant(variant, classifier, *few, seed, weights)

    by_name = {f"{name}, seed {seed}": defence for (name, seed), defence in defences.items()}
    evaluated = common_setting.evaluation_pipeline(*validation, VALIDATION_IMAGES, 250)
    cells = measure(by_name, other, evaluated, folder / "cells.jsonl")
    images = validation[0][:VALIDATION_IMAGES]
    runs = [
        describe(*key, defence, [cell for cell in cells if cell["defence"] == name], images)
        for (key, defence), name in zip(defences.items(), by_name, strict=True)
    ]
    results = {
        "split": "validation",
        "training_images": TRAINING_IMAGES,
        "batch_size": BATCH_SIZE,
        "epochs": RESTORER_EPOCHS,
        "learning_rate": LEARNING_RATE,
        "training_attacks": [repr(attack) for attack in fashion_mnist.training_attacks()],
        **describe_environment(),
        "runs": runs,
    }
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    show(runs, path)


def show(runs, path):
    """Writes the tables and the plot beside the JSON file at `path`."""
    tables = {
        "variants": variants_table(runs),
        "agreement": attacks_table(runs, "agreement", 100),
        "psnr": attacks_table(runs, "restored_psnr"),
    }
    for name, table in tables.items():
        path.with_name(f"{path.stem}_{name}.md").write_text(table, encoding="utf-8")
    plot_gradient_maps(runs).savefig(path.with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main(sys.argv[1])
