"""Measures what a second restorer adds behind a hardened one, and what mixing trades.

`python -m experiments.studies.guard fashion_mnist results/guard_fashion_mnist.json`

Takes the hardened and the plain preset of a data set. The first table compares the images that they
restore with the images of both in a `GuardedClassifier`. All see the same adversarial examples, of
two attackers: one knows the classifier alone, one knows how the class is decided. The second
table has accuracies for several values of `mixing`, on test images that no other table uses.
Writes both tables next to the file. An interrupted run continues where it stopped.
"""

import dataclasses
import importlib
import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd

import keras_trn
from experiments.filters import first_batches
from experiments.recipe import Arrays
from experiments.recipe import HardeningRecipe
from experiments.training import SEED
from experiments.writing import write_results
from keras_trn import attacks
from keras_trn import threat_models
from keras_trn.attacks import Attack
from keras_trn.evaluation import measure
from keras_trn.evaluation.environment import describe_environment
from keras_trn.evaluation.runs import Cell
from keras_trn.evaluation.tables import to_markdown
from keras_trn.protected_classifier import ProtectedClassifier

# The attacker who knows how the class is decided attacks the hardened restorer.
KNOWS_ALL = "full knowledge"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sets the sizes of the study."""

    images: int = 1000
    mixing_images: int = 500
    mixings: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4)
    batch_size: int = 250
    check_examples: int = 30


def measure_images(
    hardened: ProtectedClassifier,
    plain: ProtectedClassifier,
    examples: Arrays,
    attack: Attack,
    settings: Settings,
    checkpoint: Path,
) -> list[Cell]:
    """Measures the images of three defences on the same adversarial examples."""
    return measure(
        {
            "bare": hardened.classifier,
            "hardened restorer": hardened,
            "plain restorer": plain,
            "both": keras_trn.GuardedClassifier(hardened, plain.restorer, plain.gradient_map),
        },
        first_batches(examples, settings.images, settings.batch_size),
        attack.with_seed(SEED),
        [threat_models.Oblivious(), threat_models.Transfer(hardened, name=KNOWS_ALL)],
        checkpoint=checkpoint,
    )


def images_table(cells: list[Cell]) -> str:
    """Writes accuracy and the quality of the restored images, as a table in Markdown."""
    rows = [
        {
            "attacker": cell["threat_model"] or "none",
            "defence": cell["defence"],
            "accuracy": 100 * cell["accuracy"],
            # Unattacked images are exact copies, whose PSNR is infinite.
            "PSNR attacked": cell["attacked_psnr"] if cell["threat_model"] else math.nan,
            "PSNR restored": cell["restored_psnr"],
            "SSIM attacked": cell["attacked_ssim"],
            "SSIM restored": cell["restored_ssim"],
        }
        for cell in cells
        if cell["defence"] != "bare"
    ]
    return to_markdown(pd.DataFrame(rows))


def measure_mixing(
    hardened: ProtectedClassifier,
    plain: ProtectedClassifier,
    examples: Arrays,
    white_box: list[Attack],
    settings: Settings,
    checkpoint: Path,
) -> list[dict[str, Any]]:
    """Measures accuracy for several values of `mixing`, against full knowledge."""
    rows = []
    for mixing in settings.mixings:
        guarded = keras_trn.GuardedClassifier(
            hardened, plain.restorer, plain.gradient_map, mixing=mixing
        )
        report = keras_trn.evaluate(
            guarded,
            first_batches(examples, settings.mixing_images, settings.batch_size),
            white_box,
            ["whitebox_full"],
            check_examples=settings.check_examples,
            checkpoint=checkpoint,
            seed=SEED,
        )
        rows.append(
            {
                "mixing": mixing,
                "benign": report.cell("benign")["accuracy"],
                "worst": report.worst(),
                "warnings": [check.finding for check in report.warnings],
            }
        )
    return rows


def mixing_table(rows: list[dict[str, Any]]) -> str:
    """Writes accuracies for each value of `mixing`, as a table in Markdown."""
    table = [
        {"mixing": f"{row['mixing']:g}", "benign": 100 * row["benign"], "worst": 100 * row["worst"]}
        for row in rows
    ]
    return to_markdown(pd.DataFrame(table))


def run(recipe: HardeningRecipe, path: Path) -> None:
    """Runs both parts of the study, and writes them."""
    settings = Settings()
    hardened, plain = (
        ProtectedClassifier.from_preset(name) for name in (recipe.preset, recipe.plain.preset)
    )
    images, labels = recipe.plain.load(recipe.plain).test
    rest = images[settings.images :], labels[settings.images :]
    epsilon = recipe.plain.epsilon
    descent = attacks.ProjectedGradientDescent(epsilon)
    white_box = [descent, attacks.auto_attack("fast", epsilon)]
    folder = path.with_suffix(".work")
    folder.mkdir(parents=True, exist_ok=True)
    arguments = settings, folder / "reports.jsonl"
    cells = measure_images(hardened, plain, (images, labels), descent, *arguments)
    rows = measure_mixing(hardened, plain, rest, white_box, *arguments)
    results = {
        "settings": {**dataclasses.asdict(settings), "epsilon": epsilon, "seed": SEED},
        "cells": cells,
        "mixing": rows,
        "environment": describe_environment(),
    }
    tables = {"_images": images_table(cells), "_mixing": mixing_table(rows)}
    write_results(path, results, tables)


if __name__ == "__main__":
    name, path = sys.argv[1:]
    run(importlib.import_module(f"experiments.recipes.hardened_{name}").RECIPE, Path(path))
