"""Chooses how strong the filters among the baselines are, on validation images."""

import json

import keras_trn
from experiments.common_setting import evaluation_pipeline
from keras_trn import attacks
from keras_trn import threat_models
from keras_trn.evaluation.environment import describe_environment

EXAMPLES = 1000
SEED = 0
_BATCH_SIZE = 250
# A filter, what its strength is called, and its strengths, the weakest first.
CANDIDATES = {
    "JPEG": (keras_trn.baselines.JpegCompression, "quality", (90, 75, 50, 30, 20, 10, 5)),
    "bit depth": (keras_trn.baselines.BitDepthReduction, "bits", (5, 4, 3, 2, 1)),
    "median": (keras_trn.baselines.MedianSmoothing, "size", (3, 5, 7)),
    "total variation": (
        keras_trn.baselines.TotalVariationMinimization,
        "weight",
        (40.0, 20.0, 10.0, 5.0, 2.5),
    ),
}


def choose_strengths(classifier, validation, epsilon, path, backup):
    """Chooses how strong each filter is: as strong as is best for these images.

    That is where the mean of its accuracies is the highest: on the images themselves, and
    under PGD and FGSM, by an attacker who neither knows of the filter nor of the true label.

    Args:
        classifier: A classifier that was not trained on these images.
        validation: Validation images and labels, as a pair of arrays; the first are taken.
        epsilon: Epsilon of the attacks in L∞.
        path: Path of the JSON file that all accuracies are written to, and of the table
            beside it, in Markdown.
        backup: Path of a file that keeps what is measured already.

    Returns:
        A dictionary of strengths, by the name of the filter.
    """
    filters = {
        (name, strength): make(classifier, **{setting: strength})
        for name, (make, setting, strengths) in CANDIDATES.items()
        for strength in strengths
    }
    cells = keras_trn.evaluation.measure(
        {"bare": classifier, **{_title(*key): model for key, model in filters.items()}},
        evaluation_pipeline(*validation, EXAMPLES, _BATCH_SIZE),
        [
            attacks.ProjectedGradientDescent(epsilon, seed=SEED),
            attacks.FastGradientMethod(epsilon),
        ],
        [threat_models.Oblivious(labels="predicted")],
        checkpoint=backup,
    )
    accuracies = {key: _accuracies(cells, _title(*key)) for key in filters}
    chosen = {name: best_strength(accuracies, name) for name in CANDIDATES}
    results = {
        "examples": cells[0]["examples"],
        "accuracies": {_title(*key): values for key, values in accuracies.items()},
        "chosen": {name: _title(name, strength) for name, strength in chosen.items()},
        "environment": describe_environment(),
    }
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(to_markdown(results))
    return chosen


def make_filters(classifier, strengths):
    """Makes the filters, each as strong as was chosen.

    Args:
        classifier: A trained classifier.
        strengths: Dictionary of strengths, by the name of the filter.

    Returns:
        A dictionary of Keras models.
    """
    return {
        name: make(classifier, **{setting: strengths[name]})
        for name, (make, setting, _) in CANDIDATES.items()
    }


def _title(name, strength):
    _, setting, _ = CANDIDATES[name]
    return f"{name}, {setting} {strength:g}"


def _accuracies(cells, defence):
    """The accuracies of one filter, by attack."""
    return {cell["attack"]: cell["accuracy"] for cell in cells if cell["defence"] == defence}


def best_strength(accuracies, name):
    """The strength with the best mean; of equals, the weakest."""

    def total(strength):
        return sum(accuracies[name, strength].values())

    _, _, strengths = CANDIDATES[name]
    return max(strengths, key=total)


def to_markdown(results):
    """Makes a table of the accuracies in percent, of each filter at each strength."""
    columns = list(next(iter(results["accuracies"].values())))
    lines = [f"| filter | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for title, accuracies in results["accuracies"].items():
        name = f"**{title}**" if title in results["chosen"].values() else title
        row = [f"{100 * accuracies[attack]:.1f}" for attack in columns]
        lines.append(f"| {name} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"
