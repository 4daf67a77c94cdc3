r"""Trains the preset `trn_cifar10`, or one of SVHN, and judges it on the test images.

    python -m keras_trn.experiments.preset_color_images cifar10 results/trn_cifar10.json

Trains the classifiers where `keras_trn.experiments.classifiers_color_images` has not yet,
crafts adversarial examples of the one that is protected, trains its restorer on them and
on fresh ones, and writes the preset into the package and two reports, see
`keras_trn.experiments.preset`. Progress is kept in a folder beside the results: a run that
was interrupted goes on where it was when it is started again.
"""

import shutil
import sys
from pathlib import Path

import keras

import keras_trn
from keras_trn.experiments import classifiers_color_images
from keras_trn.experiments import color_images
from keras_trn.experiments import preset
from keras_trn.experiments.common_setting import make_optimizer
from keras_trn.experiments.half_precision import store_as_float16
from keras_trn.experiments.trained_models import load_or_train
from keras_trn.presets import FOLDER

BATCH_SIZE = 64
ROUNDS = 2
EPOCHS = 3
LEARNING_RATE = 3e-3
CLASS_NAMES = {
    "cifar10": (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    "svhn_cropped": tuple("0123456789"),
}


def train_restorer(name, classifier, folder):
    """Crafts adversarial examples and trains the restorer on them, or goes on with either."""
    ordered, _, _ = keras_trn.datasets.load(name, shuffle=False)
    attack = color_images.training_attacks()
    examples = keras_trn.cache_adversarial_examples(
        classifier,
        ordered,
        attack,
        folder / "examples",
        batch_size=BATCH_SIZE,
        rounds=ROUNDS,
        seed=preset.SEED,
    )
    return preset.train_restorer(
        color_images.protect,
        classifier,
        examples,
        EPOCHS,
        folder,
        optimizer=make_optimizer(LEARNING_RATE, examples, EPOCHS),
        attack=attack,
    )


def main(name, path):
    """Runs what is missing, and writes preset and reports."""
    path = Path(path)
    folder = path.with_suffix(".work")
    classifiers_color_images.main(name, folder)
    classifier = keras.saving.load_model(folder / "make_classifier.keras", compile=False)
    trained = folder / "trained.keras"
    load_or_train(trained, lambda: train_restorer(name, classifier, folder))
    # What is judged is what is shipped.
    shipped = folder / f"{path.stem}.keras"
    shutil.copy(trained, shipped)
    store_as_float16(shipped)
    protected = keras.saving.load_model(shipped, compile=False)
    judgement = preset.Judgement(
        color_images.EPSILON, (4 / 255, 16 / 255), CLASS_NAMES[name], oblivious_examples=10_000
    )
    _, _, test = keras_trn.datasets.load(name)
    judgement.run(protected, keras_trn.datasets.to_arrays(test), path, folder)
    shutil.copy(shipped, FOLDER)


if __name__ == "__main__":
    main(*sys.argv[1:])
