"""Shows that an attack which was told the true label tells it to the restorer.

`python -m keras_trn.experiments.label_leak_fashion_mnist results/label_leak_fashion_mnist.json`

Trains a classifier, a restorer that learns from the classifier's cross-entropy, and
a second classifier for transfer, on a part of Fashion-MNIST, and measures PGD-20
with the true labels, with the predicted labels, and from the second classifier, on
validation images. What tells is the accuracy on those images that the classifier
gets wrong without any attack: nothing but the perturbation can help there. Writes a
table in Markdown beside the JSON file.
"""

import json
import sys
from pathlib import Path

import keras
from keras import layers

import keras_trn
from keras_trn.evaluation.environment import describe_environment
from keras_trn.evaluation.examples import unpack

SEED = 0
EPSILON = 0.1
STRENGTHS = (0.02, 0.12)
TRAINING_BATCHES = 80
RESTORER_EPOCHS = 8
VALIDATION_BATCHES = 16


def make_classifier(width):
    """Makes a small convolutional classifier, not yet trained."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(width, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(2 * width, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(10),
        ]
    )


def train_classifier(classifier, train):
    """Trains a classifier on all training images."""
    epochs = 3
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, epochs * len(train))
    classifier.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    classifier.fit(train, epochs=epochs, shuffle=False, verbose=2)
    return classifier


def train_restorer(classifier, train):
    """Trains a restorer with the classifier's cross-entropy, on a part of the images."""
    protected = keras_trn.ProtectedClassifier(
        classifier, keras_trn.TwoStreamRestorationNetwork(width=24, depth=3)
    )
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, RESTORER_EPOCHS * len(train))
    protected.compile(
        optimizer=keras.optimizers.Adam(schedule, global_clipnorm=1.0),
        attack=[
            keras_trn.attacks.FastGradientMethod(STRENGTHS),
            keras_trn.attacks.ProjectedGradientDescent(STRENGTHS, steps=5),
        ],
    )
    protected.fit(train, epochs=RESTORER_EPOCHS, verbose=2)
    return protected


def measure(protected, other, validation):
    """Measures the protected classifier on all images, and on those that were wrong before.

    Returns:
        A list of dictionaries, the first for benign images.
    """
    oblivious = keras_trn.threat_models.Oblivious
    transfer = keras_trn.threat_models.Transfer
    cells = keras_trn.evaluation.measure(
        {"bare": protected.classifier, "protected": protected},
        validation,
        [keras_trn.attacks.ProjectedGradientDescent(EPSILON, seed=SEED)],
        [
            oblivious(),
            oblivious(labels="predicted"),
            transfer(other),
            transfer(other, labels="predicted"),
        ],
    )
    wrong_before = ~unpack(cells[0]["right"], cells[0]["examples"])
    rows = []
    for bare, cell in zip(cells[::2], cells[1::2], strict=True):
        right = unpack(cell["right"], cell["examples"])
        rows.append(
            {
                "attack": cell["attack"],
                "threat_model": cell["threat_model"],
                "labels": cell["labels"],
                "epsilon": cell["epsilon"],
                "examples": cell["examples"],
                "bare_accuracy": bare["accuracy"],
                "accuracy": cell["accuracy"],
                "agreement": cell["agreement"],
                "wrong_before": int(wrong_before.sum()),
                "accuracy_where_wrong_before": float(right[wrong_before].mean()),
            }
        )
    return rows


def to_markdown(rows):
    """Writes the table."""
    lines = [
        "| attack | attacker knows | bare | protected | agreement | protected, where the bare "
        "classifier was wrong before |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        columns = ("bare_accuracy", "accuracy", "agreement", "accuracy_where_wrong_before")
        its = "its own" if row["labels"] == "predicted" else "the"
        knows = {
            None: "-",
            "oblivious": f"the classifier, and the {row['labels']} label",
            "transfer": f"another classifier, and {its} {row['labels']} label",
        }[row["threat_model"]]
        figures = " | ".join(f"{100 * row[column]:.1f}" for column in columns)
        lines.append(f"| {row['attack']} | {knows} | {figures} |")
    return "\n".join(lines) + "\n"


def main(path):
    """Runs the experiment and writes its results to `path`."""
    keras.utils.set_random_seed(SEED)
    train, validation, _ = keras_trn.datasets.load("fashion_mnist")
    classifier = train_classifier(make_classifier(32), train)
    other = train_classifier(make_classifier(24), train)
    protected = train_restorer(classifier, train.take(TRAINING_BATCHES).cache())
    rows = measure(protected, other, validation.take(VALIDATION_BATCHES).cache())
    results = {"split": "validation", "seed": SEED, "rows": rows, **describe_environment()}
    Path(path).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    Path(path).with_suffix(".md").write_text(to_markdown(rows), encoding="utf-8")
    print(to_markdown(rows))


if __name__ == "__main__":
    main(sys.argv[1])
