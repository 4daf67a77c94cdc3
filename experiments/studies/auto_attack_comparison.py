"""Compares AutoAttack of this package with the authors' own, image by image.

    python -m experiments.studies.auto_attack_comparison results/auto_attack_linf.json
    python -m experiments.studies.auto_attack_comparison results/auto_attack_l2.json --norm l2

It needs the extra `compare`. Both implementations attack the same test images of Fashion-MNIST
with each attack of the standard version alone and with all of it. They attack the classifier of
the preset, an adversarially trained one, and the preset through everything. An adapter presents
the models to the authors' code in PyTorch. The study writes a table next to the JSON file. An
interrupted run continues after the last finished attack on a model.

Compare passes rather than seconds, because the gradients of the adapter repeat the forward pass.
The authors' code also checks the model, which adds seven forward passes of the first batch.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyautoattack
import tensorflow as tf
import torch

import keras_trn
from experiments.recipe import Arrays
from experiments.recipes import fashion_mnist
from experiments.run import Experiment
from experiments.torch_classifier import TorchClassifier
from experiments.training import SEED
from experiments.writing import write_results
from keras_trn import attacks
from keras_trn.attacks import Attack
from keras_trn.digests import digest_of_arrays
from keras_trn.evaluation.environment import describe_environment
from keras_trn.evaluation.packing import pack_bits
from keras_trn.evaluation.packing import unpack_bits
from keras_trn.evaluation.passes import CountedTarget
from keras_trn.evaluation.tables import markdown_table
from keras_trn.graphs import compile_function
from keras_trn.logits import logits_function
from keras_trn.types import Classifier

EPSILONS = {"linf": fashion_mnist.EPSILON, "l2": 1.5}
# The attacks of the standard version, under the authors' names, and all of it.
STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
ENSEMBLE = "standard"

Cell = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sets the sizes of the comparison; by default the standard version of AutoAttack."""

    norm: str = "linf"
    epsilon: float = EPSILONS["linf"]
    images: int = 500
    steps: int = 100
    targets: int = 9
    queries: int = 5000
    batch_size: int = 250
    adversarial_epochs: int = 1


# --- The two implementations ---------------------------------------------------------------


def run_authors(
    target: Classifier, name: str, examples: Arrays, settings: Settings
) -> tuple[np.ndarray, TorchClassifier]:
    """Runs an attack of the authors, or their ensemble.

    Returns the adversarial images, and the classifier that counted its passes.
    """
    images, labels = examples
    num_classes = logits_function(target)(tf.constant(images[:1])).shape[-1]
    classifier = TorchClassifier(target, images.shape[1:], num_classes)
    evaluation = pyautoattack.AutoAttack(
        classifier,
        norm={"linf": "Linf", "l2": "L2"}[settings.norm],
        eps=settings.epsilon,
        seed=SEED,
    )
    for attack in (evaluation.apgd, evaluation.apgd_targeted, evaluation.fab):
        attack.n_iter = settings.steps
    for attack in (evaluation.apgd_targeted, evaluation.fab):
        attack.n_target_classes = settings.targets
    evaluation.square.n_queries = settings.queries
    evaluation.attacks_to_run = list(STANDARD) if name == ENSEMBLE else [name]
    adversarial, _ = evaluation.run_standard_evaluation(
        torch.tensor(images.transpose(0, 3, 1, 2)),
        torch.tensor(labels.astype(np.int64)),
        batch_size=settings.batch_size,
    )
    return adversarial.numpy().transpose(0, 2, 3, 1), classifier


def make_attack(name: str, settings: Settings) -> Attack:
    """Makes an attack of this package, or its ensemble, `auto_attack("standard")` by default."""
    place: dict[str, Any] = {"epsilon": settings.epsilon, "norm": settings.norm, "seed": SEED}
    steps, targets = settings.steps, settings.targets
    makers: Mapping[str, Callable[[], Attack]] = {
        "apgd-ce": lambda: attacks.AutoProjectedGradientDescent(**place, steps=steps),
        "apgd-t": lambda: attacks.AutoProjectedGradientDescent(
            **place, loss="difference_of_logits_ratio", steps=steps, targets=targets
        ),
        "fab-t": lambda: attacks.FastAdaptiveBoundary(**place, steps=steps, targets=targets),
        "square": lambda: attacks.Square(**place, queries=settings.queries, scaled_schedule=False),
        ENSEMBLE: lambda: attacks.AttackEnsemble(
            [make_attack(part, settings) for part in STANDARD], seed=SEED
        ),
    }
    return makers[name]()


def run_own(
    target: Classifier, name: str, examples: Arrays, settings: Settings
) -> tuple[np.ndarray, CountedTarget]:
    """Runs an attack of this package, or its ensemble; returns the same as `run_authors`."""
    counted = CountedTarget(target)
    attack = make_attack(name, settings)
    adversarial = [
        attack(counted, images, labels).numpy() for images, labels in batches(examples, settings)
    ]
    return np.concatenate(adversarial), counted


IMPLEMENTATIONS: Mapping[str, Callable[..., tuple[np.ndarray, Any]]] = {
    "authors": run_authors,
    "keras_trn": run_own,
}


# --- The comparison ------------------------------------------------------------------------


def batches(examples: Arrays, settings: Settings) -> list[Arrays]:
    """Splits images and labels into batches."""
    images, labels = examples
    starts = range(0, len(images), settings.batch_size)
    return [
        (images[start : start + settings.batch_size], labels[start : start + settings.batch_size])
        for start in starts
    ]


def are_correct(target: Classifier, examples: Arrays, settings: Settings) -> np.ndarray:
    """Tells which images are classified as their label."""
    signature = [tf.TensorSpec((None, *examples[0].shape[1:]))]
    classify = compile_function(logits_function(target), signature)
    return np.concatenate(
        [
            np.argmax(classify(images), axis=-1) == labels
            for images, labels in batches(examples, settings)
        ]
    )


def largest_distance(adversarial: np.ndarray, images: np.ndarray, norm: str) -> float:
    """Returns the largest distance between an adversarial image and the clean one."""
    change = (adversarial - images).reshape(len(images), -1)
    order = {"linf": np.inf, "l2": 2}[norm]
    return float(np.linalg.norm(change, ord=order, axis=1).max())


def measure(
    implementation: str, target: Classifier, name: str, examples: Arrays, settings: Settings
) -> Cell:
    """Runs one attack, and counts survivors the same way for both implementations."""
    images, labels = examples
    started = time.perf_counter()
    adversarial, counted = IMPLEMENTATIONS[implementation](target, name, examples, settings)
    seconds = time.perf_counter() - started
    forward, backward = counted.passes
    survive = are_correct(target, examples, settings)
    survive &= are_correct(target, (adversarial, labels), settings)
    return {
        "accuracy": float(survive.mean()),
        "survivors": pack_bits(survive),
        "largest_distance": largest_distance(adversarial, images, settings.norm),
        "forward_passes": forward,
        "backward_passes": backward,
        "seconds": round(seconds, 1),
    }


class Comparison:
    """Measures the cells of a comparison, and keeps them in a file.

    Args:
        path: A JSON file; cells that it holds already are not measured again.
        models: The defences by name.
        examples: The images to attack, and their labels.
        settings: Sizes of the comparison.

    Raises:
        ValueError: If the file holds results of other settings.
    """

    def __init__(
        self, path: Path, models: Mapping[str, keras.Model], examples: Arrays, settings: Settings
    ) -> None:
        self.path = path
        self.models = models
        self.examples = examples
        self.settings = settings
        self.clean_accuracy = {
            name: float(are_correct(defence, examples, settings).mean())
            for name, defence in models.items()
        }
        self.weights = {
            name: digest_of_arrays(*(np.asarray(weight) for weight in defence.weights))
            for name, defence in models.items()
        }
        self.cells = self._finished()

    def _finished(self) -> list[Cell]:
        """Loads earlier measurements of the same models."""
        if not self.path.exists():
            return []
        known = json.loads(self.path.read_text(encoding="utf-8"))
        if known["settings"] != dataclasses.asdict(self.settings):
            raise ValueError(f"{self.path} holds results of other settings: {known['settings']}.")
        return [
            cell for cell in known["cells"] if self.weights.get(cell["model"]) == cell["weights"]
        ]

    def run(self, implementation: str) -> None:
        """Runs all attacks of an implementation on all models, and keeps each result."""
        threat_model = keras_trn.threat_models.WhiteboxFull()
        for model, defence in self.models.items():
            for attack in (*STANDARD, ENSEMBLE):
                key = {
                    "model": model,
                    "weights": self.weights[model],
                    "implementation": implementation,
                    "attack": attack,
                }
                if any(cell.items() >= key.items() for cell in self.cells):
                    continue
                target = threat_model.target(defence)
                found = measure(implementation, target, attack, self.examples, self.settings)
                self.cells.append({**key, **found})
                self.write()

    def write(self) -> None:
        """Writes the measurements so far."""
        environment = describe_environment()
        for package in ("pyautoattack", "torch"):
            environment["versions"][package] = metadata.version(package)
        results = {
            "settings": dataclasses.asdict(self.settings),
            "seed": SEED,
            "clean_accuracy": self.clean_accuracy,
            "cells": self.cells,
            "environment": environment,
        }
        write_results(self.path, results)


def to_markdown(results: Mapping[str, Any]) -> str:
    """Makes a table of accuracies in percent, numbers of images, and passes per image."""
    header = ["model", "attack", "authors' accuracy", "own accuracy", "survive both"]
    header += ["survive neither", "only the authors'", "only our own"]
    header += ["authors' passes", "own passes"]
    rows = []
    number = results["settings"]["images"]
    cells = {
        (cell["model"], cell["attack"], cell["implementation"]): cell for cell in results["cells"]
    }
    for model in results["clean_accuracy"]:
        for attack in (*STANDARD, ENSEMBLE):
            pair = [cells[model, attack, implementation] for implementation in IMPLEMENTATIONS]
            theirs, own = (unpack_bits(cell["survivors"], number) for cell in pair)
            figures = [f"{100 * cell['accuracy']:.1f}" for cell in pair]
            counts = (theirs & own, ~theirs & ~own, theirs & ~own, ~theirs & own)
            figures += [str(int(count.sum())) for count in counts]
            figures += [
                f"{cell['forward_passes'] / number:.0f} + {cell['backward_passes'] / number:.0f}"
                for cell in pair
            ]
            rows.append([model, attack, *figures])
    return markdown_table(header, rows, "ll" + "r" * 8)


# --- The models ----------------------------------------------------------------------------


def make_models(experiment: Experiment, settings: Settings) -> dict[str, keras.Model]:
    """Makes the models to attack, and trains one of them adversarially."""
    recipe = experiment.recipe
    protected = keras_trn.ProtectedClassifier.from_preset("trn_fashion_mnist")
    adversarial = experiment.train_defence(
        "adversarial training",
        lambda: keras_trn.baselines.AdversariallyTrainedClassifier(protected.classifier),
        lambda: experiment.data.train(recipe.batch_size),
        settings.adversarial_epochs,
        learning_rate=recipe.adversarial_learning_rate,
        attack=list(recipe.adversarial_attacks),
    )
    return {
        "bare": protected.classifier,
        "adversarial training": adversarial,
        "protected": protected,
    }


def main(path: Path, settings: Settings) -> None:
    """Runs the comparison, and writes its results and a table."""
    experiment = Experiment(fashion_mnist.RECIPE, path)
    images, labels = experiment.data.test
    examples = images[: settings.images], labels[: settings.images]
    models = make_models(experiment, settings)
    comparison = Comparison(path, models, examples, settings)
    for implementation in IMPLEMENTATIONS:
        comparison.run(implementation)
    results = json.loads(path.read_text(encoding="utf-8"))
    write_results(path, results, to_markdown(results))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="the JSON file to write")
    parser.add_argument("--norm", choices=EPSILONS, default="linf")
    arguments = parser.parse_args()
    main(arguments.path, Settings(arguments.norm, EPSILONS[arguments.norm]))
