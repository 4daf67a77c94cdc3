r"""Trains the classifiers of CIFAR-10 or SVHN that are to be protected.

    python -m experiments.classifiers_color_images \
        cifar10 results/trn_cifar10.work

Trains the classifier that is protected and another one, for attacks that transfer, and
writes both into the folder, with their accuracy on the validation images. A run that was
interrupted goes on with the epoch that it had reached.

Where there are few images, such as in a part of SVHN, an epoch is short and there are more
of them, and the first classifier starts from the features of the preset for CIFAR-10.
"""

import json
import sys
from pathlib import Path

import keras

import keras_trn
from experiments import color_images
from experiments.fused_batch_normalization import FusedBatchNormalization
from experiments.trained_models import load_or_train
from keras_trn.evaluation.environment import describe_environment

SEED = 0
BATCH_SIZE = 128
# On mixed images, and on images as they are.
EPOCHS = {color_images.make_classifier: (34, 12), color_images.make_other_classifier: (12, 8)}
SMALLEST_NUMBER_OF_STEPS = 1500


def train(make, name, folder):
    """Trains a classifier, or goes on with it."""
    keras.utils.set_random_seed(SEED)
    pipeline = color_images.training_pipeline(name, BATCH_SIZE, SEED)
    has_few_images = color_images.has_few_images(pipeline, BATCH_SIZE)
    start = make()
    if has_few_images and make is color_images.make_classifier:
        color_images.take_over_features(start)

    def train_part(start, epochs, train_some, part):
        path = folder / f"{make.__name__}_{part}"
        backup = keras.callbacks.BackupAndRestore(path, double_checkpoint=True)
        epochs = color_images.enough_epochs(epochs, pipeline, SMALLEST_NUMBER_OF_STEPS)
        return in_kept_layers(
            make, start, lambda model: train_some(model, pipeline, epochs, callbacks=[backup])
        )

    epochs, refining_epochs = EPOCHS[make]
    mixed = load_or_train(
        folder / f"{make.__name__}_mixed.keras",
        lambda: train_part(start, epochs, color_images.train_classifier, "mixed"),
    )
    return train_part(mixed, refining_epochs, color_images.refine_classifier, "refined")


def in_kept_layers(make, start, train_some):
    """Trains in layers that are fast to train; what comes out has those of Keras."""
    fast = make(FusedBatchNormalization)
    fast.set_weights(start.get_weights())
    train_some(fast)
    trained = make()
    trained.set_weights(fast.get_weights())
    return trained


def accuracy(classifier, pipeline):
    """Measures the share of images that a classifier gets right."""
    images, labels = keras_trn.datasets.to_arrays(pipeline)
    return float((classifier.predict(images, verbose=0).argmax(-1) == labels).mean())


def main(name, folder):
    """Trains what is missing, and writes the accuracies."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _, validation, _ = keras_trn.datasets.load(name)
    results = {"data": name, "seed": SEED, "environment": describe_environment()}
    for make in EPOCHS:
        classifier = load_or_train(
            folder / f"{make.__name__}.keras", lambda make=make: train(make, name, folder)
        )
        results[make.__name__] = {
            "parameters": classifier.count_params(),
            "validation_accuracy": accuracy(classifier, validation),
            "validation_images": color_images.count_images(validation.unbatch()),
        }
        print(make.__name__, results[make.__name__])
    (folder / "classifiers.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "classifiers.md").write_text(to_markdown(results))


def to_markdown(results):
    """Makes a table of the classifiers."""
    lines = ["| classifier | weights | accuracy on validation images |", "| --- | ---: | ---: |"]
    names = {"make_classifier": "protected", "make_other_classifier": "for transfer"}
    for key, name in names.items():
        one = results[key]
        lines.append(f"| {name} | {one['parameters']:,} | {one['validation_accuracy']:.1%} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
