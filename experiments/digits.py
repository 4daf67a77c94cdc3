"""The setting that all experiments on the digits share."""

import keras
from keras import layers

import keras_trn
from experiments.common_setting import ESTIMATE
from experiments.common_setting import count_parameters

EPSILON = 0.2
STRENGTHS = (EPSILON / 4, 1.5 * EPSILON)


def load_shifted_digits():
    """Loads the digits, the training images shifted by up to one pixel.

    Returns:
        The pipelines for training, validation and test.
    """
    train, validation, test = keras_trn.datasets.load("digits", batch_size=64)
    shift = keras.Sequential([layers.ZeroPadding2D(1), layers.RandomCrop(8, 8)])
    shifted = train.map(lambda images, labels: (shift(images, training=True), labels))
    return shifted, validation, test


def make_classifier():
    """Makes the classifier of the quickstart, not yet trained."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu", strides=2),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(10),
        ]
    )


def train_classifier(classifier, train, epochs):
    """Trains a classifier of digits.

    Args:
        classifier: A Keras model from images to logits.
        train: Pipeline of training images.
        epochs: Number of epochs.

    Returns:
        The classifier.
    """
    classifier.compile(
        optimizer=make_optimizer(3e-3, train, epochs),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    classifier.fit(train, epochs=epochs, shuffle=False, verbose=0)
    return classifier


def make_optimizer(learning_rate, train, epochs):
    """Makes an optimizer whose learning rate falls to zero, with gradients clipped.

    Args:
        learning_rate: The learning rate at the start.
        train: Pipeline of training images.
        epochs: Number of epochs.
    """
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * len(train))
    return keras.optimizers.Adam(schedule, global_clipnorm=1.0)


def training_attacks():
    """What restorers are trained on: attacks of one step and of several, and noise."""
    return [
        keras_trn.attacks.FastGradientMethod(STRENGTHS),
        keras_trn.attacks.ProjectedGradientDescent(STRENGTHS, steps=5),
        keras_trn.attacks.RandomNoise(STRENGTHS),
    ]


def make_restorer():
    """Makes the restorer of the quickstart, not yet trained."""
    return keras_trn.TwoStreamRestorationNetwork(width=16, depth=3, block_size=1)


def make_gradient_map():
    """Makes the gradient map of the quickstart, not yet trained."""
    return keras_trn.gradient_maps.EstimatedLabel(width=16, depth=2, block_size=1, **ESTIMATE)


def make_baseline():
    """Makes the single-stream restorer that is as large as restorer and gradient map together."""
    protected = keras_trn.ProtectedClassifier(
        make_classifier(), make_restorer(), make_gradient_map()
    )
    return protected.restorer.single_stream_baseline((None, 8, 8, 1), count_parameters(protected))
