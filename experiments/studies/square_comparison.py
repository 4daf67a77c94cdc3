"""Compares Square of this package with ART's: seconds, passes, and images that withstand it.

`python -m experiments.studies.square_comparison results/square_comparison.json`

Both attack the classifier of the preset `trn_fashion_mnist` with equal numbers of queries. ART's
classifier is compiled, too. Times are comparable only on an idle machine.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

import keras_trn
from experiments.recipes.fashion_mnist import IMAGE_SHAPE
from experiments.training import SEED
from experiments.writing import write_results
from keras_trn.evaluation.environment import describe_environment
from keras_trn.evaluation.passes import CountedTarget
from keras_trn.evaluation.tables import to_markdown
from keras_trn.logits import predicted_labels

# Crafts adversarial images from images and labels.
Craft = Callable[[np.ndarray, np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Holds the settings of the comparison; at this epsilon a part of the images withstands."""

    images: int = 500
    epsilon: float = 0.05
    queries: int = 1000


SETTINGS = Settings()


def own_square(settings: Settings, target: CountedTarget) -> Craft:
    """Makes a function that crafts with this package."""
    attack = keras_trn.attacks.Square(settings.epsilon, queries=settings.queries, seed=SEED)
    return functools.partial(attack, target)


def art_square(settings: Settings, target: CountedTarget) -> Craft:
    """Makes a function that crafts with ART, on a compiled classifier."""
    # Slow to import.
    import art.attacks.evasion
    import art.estimators.classification

    compiled = tf.function(
        target, [tf.TensorSpec((None, *IMAGE_SHAPE), tf.float32)], autograph=False
    )
    estimator = art.estimators.classification.TensorFlowV2Classifier(
        model=lambda images, training: compiled(images),
        nb_classes=10,
        input_shape=IMAGE_SHAPE,
        loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 1.0),
    )
    attack = art.attacks.evasion.SquareAttack(
        estimator,
        eps=settings.epsilon,
        max_iter=settings.queries,
        batch_size=settings.images,
        verbose=False,
    )

    def craft(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        np.random.seed(SEED)
        return attack.generate(images, labels)

    return craft


IMPLEMENTATIONS = {"keras_trn": own_square, "ART": art_square}


def measure(
    make: Callable[[Settings, CountedTarget], Craft],
    settings: Settings,
    classifier: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
) -> dict[str, Any]:
    """Crafts twice; the second call has nothing to compile."""
    target = CountedTarget(classifier)
    craft = make(settings, target)
    measured: dict[str, Any] = {}
    for call in ("first", "second"):
        started, (before, _) = time.perf_counter(), target.passes
        adversarial = craft(images, labels)
        measured[f"{call}_seconds"] = round(time.perf_counter() - started, 2)
        measured["passes"] = target.passes[0] - before
    is_correct = predicted_labels(classifier, adversarial).numpy() == labels
    return {**measured, "accuracy": float(is_correct.mean())}


def table(rows: dict[str, dict[str, Any]], images: int) -> str:
    """Makes a table with a row for each implementation."""
    frame = pd.DataFrame(
        {
            "Square of": list(rows),
            "accuracy": [100 * row["accuracy"] for row in rows.values()],
            "passes per image": [row["passes"] / images for row in rows.values()],
            "seconds": [row["second_seconds"] for row in rows.values()],
            "seconds, first call": [row["first_seconds"] for row in rows.values()],
        }
    )
    return to_markdown(frame, {"passes per image": 0})


def main(path: Path, settings: Settings = SETTINGS) -> None:
    """Writes the results and the table."""
    classifier = keras_trn.ProtectedClassifier.from_preset("trn_fashion_mnist").classifier
    _, _, test = keras_trn.datasets.load("fashion_mnist", batch_size=settings.images)
    images, labels = keras_trn.datasets.to_arrays(test.take(1))
    rows = {
        name: measure(make, settings, classifier, images, labels)
        for name, make in IMPLEMENTATIONS.items()
    }
    results = {
        "settings": dataclasses.asdict(settings),
        "measured": rows,
        "environment": describe_environment(),
    }
    write_results(path, results, table(rows, settings.images))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
