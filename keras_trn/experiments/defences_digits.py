"""Judges the defences on the digits: bare, protected, and all peers, under all threat models.

`python -m keras_trn.experiments.defences_digits results/defences_digits.json`

Trains all of them in the setting of the quickstart, and evaluates them on the 360
test images. Writes the report as JSON, and its plots as pictures beside it. What
is finished is kept in a folder beside the JSON file until the report is written:
a run that was interrupted goes on where it was when it is started again.
"""

import shutil
import sys
from pathlib import Path

import keras
import tensorflow as tf
from keras import layers

import keras_trn
from keras_trn.experiments import digits

SEED = 0
CLASSIFIER_EPOCHS = 40
RESTORER_EPOCHS = 30
L2_EPSILON = 1.0
# Fewer than a report on one defence would take: there are ten of them here.
STEPS = 30
QUERIES = 200


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
    """Makes the defences that have to be trained, by name, not yet trained."""
    protected = keras_trn.ProtectedClassifier(
        classifier, digits.make_restorer(), digits.make_gradient_map()
    )
    peers = keras_trn.peers
    return {
        "protected": protected,
        "single stream": keras_trn.ProtectedClassifier(classifier, digits.make_rival()),
        "HGD": peers.RepresentationGuidedDenoiser(classifier, digits.make_rival()),
        "APE-GAN": peers.AdversarialPerturbationElimination(classifier, digits.make_rival()),
        "adversarial training": peers.AdversariallyTrainedClassifier(classifier),
    }


def make_filters(classifier):
    """Makes the defences that need no training, by name."""
    peers = keras_trn.peers
    return {
        "JPEG": peers.JpegCompression(classifier),
        "bit depth": peers.BitDepthReduction(classifier),
        "median": peers.MedianSmoothing(classifier),
        "total variation": peers.TotalVariationMinimization(classifier),
    }


def make_attacks():
    """Makes the attacks of the report, the one with a curve first."""
    attacks = keras_trn.attacks
    epsilon = digits.EPSILON
    return [
        attacks.ProjectedGradientDescent(epsilon),
        attacks.FastGradientMethod(epsilon),
        attacks.MomentumIterativeMethod(epsilon),
        *attacks.auto_attack(epsilon, steps=STEPS, queries=QUERIES),
        attacks.CarliniWagner(L2_EPSILON, steps=STEPS, search_steps=4),
        attacks.DeepFool(L2_EPSILON, steps=10),
    ]


def train(model, folder, name, fit):
    """Trains a model, or loads it where an earlier run has trained it.

    Args:
        model: The model to train.
        folder: Where trained models are kept.
        name: Name of the file.
        fit: Function that trains the model.

    Returns:
        The trained model.
    """
    path = folder / f"{name}.keras"
    if path.exists():
        return keras.models.load_model(path)
    print(f"Training: {name}", flush=True)
    keras.utils.set_random_seed(SEED)
    fit(model)
    # A file that was only half written must not be loaded by the next run.
    model.save(folder / "unfinished.keras")
    (folder / "unfinished.keras").rename(path)
    return model


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
    keras.utils.set_random_seed(SEED)
    path = Path(path)
    folder = path.with_suffix(".unfinished")
    folder.mkdir(parents=True, exist_ok=True)
    images, _, test = digits.load_shifted_digits()

    def fit_classifier(classifier):
        digits.train_classifier(classifier, images, CLASSIFIER_EPOCHS)

    classifier = train(digits.make_classifier(), folder, "classifier", fit_classifier)
    other = train(make_transfer_classifier(), folder, "transfer classifier", fit_classifier)
    trained = {
        name: train(defence, folder, name, lambda defence: fit_defence(defence, images))
        for name, defence in make_learned_defences(classifier).items()
    }
    protected = trained.pop("protected")
    report = keras_trn.evaluate(
        protected,
        test.unbatch().batch(360),
        make_attacks(),
        threat_models=make_threat_models(other),
        peers={**make_filters(protected.classifier), **trained},
        epsilons=[fraction * digits.EPSILON for fraction in (0.25, 0.5, 1.5)],
        backup=folder / "report.jsonl",
        seed=SEED,
    )
    report.to_json(path)
    for name in ("accuracy", "quality", "pictures"):
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
