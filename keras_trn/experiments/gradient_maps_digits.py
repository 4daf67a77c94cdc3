"""Compares the gradient maps on the digits: which one should be the default?

`python -m keras_trn.experiments.gradient_maps_digits results/gradient_maps_digits.json`

Trains a restorer for each map and seed, in the setting of the quickstart but for
a few more epochs, and measures it on the validation images. The file, and a
table in Markdown beside it, is written after each training; a run that was
interrupted goes on where it was when it is started again.
"""

import json
import sys
from pathlib import Path

import keras
from tqdm import tqdm

import keras_trn
from keras_trn.evaluation.environment import describe_environment
from keras_trn.experiments import digits

SEEDS = (0, 1)
EPOCHS = 40
MEASURED = (
    "attack",
    "labels",
    "epsilon",
    "examples",
    "accuracy",
    "agreement",
    "attacked_psnr",
    "restored_psnr",
)
MAPS = {
    "single stream": None,
    "PredictedLabel": lambda: keras_trn.gradient_maps.PredictedLabel(),
    "UniformLabel": lambda: keras_trn.gradient_maps.UniformLabel(),
    "TopK": lambda: keras_trn.gradient_maps.TopK(3),
    "EstimatedLabel": digits.make_gradient_map,
    "TrueLabel": lambda: keras_trn.gradient_maps.TrueLabel(),
}


def protect(classifier, make_map):
    """Makes a protected classifier; without a map, the single-stream rival.

    The rival has as many parameters as the restorer with `EstimatedLabel` and
    that estimator together, the largest of all.
    """
    if make_map is None:
        return keras_trn.ProtectedClassifier(classifier, digits.make_rival())
    return keras_trn.ProtectedClassifier(classifier, digits.make_restorer(), make_map())


def measure(map_name, seed, classifier, train, validation):
    """Trains a restorer and measures it on the validation images.

    Returns:
        A dictionary: the map, its cost, the seed, and what was measured.
    """
    keras.utils.set_random_seed(seed)
    protected = protect(classifier, MAPS[map_name])
    protected.compile(
        optimizer=digits.make_optimizer(8e-3, train, EPOCHS), attack=digits.training_attacks()
    )
    protected.fit(train, epochs=EPOCHS, verbose=0)
    attacks = [
        keras_trn.attacks.FastGradientMethod(digits.EPSILON),
        keras_trn.attacks.BasicIterativeMethod(digits.EPSILON),
        keras_trn.attacks.ProjectedGradientDescent(digits.EPSILON, seed=0),
        keras_trn.attacks.MomentumIterativeMethod(digits.EPSILON),
    ]
    oblivious = keras_trn.threat_models.Oblivious
    gradient_map = protected.gradient_map
    return {
        "map": map_name,
        "seed": seed,
        "parameters": sum(weight.shape.num_elements() for weight in protected.trainable_weights),
        "backward_passes": gradient_map.backward_passes(10) if gradient_map else 0,
        "cells": [
            {name: cell[name] for name in MEASURED}
            for cell in keras_trn.evaluation.measure(
                {"bare": classifier, "protected": protected},
                validation,
                attacks,
                [oblivious(labels="true"), oblivious(labels="predicted")],
                verbose=0,
            )
            if cell["defence"] == "protected"
        ],
    }


def main(path):
    """Runs what is missing in the file at `path`."""
    path = Path(path)
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    done = {(run["map"], run["seed"]) for run in runs}
    environment = describe_environment()
    train, validation, _ = digits.load_shifted_digits()
    with tqdm(total=len(SEEDS) * len(MAPS), initial=len(done)) as progress:
        for seed in SEEDS:
            missing = [name for name in MAPS if (name, seed) not in done]
            if not missing:
                continue
            keras.utils.set_random_seed(seed)
            classifier = digits.train_classifier(digits.make_classifier(), train, EPOCHS)
            for map_name in missing:
                progress.set_description(f"{map_name}, seed {seed}")
                runs.append(measure(map_name, seed, classifier, train, validation))
                results = {"split": "validation", "environment": environment, "runs": runs}
                path.write_text(json.dumps(results, indent=1) + "\n")
                path.with_suffix(".md").write_text(to_markdown(runs))
                progress.update()


def to_markdown(runs):
    """Writes the table: means over attacks, and each seed's in its order."""
    lines = [
        "| gradient map | parameters | backward passes | benign | FGSM, BIM, PGD, MIM "
        "| agreement | PSNR restored |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in MAPS:
        of_map = [run for run in runs if run["map"] == name]
        if not of_map:
            continue
        columns = [
            [_mean(run, "accuracy", None) * 100 for run in of_map],
            [_mean(run, "accuracy", "true") * 100 for run in of_map],
            [_mean(run, "agreement", "predicted") * 100 for run in of_map],
            [_mean(run, "restored_psnr", "true") for run in of_map],
        ]
        cells = [" / ".join(f"{value:.1f}" for value in values) for values in columns]
        first = of_map[0]
        lines.append(
            f"| {name} | {first['parameters']:,} | {first['backward_passes']} "
            f"| {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def _mean(run, column, labels):
    """The mean over the attacks that had these labels; `None` for benign images."""
    values = [cell[column] for cell in run["cells"] if cell["labels"] == labels]
    return sum(values) / len(values)


if __name__ == "__main__":
    main(sys.argv[1])
