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

import keras_trn
from keras_trn import attacks
from keras_trn import threat_models
from keras_trn.experiments import fashion_mnist
from keras_trn.experiments.trained_models import load_or_train
from keras_trn.logits import predicted_labels
from keras_trn.presets import FOLDER
from keras_trn.visualization import plot_restorations

NAME = "trn_fashion_mnist"
SEED = 0
BATCH_SIZE = 64
CLASSIFIER_EPOCHS = 12
RESTORER_EPOCHS = 4
OBLIVIOUS_EXAMPLES = 2000
EPSILONS = (0.05, 0.2)
WORST_EXAMPLES = 200
CHECK_EXAMPLES = 30
CLASS_NAMES = (
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
)


def train_classifier(train, folder):
    """Trains the classifier, or goes on with it."""
    keras.utils.set_random_seed(SEED)
    backup = keras.callbacks.BackupAndRestore(folder / "classifier", double_checkpoint=True)
    return fashion_mnist.train_classifier(
        fashion_mnist.make_classifier(), train, CLASSIFIER_EPOCHS, [backup]
    )


def train_restorer(classifier, train, folder):
    """Trains the restorer, or goes on with it."""
    keras.utils.set_random_seed(SEED)
    protected = fashion_mnist.protect(classifier)
    protected.compile(
        optimizer=fashion_mnist.make_optimizer(3e-3, train, RESTORER_EPOCHS),
        attack=fashion_mnist.training_attacks(),
    )
    backup = keras.callbacks.BackupAndRestore(folder / "restorer", double_checkpoint=True)
    protected.fit(train, epochs=RESTORER_EPOCHS, callbacks=[backup], verbose=2)
    # A copy that was never compiled is saved without the optimizer, twice as large as the model.
    preset = fashion_mnist.protect(classifier)
    preset.set_weights(protected.get_weights())
    return preset


def judge(protected, test, path, folder):
    """Writes the two reports, and a picture."""
    epsilon = fashion_mnist.EPSILON
    descent = attacks.ProjectedGradientDescent(epsilon)
    linf = [
        descent,
        attacks.FastGradientMethod(epsilon),
        attacks.BasicIterativeMethod(epsilon),
        attacks.MomentumIterativeMethod(epsilon),
    ]
    oblivious = [threat_models.Oblivious(), threat_models.Oblivious(labels="predicted")]
    keras_trn.evaluate(
        protected,
        fashion_mnist.evaluation_pipeline(*test, OBLIVIOUS_EXAMPLES, 500),
        linf,
        oblivious,
        epsilons=EPSILONS,
        check_examples=CHECK_EXAMPLES,
        backup=folder / "report.jsonl",
        seed=SEED,
    ).to_json(path)
    keras_trn.evaluate(
        protected,
        fashion_mnist.evaluation_pipeline(*test, WORST_EXAMPLES, 250),
        [descent, attacks.Square(epsilon, queries=200)],
        [*oblivious, "bpda", "whitebox_stopgrad", "whitebox_full", "blackbox"],
        check_examples=CHECK_EXAMPLES,
        backup=folder / "worst.jsonl",
        seed=SEED,
    ).to_json(path.with_name(f"{path.stem}_worst.json"))
    images, labels = (part[:WORST_EXAMPLES] for part in test)
    # What attacks and restorations do shows on images that the classifier gets right.
    is_right = predicted_labels(protected.classifier, images).numpy() == labels
    images, labels = (part[is_right][:5] for part in (images, labels))
    figure = plot_restorations(protected, images, labels, descent.with_seed(SEED), CLASS_NAMES)
    figure.savefig(path.with_suffix(".png"), dpi=110)


def main(path):
    """Runs what is missing, and writes preset and reports."""
    path = Path(path)
    folder = path.with_suffix(".work")
    folder.mkdir(parents=True, exist_ok=True)
    train, validation, test = fashion_mnist.load_arrays()
    everything = [np.concatenate(part) for part in zip(train, validation, strict=True)]
    train = fashion_mnist.training_pipeline(*everything, BATCH_SIZE, SEED)
    classifier = load_or_train(folder / "classifier.keras", lambda: train_classifier(train, folder))
    protected = load_or_train(
        folder / f"{NAME}.keras", lambda: train_restorer(classifier, train, folder)
    )
    shutil.copy(folder / f"{NAME}.keras", FOLDER)
    judge(protected, test, path, folder)


if __name__ == "__main__":
    main(sys.argv[1])
