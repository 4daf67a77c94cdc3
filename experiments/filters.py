"""Chooses the strengths of the filter baselines on validation images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from typing import NamedTuple

import keras
import pandas as pd
import tensorflow as tf

import keras_trn
from experiments.recipe import Arrays
from experiments.writing import write_results
from keras_trn import attacks
from keras_trn import threat_models
from keras_trn.evaluation.environment import describe_environment
from keras_trn.evaluation.tables import to_markdown


class Filter(NamedTuple):
    """Holds a filter, the name of its setting, and the strengths to try, the weakest first."""

    make: type[keras.Model]
    setting: str
    strengths: tuple[float, ...]

    def with_strength(self, classifier: keras.Model, strength: float) -> keras.Model:
        """Puts the filter in front of a classifier."""
        return self.make(classifier, **{self.setting: strength})


FILTERS = {
    "JPEG": Filter(keras_trn.baselines.JpegCompression, "quality", (90, 75, 50, 30, 20, 10, 5)),
    "bit depth": Filter(keras_trn.baselines.BitDepthReduction, "bits", (5, 4, 3, 2, 1)),
    "median": Filter(keras_trn.baselines.MedianSmoothing, "size", (3, 5, 7)),
    "total variation": Filter(
        keras_trn.baselines.TotalVariationMinimization, "weight", (40.0, 20.0, 10.0, 5.0, 2.5)
    ),
}


def first_batches(arrays: Arrays, number: int | None, batch_size: int) -> tf.data.Dataset:
    """Makes batches of the first images of a pair of arrays."""
    first = tuple(part[:number] for part in arrays)
    return tf.data.Dataset.from_tensor_slices(first).batch(batch_size)


def choose_strengths(
    classifier: keras.Model,
    validation: Arrays,
    epsilon: float,
    path: Path,
    checkpoint: Path,
    filters: Mapping[str, Filter] = FILTERS,
) -> dict[str, float]:
    """Chooses the strength with the best mean accuracy: benign, under PGD and under FGSM.

    The attacker knows neither the filter nor the true label. It writes the accuracies to `path`,
    and a table in Markdown next to it. `classifier` must not have seen the images in training.
    """
    titles = {
        (name, strength): f"{name}, {one.setting} {strength:g}"
        for name, one in filters.items()
        for strength in one.strengths
    }
    models = {
        title: filters[name].with_strength(classifier, strength)
        for (name, strength), title in titles.items()
    }
    cells = keras_trn.evaluation.measure(
        {"bare": classifier, **models},
        first_batches(validation, 1000, 250),
        [
            attacks.ProjectedGradientDescent(epsilon, seed=0),
            attacks.FastGradientMethod(epsilon),
        ],
        [threat_models.Oblivious(labels="predicted")],
        checkpoint=checkpoint,
    )
    accuracies = {
        key: {cell["attack"]: cell["accuracy"] for cell in cells if cell["defence"] == title}
        for key, title in titles.items()
    }
    chosen = {name: best_strength(accuracies, name) for name in filters}
    results = {
        "examples": cells[0]["examples"],
        "accuracies": {titles[key]: values for key, values in accuracies.items()},
        "chosen": {name: titles[name, strength] for name, strength in chosen.items()},
        "environment": describe_environment(),
    }
    write_results(path, results, accuracies_table(results))
    return chosen


def best_strength(accuracies: Mapping[tuple[str, float], Mapping[str, float]], name: str) -> float:
    """Returns the strength with the best mean accuracy; in a tie, the weakest."""
    of_filter = {strength: values for (one, strength), values in accuracies.items() if one == name}
    return max(of_filter, key=lambda strength: sum(of_filter[strength].values()))


def make_filters(classifier: keras.Model, strengths: Mapping[str, float]) -> dict[str, keras.Model]:
    """Puts each filter, at its chosen strength, in front of a classifier."""
    return {
        name: FILTERS[name].with_strength(classifier, strength)
        for name, strength in strengths.items()
    }


def accuracies_table(results: Mapping[str, Any]) -> str:
    """Makes a table of the accuracies in percent; the chosen strengths are bold."""
    percent = 100 * pd.DataFrame.from_dict(results["accuracies"], orient="index")
    chosen = {title: f"**{title}**" for title in results["chosen"].values()}
    return to_markdown(percent.rename(index=chosen).rename_axis("filter").reset_index())
