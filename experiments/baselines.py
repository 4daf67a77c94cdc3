"""The baselines that a defence is measured beside, all of one classifier."""

import functools

import keras_trn
from experiments import preset
from experiments.common_setting import count_parameters
from experiments.trained_models import load_or_train

LEARNED_RESTORERS = SINGLE_STREAM, HGD, APE_GAN = "single stream", "HGD", "APE-GAN"


def learned_restorers(make_baseline):
    """How to make the learned restorers that see no gradient, by name.

    Args:
        make_baseline: Function that makes the single-stream restorer of each.

    Returns:
        A dictionary of functions from a classifier to a Keras model.
    """
    baselines = keras_trn.baselines
    return {
        SINGLE_STREAM: lambda classifier: keras_trn.ProtectedClassifier(
            classifier, make_baseline()
        ),
        HGD: lambda classifier: baselines.RepresentationGuidedDenoiser(classifier, make_baseline()),
        APE_GAN: lambda classifier: baselines.AdversarialPerturbationElimination(
            classifier, make_baseline()
        ),
    }


def train_restorers(protected, train, epochs, make_optimizer, attack, folder, losses=None):
    """Trains learned restorers as the one was trained that they are measured beside.

    Args:
        protected: The protected classifier. Each of the others has as many parameters as
            its restorer and gradient map together.
        train: Pipeline of training images.
        epochs: Number of epochs of each, by name.
        make_optimizer: Function from a number of epochs to an optimizer.
        attack: The attacks to train against.
        folder: Where trained models and the progress are kept.
        losses: What the loss of some of them is, by name: a dictionary of arguments of
            `compile`.

    Returns:
        A dictionary of Keras models.
    """

    def make_baseline():
        return protected.restorer.single_stream_baseline(
            (None, *protected.image_shape), count_parameters(protected)
        )

    def train_one(name, make):
        return preset.train_defence(
            make,
            protected.classifier,
            train,
            epochs[name],
            folder / name,
            optimizer=make_optimizer(epochs[name]),
            attack=attack,
            **(losses or {}).get(name, {}),
        )

    return {
        name: load_or_train(folder / f"{name}.keras", functools.partial(train_one, name, make))
        for name, make in learned_restorers(make_baseline).items()
    }


def train_adversarially(classifier, train, epochs, optimizer, attack, folder):
    """Trains a new classifier of the same architecture on attacks against itself.

    Args:
        classifier: A classifier, of which only the architecture is taken.
        train: Pipeline of training images.
        epochs: Number of epochs.
        optimizer: A Keras optimizer.
        attack: The attack to train against.
        folder: Where the trained model and the progress are kept.

    Returns:
        A Keras model.
    """

    def train_one():
        return preset.train_defence(
            keras_trn.baselines.AdversariallyTrainedClassifier,
            classifier,
            train,
            epochs,
            folder / "adversarial training",
            optimizer=optimizer,
            attack=attack,
        )

    return load_or_train(folder / "adversarial training.keras", train_one)
