r"""Trains the preset `trn_cifar10`, or its like for SVHN, and judges it on the test images.

    python -m experiments.preset_color_images cifar10 results/trn_cifar10.json

Trains the classifiers where `experiments.classifiers_color_images` has not yet,
crafts adversarial examples of the one that is protected, trains its restorer and those of
the baselines on them and on fresh ones, and another classifier adversarially, and writes three
reports, see `experiments.preset`. The protected classifier is kept in a folder beside the
results, like the progress: a run that was interrupted goes on where it was when it is
started again. That of CIFAR-10 is written into the package, too.

Where there are few images, such as in a part of SVHN, the restorer starts from the preset
for CIFAR-10.
"""

import shutil
import sys
from pathlib import Path

import keras

import keras_trn
from experiments import baselines
from experiments import classifiers_color_images
from experiments import color_images
from experiments import preset
from experiments.common_setting import make_optimizer
from experiments.filter_strengths import make_filters
from experiments.half_precision import store_as_float16
from experiments.trained_models import load_or_train
from keras_trn import presets
from keras_trn.presets import FOLDER

BATCH_SIZE = 64
ROUNDS = 1
# A first restoration costs a third of the passes, so it learns by itself for a while.
FIRST_EPOCHS = 12
EPOCHS = 14
# The single stream shows what the second one is worth, so it gets all the epochs of both.
BASELINE_EPOCHS = {
    baselines.SINGLE_STREAM: FIRST_EPOCHS + EPOCHS,
    baselines.HGD: EPOCHS,
    baselines.APE_GAN: EPOCHS,
}
LEARNING_RATE = 3e-3
# An epsilon of 8/255 leaves a third of the pixel loss that one of 0.1 does.
PIXEL_LOSS_WEIGHT = 30.0
# Of squared differences, as APE-GAN has them, it leaves a tenth.
BASELINE_LOSSES = {
    baselines.SINGLE_STREAM: {"pixel_loss_weight": PIXEL_LOSS_WEIGHT},
    baselines.APE_GAN: {"pixel_loss_weight": 100.0},
}
ADVERSARIAL_EPOCHS = 12
SMALLEST_NUMBER_OF_STEPS = 600
CLASS_NAMES = {
    "cifar10": tuple(presets.CLASS_NAMES["trn_cifar10"]),
    "svhn_cropped": tuple("0123456789"),
}


def cache_examples(name, classifier, folder):
    """Crafts adversarial examples of the training images, or goes on with it."""
    ordered, _, _ = keras_trn.datasets.load(name, shuffle=False)
    return keras_trn.cache_adversarial_examples(
        classifier,
        ordered,
        color_images.training_attacks(),
        folder / "examples",
        batch_size=BATCH_SIZE,
        rounds=ROUNDS,
        seed=preset.SEED,
    )


def train_restorer(classifier, examples, folder):
    """Trains the restorer on these examples and on fresh ones, or goes on with it."""
    has_few_images = color_images.has_few_images(examples, BATCH_SIZE)

    def train_some(make, epochs, part, **compile_arguments):
        epochs = color_images.enough_epochs(epochs, examples, SMALLEST_NUMBER_OF_STEPS)
        return preset.train_defence(
            make,
            classifier,
            examples,
            epochs,
            folder / part,
            optimizer=make_optimizer(LEARNING_RATE, examples, epochs),
            attack=color_images.fresh_attacks(),
            pixel_loss_weight=PIXEL_LOSS_WEIGHT,
            **compile_arguments,
        )

    def protect_with_first_restoration(classifier):
        first_restorer = color_images.protect(classifier).gradient_map.first_restorer
        return keras_trn.ProtectedClassifier(classifier, first_restorer)

    def protect(classifier):
        protected = color_images.protect(classifier)
        if has_few_images:
            return color_images.take_over_restorer(protected)
        protected.gradient_map.first_restorer.set_weights(first.restorer.get_weights())
        return protected

    if not has_few_images:
        first = load_or_train(
            folder / "first_restorer.keras",
            lambda: train_some(
                protect_with_first_restoration, FIRST_EPOCHS, "first_restorer", fresh_share=0.0
            ),
        )
    return train_some(protect, EPOCHS, "restorer")


def train_baselines(name, protected, examples, folder):
    """Trains the baselines that have to learn, or goes on with it."""
    restorers = baselines.train_restorers(
        protected,
        examples,
        {
            name: color_images.enough_epochs(epochs, examples, SMALLEST_NUMBER_OF_STEPS)
            for name, epochs in BASELINE_EPOCHS.items()
        },
        lambda epochs: make_optimizer(LEARNING_RATE, examples, epochs),
        color_images.fresh_attacks(),
        folder,
        BASELINE_LOSSES,
    )
    pipeline = color_images.training_pipeline(name, BATCH_SIZE, preset.SEED)
    epochs = color_images.enough_epochs(ADVERSARIAL_EPOCHS, pipeline, SMALLEST_NUMBER_OF_STEPS)
    adversarially_trained = baselines.train_adversarially(
        protected.classifier,
        pipeline,
        epochs,
        make_optimizer(LEARNING_RATE, pipeline, epochs),
        color_images.fast_attack(),
        folder,
    )
    return {**restorers, "adversarial training": adversarially_trained}


def main(name, path):
    """Runs what is missing, and writes preset and reports."""
    path = Path(path)
    folder = path.with_suffix(".work")
    classifiers_color_images.main(name, folder)
    for suffix in (".json", ".md"):
        shutil.copy(
            folder / f"classifiers{suffix}", path.with_name(f"{path.stem}_classifiers{suffix}")
        )
    classifier, other = (
        keras.saving.load_model(folder / f"{make.__name__}.keras", compile=False)
        for make in classifiers_color_images.EPOCHS
    )
    examples = cache_examples(name, classifier, folder)
    trained = folder / "restorer.keras"
    load_or_train(trained, lambda: train_restorer(classifier, examples, folder))
    # What is judged is what is shipped.
    shipped = folder / "shipped.keras"
    shutil.copy(trained, shipped)
    store_as_float16(shipped)
    protected = keras.saving.load_model(shipped, compile=False)
    _, validation, test = keras_trn.datasets.load(name)
    validation, test = map(keras_trn.datasets.to_arrays, (validation, test))
    judgement = preset.TestEvaluation(
        color_images.EPSILON, (4 / 255, 16 / 255), CLASS_NAMES[name], oblivious_examples=1000
    )
    strengths = judgement.choose_strengths(protected.classifier, validation, path, folder)
    others = {
        **make_filters(protected.classifier, strengths),
        **train_baselines(name, protected, examples, folder),
    }
    judgement.run(protected, other, others, test, path, folder)
    if name == "cifar10":
        shutil.copy(shipped, FOLDER / f"{color_images.PRESET}.keras")


if __name__ == "__main__":
    main(*sys.argv[1:])
