"""The peers that a defence is measured beside, all of one classifier."""

import functools

import keras_trn
from keras_trn.experiments import preset
from keras_trn.experiments.common_setting import count_parameters
from keras_trn.experiments.trained_models import load_or_train

SINGLE_STREAM = "single stream"


def make_filters(classifier):
    """Makes the defences that need no training, by name.

    Args:
        classifier: A trained classifier.

    Returns:
        A dictionary of Keras models.
    """
    peers = keras_trn.peers
    return {
        "JPEG": peers.JpegCompression(classifier),
        "bit depth": peers.BitDepthReduction(classifier),
        "median": peers.MedianSmoothing(classifier),
        "total variation": peers.TotalVariationMinimization(classifier),
    }


def learned_restorers(make_peer):
    """How to make the learned restorers that see no gradient, by name.

    Args:
        make_peer: Function that makes the single-stream restorer of each.

    Returns:
        A dictionary of functions from a classifier to a Keras model.
    """
    peers = keras_trn.peers
    return {
        SINGLE_STREAM: lambda classifier: keras_trn.ProtectedClassifier(classifier, make_peer()),
        "HGD": lambda classifier: peers.RepresentationGuidedDenoiser(classifier, make_peer()),
        "APE-GAN": lambda classifier: peers.AdversarialPerturbationElimination(
            classifier, make_peer()
        ),
    }


def train_restorers(
    protected, train, epochs, make_optimizer, attack, folder, pixel_loss_weight=10.0
):
    """Trains learned restorers as the one was trained that they are measured beside.

    Args:
        protected: The protected classifier. Each of the others has as many parameters as
            its restorer and gradient map together.
        train: Pipeline of training images.
        epochs: Number of epochs.
        make_optimizer: Function that makes an optimizer.
        attack: The attacks to train against.
        folder: Where trained models and the progress are kept.
        pixel_loss_weight: That of the restorer; the single stream has the same loss, the
            others have their own.

    Returns:
        A dictionary of Keras models.
    """

    def make_peer():
        return protected.restorer.single_stream_peer(
            (None, *protected.image_shape), count_parameters(protected)
        )

    def train_one(name, make):
        loss = {"pixel_loss_weight": pixel_loss_weight} if name == SINGLE_STREAM else {}
        return preset.train_defence(
            make,
            protected.classifier,
            train,
            epochs,
            folder / name,
            optimizer=make_optimizer(),
            attack=attack,
            **loss,
        )

    return {
        name: load_or_train(folder / f"{name}.keras", functools.partial(train_one, name, make))
        for name, make in learned_restorers(make_peer).items()
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
            keras_trn.peers.AdversariallyTrainedClassifier,
            classifier,
            train,
            epochs,
            folder / "adversarial training",
            optimizer=optimizer,
            attack=attack,
        )

    return load_or_train(folder / "adversarial training.keras", train_one)
