"""Judges the defences on the digits: bare, protected, and all baselines, under all threat models.

`python -m experiments.defences_digits results/defences_digits.json`

Trains all of them in the setting of the quickstart, chooses on validation images how
strong the filters are, and evaluates all on the 360 test images. Writes the report as
JSON, and beside it its plots as pictures, and what the filters are worth. What
is finished is kept in a folder beside the JSON file until the report is written:
a run that was interrupted goes on where it was when it is started again.
"""

import functools
import shutil
import sys
from pathlib import Path

import keras
import tensorflow as tf
from keras import layers

import keras_trn
from experiments import baselines
from experiments import digits
from experiments.filter_strengths import choose_strengths
from experiments.filter_strengths import make_filters
from experiments.trained_models import load_or_train

SEED = 0
CLASSIFIER_EPOCHS = 40
RESTORER_EPOCHS = 50
L2_EPSILON = 1.0
# Fewer than a report on one defence would take: there are ten of them here.
STEPS = 20
QUERIES = 120
CHECK_EXAMPLES = 50


def make_transfer_classifier():
    """Makes the classifier that a transfer attacker has: of another architecture."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.4),
            layers.Dense(10),
        ]
    )


def make_learned_defences(classifier):
    """How to make the defences that have to be trained, by name."""
    restorers = {
        name: functools.partial(make, classifier)
        for name, make in baselines.learned_restorers(digits.make_baseline).items()
    }
    return {
        "protected": lambda: keras_trn.ProtectedClassifier(
            classifier, digits.make_restorer(), digits.make_gradient_map()
        ),
        **restorers,
        "adversarial training": lambda: keras_trn.baselines.AdversariallyTrainedClassifier(
            classifier
        ),
    }


def make_attacks():
    """Makes the attacks of the report, the one with a curve first."""
    attacks = keras_trn.attacks
    epsilon = digits.EPSILON
    return [
        attacks.ProjectedGradientDescent(epsilon),
        attacks.FastGradientMethod(epsilon),
        attacks.MomentumIterativeMethod(epsilon),
        *attacks.attack_ensemble(epsilon, steps=STEPS, queries=QUERIES),
        attacks.ProjectedGradientDescent(L2_EPSILON, norm="l2"),
        # So few steps have to be long ones.
        attacks.CarliniWagner(L2_EPSILON, steps=STEPS, search_steps=3, learning_rate=0.5),
        attacks.DeepFool(L2_EPSILON, steps=5),
    ]


def train(make, fit, folder, name):
    """Makes and trains a model, or loads it where an earlier run has trained it.

    Args:
        make: Function that makes the model.
        fit: Function that trains it, on a pipeline of images.
        folder: Where trained models are kept.
        name: Name of the file.

    Returns:
        The trained model.
    """

    def make_and_fit():
        print(f"Training: {name}", flush=True)
        # Whatever was trained before, or loaded, each model starts from the same random numbers.
        keras.utils.set_random_seed(SEED)
        images, _, _ = digits.load_shifted_digits()
        model = make()
        fit(model, images)
        return model

    return load_or_train(folder / f"{name}.keras", make_and_fit)


def fit_classifier(classifier, images):
    """Trains one of the classifiers."""
    digits.train_classifier(classifier, images, CLASSIFIER_EPOCHS)


def fit_defence(defence, images):
    """Trains one of the learned defences: a restorer, or a classifier."""
    restores = isinstance(defence, keras_trn.RestoredClassifier)
    epochs, learning_rate = (RESTORER_EPOCHS, 8e-3) if restores else (CLASSIFIER_EPOCHS, 3e-3)
    defence.compile(
        optimizer=digits.make_optimizer(learning_rate, images, epochs),
        attack=digits.training_attacks(),
    )
    defence.fit(images, epochs=epochs, verbose=0)


def main(path):
    """Runs the experiment, and writes the report and its plots."""
    tf.config.experimental.enable_op_determinism()
    path = Path(path)
    folder = path.with_suffix(".unfinished")
    folder.mkdir(parents=True, exist_ok=True)
    classifier = train(digits.make_classifier, fit_classifier, folder, "classifier")
    other = train(make_transfer_classifier, fit_classifier, folder, "transfer classifier")
    trained = {
        name: train(make, fit_defence, folder, name)
        for name, make in make_learned_defences(classifier).items()
    }
    protected = trained.pop("protected")
    _, validation, test = digits.load_shifted_digits()
    strengths = choose_strengths(
        protected.classifier,
        keras_trn.datasets.to_arrays(validation),
        digits.EPSILON,
        path.with_name(f"{path.stem}_filters.json"),
        folder / "filters.jsonl",
    )
    report = keras_trn.evaluate(
        protected,
        test.unbatch().batch(360),
        make_attacks(),
        threat_models=make_threat_models(other),
        baselines={**make_filters(protected.classifier, strengths), **trained},
        epsilons=[fraction * digits.EPSILON for fraction in (0.5, 1.5)],
        check_examples=CHECK_EXAMPLES,
        checkpoint=folder / "report.jsonl",
        seed=SEED,
    )
    report.to_json(path)
    for name in ("accuracy", "pictures"):
        figure = getattr(report, f"plot_{name}")()
        figure.savefig(path.with_name(f"{path.stem}_{name}.png"), dpi=110, bbox_inches="tight")
    print(report)
    shutil.rmtree(folder)


def make_threat_models(other):
    """Makes all threat models, with the classifier that a transfer attacker has."""
    threat_models = keras_trn.threat_models
    return [
        threat_models.Oblivious(),
        threat_models.Oblivious(labels="predicted"),
        threat_models.Transfer(other),
        threat_models.Transfer(other, labels="predicted"),
        threat_models.BPDA(),
        threat_models.WhiteboxStopgrad(),
        threat_models.WhiteboxFull(),
        threat_models.Blackbox(),
    ]


if __name__ == "__main__":
    main(sys.argv[1])
