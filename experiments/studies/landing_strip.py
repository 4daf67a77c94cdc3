"""Draws photographs before an attack, after it, and restored, with the classes that are predicted.

`python -m experiments.studies.landing_strip results/landing_strip.json`

The photographs are the first test images of CIFAR-10, one of each class, that the bare classifier
gets right. Nobody looked at their restorations to choose them. The attacker knows the true labels
and the classifier, and does not know of the restorer.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

import keras_trn
from experiments.recipes.cifar10 import EPSILON
from experiments.writing import write_results
from keras_trn.evaluation.environment import describe_environment
from keras_trn.visualization import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.figure import SubFigure

PRESET = "trn_cifar10"
STATES = ("image", "attacked", "restored")
# Text for a light page, and for a dark one; the rest of the drawing is transparent.
TEXT_COLORS = {"light": ("#212121", "#c2185b"), "dark": ("#e0e0e0", "#ff80ab")}


def first_of_each_class(labels: np.ndarray, is_correct: np.ndarray, number: int) -> list[int]:
    """Returns the indices of the first correctly classified images, one of each class."""
    first = {int(label): int(np.argmax(is_correct & (labels == label))) for label in set(labels)}
    return sorted(index for index in first.values() if is_correct[index])[:number]


def restore(seed: int = 0, number: int = 4) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Attacks and restores photographs; returns them in all states, and what is predicted."""
    protected = keras_trn.ProtectedClassifier.from_preset(PRESET)
    _, _, test = keras_trn.datasets.load("cifar10", batch_size=100)
    images, labels = keras_trn.datasets.to_arrays(test.take(1))
    is_correct = protected.classifier.predict(images, verbose=0).argmax(-1) == labels
    chosen = first_of_each_class(labels, is_correct, number)
    images, labels = images[chosen], labels[chosen]
    attack = keras_trn.attacks.ProjectedGradientDescent(EPSILON, steps=20, seed=seed)
    adversarial = np.asarray(attack(protected.classifier, images, labels))
    states = [images, adversarial, protected.restore(adversarial)]
    scores = [
        keras.ops.convert_to_numpy(keras.ops.softmax(protected.classifier(one, training=False)))
        for one in states
    ]
    names = protected.class_names
    return states, {
        "preset": PRESET,
        "attack": attack.get_config(),
        "test_images": chosen,
        "labels": [names[label] for label in labels],
        "predicted": {
            state: [
                {"class": names[row.argmax()], "probability": round(float(row.max()), 4)}
                for row in rows
            ]
            for state, rows in zip(STATES, scores, strict=True)
        },
        "environment": describe_environment(),
    }


def draw(
    figure: "Figure | SubFigure",
    states: list[np.ndarray],
    results: dict[str, Any],
    colors: tuple[str, str],
) -> None:
    """Draws a row for each state, a column for each photograph."""
    right, wrong = colors
    axes = figure.subplots(len(states), len(states[0]))
    for row, (state, images) in enumerate(zip(STATES, states, strict=True)):
        for column, image in enumerate(images):
            axis, said = axes[row, column], results["predicted"][state][column]
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            is_right = said["class"] == results["labels"][column]
            text = f"{said['class']} {said['probability']:.0%}"
            weight = "normal" if is_right else "bold"
            axis.set_title(text, color=right if is_right else wrong, fontsize=10, weight=weight)
        axes[row, 0].set_ylabel(state, color=right, fontsize=11)


def draw_card(states: list[np.ndarray], results: dict[str, Any]) -> "Figure":
    """Draws the picture that social networks show next to a link, in the size they ask for."""
    figure = new_figure(figsize=(12, 6.3))
    words, photographs = figure.subfigures(1, 2, width_ratios=(5, 7))
    words.text(0.1, 0.6, "keras_trn", fontsize=44, weight="bold", color="#3f51b5")
    sentence = "Protects Keras image classifiers\nfrom adversarial images"
    words.text(0.1, 0.42, sentence, fontsize=20, color=TEXT_COLORS["light"][0], linespacing=1.4)
    draw(photographs, states, results, TEXT_COLORS["light"])
    return figure


def main(path: Path) -> None:
    """Writes the results, a drawing for light pages and for dark ones, and a card for links."""
    states, results = restore()
    write_results(path, results)
    for mode, colors in TEXT_COLORS.items():
        drawing = new_figure(figsize=(4.9, 4.2))
        draw(drawing, states, results, colors)
        drawing.savefig(path.with_name(f"{path.stem}_{mode}.png"), dpi=160, transparent=True)
    draw_card(states, results).savefig(path.with_name(f"{path.stem}_card.png"), dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
