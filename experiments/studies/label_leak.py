"""Shows that an attack that knows the true label leaks it to the restorer.

`python -m experiments.studies.label_leak results/label_leak_fashion_mnist.json`

The study trains a classifier, and two restorers on a part of Fashion-MNIST. One learns to restore
the true label, the other the predicted one, as in `ProtectedClassifier`. It evaluates PGD-20 with
true labels, with predicted labels, and from a surrogate, on validation images. The deciding figure
is the accuracy on images that the classifier gets wrong without any attack, because only the
perturbation can help there. It writes a table next to the JSON file.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import keras_trn
from experiments.filters import first_batches
from experiments.studies.small_fashion_mnist import RECIPE
from experiments.studies.small_fashion_mnist import Settings
from experiments.studies.small_fashion_mnist import Study
from experiments.training import SEED
from experiments.writing import write_results
from keras_trn.evaluation.environment import describe_environment
from keras_trn.evaluation.packing import unpack_bits
from keras_trn.evaluation.tables import markdown_table

SETTINGS = Settings(classifier_epochs=3, batch_size=64, validation_images=2000)


def restore_the_truth(images: tf.Tensor, labels: tf.Tensor) -> tuple[dict, tf.Tensor]:
    """Prepares training with true labels: attacks start from them, and the restorer learns them."""
    return {"images": images, "predicted": labels}, labels


def measure(
    classifier: keras.Model,
    surrogate: keras.Model,
    restorers: Mapping[str, keras.Model],
    validation: tf.data.Dataset,
) -> list[dict[str, Any]]:
    """Evaluates the defences on all images, and on images that were wrong before.

    Returns one row per attack and defence, the bare classifier first.
    """
    oblivious = keras_trn.threat_models.Oblivious
    transfer = keras_trn.threat_models.Transfer
    cells = keras_trn.evaluation.measure(
        {"bare": classifier, **restorers},
        validation,
        [keras_trn.attacks.ProjectedGradientDescent(RECIPE.epsilon, seed=SEED)],
        [
            oblivious(),
            oblivious(labels="predicted"),
            transfer(surrogate),
            transfer(surrogate, labels="predicted"),
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


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """Makes the table, in percent."""
    bare, truth, prediction = (row["defence"] for row in rows[:3])
    table = []
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
        table.append([of_bare["attack"], knows, *(f"{100 * value:.1f}" for value in values)])
    of_restorers = [
        title for name in (truth, prediction) for title in (name, f"{name}, where wrong before")
    ]
    return markdown_table(["attack", "attacker knows", bare, *of_restorers], table, "llrrrrr")


def main(path: Path, settings: Settings = SETTINGS) -> None:
    """Runs the experiment and writes its results."""
    study = Study(path, settings)
    classifier, surrogate = study.classifiers()

    def make() -> keras.Model:
        return RECIPE.protect(classifier)

    restorers = {
        "trained on the truth": study.restorer("truth", make, prepare=restore_the_truth),
        "trained on predictions": study.restorer("predictions", make),
    }
    images = first_batches(study.data.validation, settings.validation_images, 250)
    rows = measure(classifier, surrogate, restorers, images)
    results = {"split": "validation", "seed": SEED, "rows": rows, **describe_environment()}
    write_results(path, results, to_markdown(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
