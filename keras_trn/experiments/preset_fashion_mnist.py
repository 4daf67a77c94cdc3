"""Trains the preset `trn_fashion_mnist`, and judges it on the test images.

`python -m keras_trn.experiments.preset_fashion_mnist results/trn_fashion_mnist.json`

Trains the classifier and its restorer on all training images, writes the preset into
the package, and two reports: on many test images for an attacker who does not know of
the restorer, and on fewer of them, beside it under the name of `..._worst.json`, for
attackers who do. Progress is kept in a folder beside the results: a run that was
interrupted goes on where it was when it is started again.
"""

import shutil
import sys
from pathlib import Path

import keras
import numpy as np

from keras_trn.experiments import common_setting
from keras_trn.experiments import fashion_mnist
from keras_trn.experiments import preset
from keras_trn.experiments.trained_models import load_or_train
from keras_trn.presets import FOLDER

NAME = "trn_fashion_mnist"
BATCH_SIZE = 64
CLASSIFIER_EPOCHS = 12
RESTORER_EPOCHS = 4
JUDGEMENT = preset.Judgement(
    epsilon=fashion_mnist.EPSILON,
    epsilons=(0.05, 0.2),
    class_names=(
        "T-shirt",
        "trousers",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
)


def train_classifier(train, folder):
    """Trains the classifier, or goes on with it."""
    keras.utils.set_random_seed(preset.SEED)
    backup = keras.callbacks.BackupAndRestore(folder / "classifier", double_checkpoint=True)
    return fashion_mnist.train_classifier(
        fashion_mnist.make_classifier(), train, CLASSIFIER_EPOCHS, [backup]
    )


def train_restorer(classifier, train, folder):
    """Trains the restorer, or goes on with it."""
    return preset.train_restorer(
        fashion_mnist.protect,
        classifier,
        train,
        RESTORER_EPOCHS,
        folder,
        optimizer=common_setting.make_optimizer(3e-3, train, RESTORER_EPOCHS),
        attack=fashion_mnist.training_attacks(),
    )


def main(path):
    """Runs what is missing, and writes preset and reports."""
    path = Path(path)
    folder = path.with_suffix(".work")
    folder.mkdir(parents=True, exist_ok=True)
    train, validation, test = fashion_mnist.load_arrays()
    everything = [np.concatenate(part) for part in zip(train, validation, strict=True)]
    train = fashion_mnist.training_pipeline(*everything, BATCH_SIZE, preset.SEED)
    classifier = load_or_train(folder / "classifier.keras", lambda: train_classifier(train, folder))
    protected = load_or_train(
        folder / f"{NAME}.keras", lambda: train_restorer(classifier, train, folder)
    )
    shutil.copy(folder / f"{NAME}.keras", FOLDER)
    JUDGEMENT.run(protected, test, path, folder)


if __name__ == "__main__":
    main(sys.argv[1])
