"""Trains the preset `trn_fashion_mnist`, and judges it on the test images.

`python -m experiments.preset_fashion_mnist results/trn_fashion_mnist.json`

Trains the classifier and its restorer on all training images, writes the preset into
the package, trains another classifier, for attacks that transfer, and the baselines that have
to learn, and writes three reports on all of them, see `experiments.preset`.
How strong the filters among the baselines are is chosen on validation images, with a
classifier that was trained without them.
Progress is kept in a folder beside the results: a run that was interrupted goes on where
it was when it is started again.
"""

import functools
import shutil
import sys
from pathlib import Path

import keras
import numpy as np

from experiments import baselines
from experiments import fashion_mnist
from experiments import preset
from experiments.common_setting import make_optimizer
from experiments.filter_strengths import make_filters
from experiments.trained_models import load_or_train
from keras_trn import attacks
from keras_trn.presets import CLASS_NAMES
from keras_trn.presets import FOLDER

NAME = "trn_fashion_mnist"
BATCH_SIZE = 64
CLASSIFIER_EPOCHS = 12
RESTORER_EPOCHS = 4
LEARNING_RATE = 3e-3
TEST_EVALUATION = preset.TestEvaluation(
    epsilon=fashion_mnist.EPSILON,
    epsilons=(0.05, 0.2),
    class_names=tuple(CLASS_NAMES["trn_fashion_mnist"]),
)


def train_classifier(make, train, folder):
    """Trains a classifier, or goes on with it."""
    keras.utils.set_random_seed(preset.SEED)
    backup = keras.callbacks.BackupAndRestore(folder, double_checkpoint=True)
    return fashion_mnist.train_classifier(make(), train, CLASSIFIER_EPOCHS, [backup])


def train_restorer(classifier, train, folder):
    """Trains the restorer, or goes on with it."""
    return preset.train_defence(
        fashion_mnist.protect,
        classifier,
        train,
        RESTORER_EPOCHS,
        folder / "restorer",
        optimizer=make_optimizer(LEARNING_RATE, train, RESTORER_EPOCHS),
        attack=fashion_mnist.training_attacks(),
    )


def train_baselines(protected, train, folder):
    """Trains the baselines that have to learn, or goes on with it."""
    restorers = baselines.train_restorers(
        protected,
        train,
        dict.fromkeys(baselines.LEARNED_RESTORERS, RESTORER_EPOCHS),
        lambda epochs: make_optimizer(LEARNING_RATE, train, epochs),
        fashion_mnist.training_attacks(),
        folder,
    )
    adversarially_trained = baselines.train_adversarially(
        protected.classifier,
        fashion_mnist.mirrored(train),
        CLASSIFIER_EPOCHS,
        make_optimizer(LEARNING_RATE, train, CLASSIFIER_EPOCHS),
        attacks.ProjectedGradientDescent(fashion_mnist.EPSILON, steps=7),
        folder,
    )
    return {**restorers, "adversarial training": adversarially_trained}


def main(path):
    """Runs what is missing, and writes preset and reports."""
    path = Path(path)
    folder = path.with_suffix(".work")
    folder.mkdir(parents=True, exist_ok=True)
    train, validation, test = fashion_mnist.load_arrays()
    everything = [np.concatenate(part) for part in zip(train, validation, strict=True)]
    without_validation, train = (
        fashion_mnist.training_pipeline(*part, BATCH_SIZE, preset.SEED)
        for part in (train, everything)
    )

    def classifier_of(make, train, name):
        return load_or_train(
            folder / f"{name}.keras",
            functools.partial(train_classifier, make, train, folder / name),
        )

    classifier = classifier_of(fashion_mnist.make_classifier, train, "classifier")
    other = classifier_of(fashion_mnist.make_other_classifier, train, "other classifier")
    held_out = classifier_of(
        fashion_mnist.make_classifier, without_validation, "classifier without validation images"
    )
    protected = load_or_train(
        folder / f"{NAME}.keras", lambda: train_restorer(classifier, train, folder)
    )
    others = {
        **make_filters(
            protected.classifier,
            TEST_EVALUATION.choose_strengths(held_out, validation, path, folder),
        ),
        **train_baselines(protected, train, folder),
    }
    TEST_EVALUATION.run(protected, other, others, test, path, folder)
    shutil.copy(folder / f"{NAME}.keras", FOLDER)


if __name__ == "__main__":
    main(sys.argv[1])
