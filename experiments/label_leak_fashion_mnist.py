"""Shows that an attack which was told the true label tells it to the restorer.

`python -m experiments.label_leak_fashion_mnist results/label_leak_fashion_mnist.json`

Trains a classifier, and two restorers on a part of Fashion-MNIST: one as an older
method would, to bring back the true label under attacks that lead away from it, the
other as `ProtectedClassifier` does, to bring back what the classifier predicts. Then
measures PGD-20 with the true labels, with the predicted labels, and from a second
classifier, on validation images. What tells is the accuracy on those images that the
classifier gets wrong without any attack: nothing but the perturbation can help there.
Writes a table in Markdown beside the JSON file.
"""

import json
import sys
from pathlib import Path

import keras

import keras_trn
from experiments import common_setting
from experiments import fashion_mnist
from keras_trn.evaluation.bit_packing import unpack_bits
from keras_trn.evaluation.environment import describe_environment

SEED = 0
CLASSIFIER_EPOCHS = 3
BATCH_SIZE = 64
TRAINING_IMAGES = 6000
RESTORER_EPOCHS = 5
VALIDATION_IMAGES = 2000


class RestoringTheTruth(keras_trn.ProtectedClassifier):
    """Learns to bring back the true label, which attacks in training lead away from."""

    def labels_to_restore(self, clean, labels, predicted=None):
        return labels


def train_restorer(protected, train):
    """Trains a restorer on a part of the images."""
    keras.utils.set_random_seed(SEED)
    protected.compile(
        optimizer=common_setting.make_optimizer(2e-3, train, RESTORER_EPOCHS),
        attack=fashion_mnist.training_attacks(),
    )
    protected.fit(train, epochs=RESTORER_EPOCHS, verbose=2)
    return protected


def measure(classifier, other, restorers, validation):
    """Measures both restorers on all images, and on those that were wrong before.

    Returns:
        A list of dictionaries, three for each attack, the first of them for benign images.
    """
    oblivious = keras_trn.threat_models.Oblivious
    transfer = keras_trn.threat_models.Transfer
    cells = keras_trn.evaluation.measure(
        {"bare": classifier, **restorers},
        validation,
        [keras_trn.attacks.ProjectedGradientDescent(fashion_mnist.EPSILON, seed=SEED)],
        [
            oblivious(),
            oblivious(labels="predicted"),
            transfer(other),
            transfer(other, labels="predicted"),
        ],
    )
    wrong_before = ~unpack_bits(cells[0]["correct"], cells[0]["examples"])
    columns = ("attack", "threat_model", "labels", "epsilon", "defence", "examples", "accuracy")
    return [
        {
            **{column: cell[column] for column in (*columns, "agreement")},
            "wrong_before": int(wrong_before.sum()),
            "accuracy_where_wrong_before": float(
                unpack_bits(cell["correct"], cell["examples"])[wrong_before].mean()
            ),
        }
        for cell in cells
    ]


def to_markdown(rows):
    """Writes the table."""
    bare, truth, prediction = rows[0]["defence"], *(row["defence"] for row in rows[1:3])
    lines = [
        f"| attack | attacker knows | {bare} | {truth} | {truth}, where wrong before "
        f"| {prediction} | {prediction}, where wrong before |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for of_bare, *of_restorers in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        its = "its own" if of_bare["labels"] == "predicted" else "the"
        knows = {
            None: "-",
            "oblivious": f"the classifier, and the {of_bare['labels']} label",
            "transfer": f"another classifier, and {its} {of_bare['labels']} label",
        }[of_bare["threat_model"]]
        values = [of_bare["accuracy"]]
        for row in of_restorers:
            values += [row["accuracy"], row["accuracy_where_wrong_before"]]
        figures = " | ".join(f"{100 * value:.1f}" for value in values)
        lines.append(f"| {of_bare['attack']} | {knows} | {figures} |")
    return "\n".join(lines) + "\n"


def main(path):
    """Runs the experiment and writes its results to `path`."""
    train, validation, _ = fashion_mnist.load_arrays()
    few = fashion_mnist.training_pipeline(*(part[:TRAINING_IMAGES] for part in train), BATCH_SIZE)
    train = fashion_mnist.training_pipeline(*train, 2 * BATCH_SIZE)
    validation = common_setting.evaluation_pipeline(*validation, VALIDATION_IMAGES, 250)
    keras.utils.set_random_seed(SEED)
    classifier, other = (
        fashion_mnist.train_classifier(make(), train, CLASSIFIER_EPOCHS)
        for make in (fashion_mnist.make_classifier, fashion_mnist.make_other_classifier)
    )
    restorers = {
        "trained on the truth": train_restorer(
            fashion_mnist.protect(classifier, RestoringTheTruth), few
        ),
        "trained on predictions": train_restorer(fashion_mnist.protect(classifier), few),
    }
    rows = measure(classifier, other, restorers, validation)
    results = {"split": "validation", "seed": SEED, "rows": rows, **describe_environment()}
    Path(path).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    Path(path).with_suffix(".md").write_text(to_markdown(rows), encoding="utf-8")
    print(to_markdown(rows))


if __name__ == "__main__":
    main(sys.argv[1])
