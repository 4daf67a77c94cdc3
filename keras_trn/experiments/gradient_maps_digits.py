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
from keras import layers
from tqdm import tqdm

import keras_trn

SEEDS = (0, 1)
EPSILON = 0.2
STRENGTHS = (EPSILON / 4, 1.5 * EPSILON)
EPOCHS = 40
MAPS = {
    "single stream": None,
    "PredictedLabel": lambda: keras_trn.gradient_maps.PredictedLabel(),
    "UniformLabel": lambda: keras_trn.gradient_maps.UniformLabel(),
    "TopK": lambda: keras_trn.gradient_maps.TopK(3),
    "EstimatedLabel": lambda: keras_trn.gradient_maps.EstimatedLabel(12, 2, block_size=1),
    "TrueLabel": lambda: keras_trn.gradient_maps.TrueLabel(),
}


def load_shifted_digits():
    """Loads the digits, the training images shifted by up to one pixel.

    Returns:
        The pipelines for training and validation.
    """
    train, validation, _ = keras_trn.datasets.load("digits", batch_size=64)
    shift = keras.Sequential([layers.ZeroPadding2D(1), layers.RandomCrop(8, 8)])
    return train.map(lambda images, labels: (shift(images, training=True), labels)), validation


def train_classifier(train):
    """Trains the classifier of the quickstart."""
    classifier = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu", strides=2),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(10),
        ]
    )
    classifier.compile(
        optimizer=_optimizer(3e-3, train),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    classifier.fit(train, epochs=EPOCHS, shuffle=False, verbose=0)
    return classifier


def protect(classifier, make_map):
    """Makes a protected classifier; without a map, the single-stream rival.

    The rival has as many parameters as the restorer with `EstimatedLabel` and
    that estimator together, the largest of all.
    """
    restorer = keras_trn.TwoStreamRestorationNetwork(width=16, depth=3, block_size=1)
    if make_map is not None:
        return keras_trn.ProtectedClassifier(classifier, restorer, make_map())
    largest = protect(classifier, MAPS["EstimatedLabel"])
    parameters = largest.restorer.count_params() + largest.gradient_map.count_params()
    rival = restorer.single_stream_rival((None, 8, 8, 1), parameters)
    return keras_trn.ProtectedClassifier(classifier, rival)


def measure(map_name, seed, classifier, train, validation):
    """Trains a restorer and measures it on the validation images.

    Returns:
        A dictionary: the map, its cost, the seed, and two reports.
    """
    keras.utils.set_random_seed(seed)
    protected = protect(classifier, MAPS[map_name])
    protected.compile(
        optimizer=_optimizer(8e-3, train),
        attack=[
            keras_trn.attacks.FastGradientMethod(STRENGTHS),
            keras_trn.attacks.ProjectedGradientDescent(STRENGTHS, steps=5),
        ],
    )
    protected.fit(train, epochs=EPOCHS, verbose=0)
    attacks = [
        keras_trn.attacks.FastGradientMethod(EPSILON),
        keras_trn.attacks.BasicIterativeMethod(EPSILON),
        keras_trn.attacks.ProjectedGradientDescent(EPSILON, seed=0),
        keras_trn.attacks.MomentumIterativeMethod(EPSILON),
    ]
    gradient_map = protected.gradient_map
    return {
        "map": map_name,
        "seed": seed,
        "parameters": sum(weight.shape.num_elements() for weight in protected.trainable_weights),
        "backward_passes": gradient_map.backward_passes(10) if gradient_map else 0,
        **{
            f"{labels}_labels": keras_trn.evaluate(
                protected, validation, attacks, labels=labels, verbose=0
            ).to_dict()
            for labels in ("true", "predicted")
        },
    }


def main(path):
    """Runs what is missing in the file at `path`."""
    path = Path(path)
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    done = {(run["map"], run["seed"]) for run in runs}
    train, validation = load_shifted_digits()
    with tqdm(total=len(SEEDS) * len(MAPS), initial=len(done)) as progress:
        for seed in SEEDS:
            missing = [name for name in MAPS if (name, seed) not in done]
            if not missing:
                continue
            keras.utils.set_random_seed(seed)
            classifier = train_classifier(train)
            for map_name in missing:
                progress.set_description(f"{map_name}, seed {seed}")
                runs.append(measure(map_name, seed, classifier, train, validation))
                path.write_text(json.dumps({"split": "validation", "runs": runs}, indent=1) + "\n")
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
            [run["true_labels"]["rows"][0]["protected_accuracy"] * 100 for run in of_map],
            [_mean_over_attacks(run["true_labels"], "protected_accuracy") * 100 for run in of_map],
            [_mean_over_attacks(run["predicted_labels"], "agreement") * 100 for run in of_map],
            [_mean_over_attacks(run["true_labels"], "restored_psnr") for run in of_map],
        ]
        cells = [" / ".join(f"{value:.1f}" for value in values) for values in columns]
        first = of_map[0]
        lines.append(
            f"| {name} | {first['parameters']:,} | {first['backward_passes']} "
            f"| {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def _mean_over_attacks(report, column):
    attacked = [row[column] for row in report["rows"] if row["attack"] != "benign"]
    return sum(attacked) / len(attacked)


def _optimizer(learning_rate, train):
    steps = EPOCHS * len(train)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    return keras.optimizers.Adam(schedule, global_clipnorm=1.0)


if __name__ == "__main__":
    main(sys.argv[1])
