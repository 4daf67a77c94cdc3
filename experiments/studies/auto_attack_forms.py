"""Compares the fast form of AutoAttack with the standard one, and their time with their passes.

`python -m experiments.studies.auto_attack_forms results/auto_attack_forms.json`

Both attack the plain and the hardened preset of Fashion-MNIST with full knowledge, on the same test
images. The time of the passes is that of as many forward and backward passes in whole batches.
Writes a table next to the file. An interrupted run continues where it stopped.
"""

import dataclasses
import functools
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

import keras_trn
from experiments.filters import first_batches
from experiments.recipe import Arrays
from experiments.recipes import fashion_mnist
from experiments.studies.cost import gradient_of
from experiments.studies.cost import seconds_in_turn
from experiments.training import SEED
from experiments.writing import write_results
from keras_trn import attacks
from keras_trn.evaluation import measure
from keras_trn.evaluation.environment import describe_environment
from keras_trn.evaluation.packing import unpack_bits
from keras_trn.evaluation.runs import Cell
from keras_trn.evaluation.tables import to_markdown

PRESETS = {"plain restorer": "trn_fashion_mnist", "hardened restorer": "trn_hardened_fashion_mnist"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sets the sizes of the study."""

    images: int = 1000
    batch_size: int = 250
    epsilon: float = fashion_mnist.EPSILON
    forms: tuple[str, ...] = ("fast", "standard")
    # Repetitions of single passes.
    repeats: int = 9


def seconds_of_passes(
    defence: keras.Model, images: np.ndarray, repeats: int
) -> tuple[float, float]:
    """Returns the seconds of a forward and of a backward pass of one image."""
    forward = functools.partial(defence, training=False)
    functions = {
        name: functools.partial(tf.function(function, autograph=False), tf.constant(images))
        for name, function in (("forward", forward), ("both", gradient_of(defence)))
    }
    seconds = seconds_in_turn(functions, repeats)
    one, both = (float(np.median(seconds[name])) / len(images) for name in functions)
    return one, both - one


def measure_defence(
    name: str,
    defence: keras.Model,
    examples: Arrays,
    settings: Settings,
    checkpoint: Path,
) -> list[Cell]:
    """Attacks a defence with each form, and adds the time that the passes take alone."""
    _, *cells = measure(
        {name: defence},
        first_batches(examples, settings.images, settings.batch_size),
        [attacks.auto_attack(form, settings.epsilon, seed=SEED) for form in settings.forms],
        ["whitebox_full"],
        checkpoint=checkpoint,
    )
    batch = examples[0][: settings.batch_size]
    forward, backward = seconds_of_passes(defence, batch, settings.repeats)
    for cell in cells:
        passes = cell["forward_passes"] * forward + cell["backward_passes"] * backward
        cell["seconds_of_passes"] = cell["examples"] * passes
        cell["seconds_of_a_forward_pass"] = forward
        cell["seconds_of_a_backward_pass"] = backward
    return cells


def agreement(cells: list[Cell]) -> float:
    """Returns the share of images that survive both forms or neither."""
    first, second = (unpack_bits(cell["correct"], cell["examples"]) for cell in cells)
    return float(np.mean(first == second))


def table(cells: list[Cell]) -> str:
    """Writes accuracies in percent, passes per image and times, as a table in Markdown."""
    rows = [
        {
            "defence": cell["defence"],
            "attack": cell["attack"],
            "accuracy": 100 * cell["accuracy"],
            "forward passes": round(cell["forward_passes"]),
            "backward passes": round(cell["backward_passes"]),
            "seconds": round(cell["seconds"]),
            "seconds of its passes": round(cell["seconds_of_passes"]),
            "ratio": f"{cell['seconds'] / cell['seconds_of_passes']:.2f}",
        }
        for cell in cells
    ]
    return to_markdown(pd.DataFrame(rows))


def run(path: Path, settings: Settings) -> None:
    """Attacks both presets, and writes the results."""
    examples = fashion_mnist.RECIPE.load(fashion_mnist.RECIPE).test
    folder = path.with_suffix(".work")
    folder.mkdir(parents=True, exist_ok=True)
    cells: list[Cell] = []
    agreements = {}
    for name, preset in PRESETS.items():
        defence = keras_trn.ProtectedClassifier.from_preset(preset)
        of_preset = measure_defence(name, defence, examples, settings, folder / "reports.jsonl")
        agreements[name] = agreement(of_preset)
        cells += of_preset
    results = {
        "settings": {**dataclasses.asdict(settings), "seed": SEED},
        "cells": cells,
        "agreement": agreements,
        "environment": describe_environment(),
    }
    write_results(path, results, table(cells))


if __name__ == "__main__":
    run(Path(sys.argv[1]), Settings())
